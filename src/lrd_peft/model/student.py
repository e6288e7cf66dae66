"""The student: the smaller model, with the projectors that distillation needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lrd_peft.model.core import ThinkingOutput
from lrd_peft.model.options import ThinkingOptions
from lrd_peft.model.thinking_model import ThinkingModel


class StudentModel(ThinkingModel):
    """The smaller model. `create_lora_model` adds LoRA adapters to it.

    It owns the projectors to the teacher's width. They are trained and saved with the student and are not needed to
    answer. Arguments and attributes are those of `ThinkingModel`.

    Attributes:
        projectors: Layer of the teacher -> linear map from the student's width to the teacher's.
        thought_adapter: Linear map from the teacher's thoughts to the student's inputs; None without one.

    Example:
        >>> from lrd_peft import StudentModel, create_lora_model
        >>> student = create_lora_model(StudentModel("tiny-student"), r=16, lora_alpha=32)
        >>> student.has_adapters
        True
    """

    _RUN_PARTS: ClassVar[tuple[str, ...]] = ("student",)

    projectors: nn.ModuleDict
    thought_adapter: nn.Module | None

    def __init__(
        self,
        model: str | PreTrainedModel,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        options: ThinkingOptions | None = None,
        fuse_activations: bool | None = None,
        **load_options: Any,
    ) -> None:
        super().__init__(model, tokenizer=tokenizer, options=options, fuse_activations=fuse_activations, **load_options)
        self.projectors = nn.ModuleDict()
        self.thought_adapter = None

    def attach_projectors(
        self, teacher_layers: Sequence[int], *, teacher_hidden_size: int, thoughts: bool = False
    ) -> None:
        """Add a linear map to the teacher's width for each distilled layer. Does nothing if the widths are equal.

        Args:
            teacher_layers: Layers of the teacher, which name the projectors.
            teacher_hidden_size: Width of the teacher.
            thoughts: Also add the map from the teacher's thoughts to the student's inputs.
        """
        if teacher_hidden_size == self.hidden_size:
            return
        for layer in teacher_layers:
            if str(layer) not in self.projectors:
                self.projectors[str(layer)] = nn.Linear(self.hidden_size, teacher_hidden_size).to(self.device)
        if thoughts and self.thought_adapter is None:
            self.thought_adapter = nn.Linear(teacher_hidden_size, self.hidden_size).to(self.device)

    def project(
        self, layer: int, states: Float[Tensor, "*positions hidden"]
    ) -> Float[Tensor, "*positions teacher_hidden"]:
        """Map the student's states into the space of the teacher's layer."""
        return self.projectors[str(layer)](states) if str(layer) in self.projectors else states

    def forward(
        self,
        *,
        layer_map: Mapping[int, int] | None = None,
        teacher_thoughts: Float[Tensor, "batch thought teacher_hidden"] | None = None,
        refine_passes: int = 0,
        **batch: Any,
    ) -> ThinkingOutput:
        """Think through a batch, as `ThinkingCore.forward`.

        Every parameter of a training step is used in here, because DDP and FSDP wrap this call only.

        Args:
            layer_map: Layer of the teacher -> layer of the student. The returned states are then keyed by the
                teacher's layers and have the teacher's width.
            teacher_thoughts: Inputs to use at the slots instead of the student's own thoughts, or
            refine_passes: from which the student refines its own in parallel, in this many passes.
            batch: Arguments of `ThinkingCore.forward`.
        """
        if layer_map is None:
            return super().forward(**batch, refine_passes=max(1, refine_passes))
        thoughts = teacher_thoughts
        if thoughts is not None and self.thought_adapter is not None:
            thoughts = self.thought_adapter(thoughts)
        slots: dict[str, Any] = {"forced": thoughts}
        if refine_passes > 0:
            slots = {"start": thoughts, "refine_passes": refine_passes}
        output = super().forward(**batch, layers=sorted(set(layer_map.values())), **slots)
        output.states = {layer: self.project(layer, output.states[own]) for layer, own in layer_map.items()}
        return output

    def _usable_extra(self, extra: dict[str, Tensor]) -> dict[str, Tensor]:
        """Attach the projectors that the tensors belong to, and return all of them."""
        for name, value in extra.items():
            if value.ndim != 2:
                continue
            rows, columns = value.shape
            parts = name.split(".")
            if parts[0] == "thought_adapter":
                self.attach_projectors((), teacher_hidden_size=columns, thoughts=True)
            elif parts[0] == "projectors" and parts[1:2] and parts[1].isdecimal():
                self.attach_projectors([int(parts[1])], teacher_hidden_size=rows)
        return extra
