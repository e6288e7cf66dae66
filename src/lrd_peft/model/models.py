"""TeacherModel and StudentModel: the two models that users meet. Know each other's widths, not each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lrd_peft.checksums import folder_damages
from lrd_peft.data.collate import left_pad
from lrd_peft.data.encoding import MARKER
from lrd_peft.errors import UserError
from lrd_peft.model.facts import context_length, fingerprint_tokenizer, fingerprint_weights
from lrd_peft.model.generate import Generated, generate
from lrd_peft.model.saving import attach_weights, projector_shapes, read_description
from lrd_peft.model.thinking import unwrap
from lrd_peft.model.thinking_model import ThinkingModel, ThinkingOptions, ThinkingOutput


@dataclass(frozen=True, slots=True)
class Solution:
    """An answered question.

    Attributes:
        text: everything that the model wrote, the answer marker included.
        answer: what stands after the marker; everything if there is none.
        thoughts: for each thought the tokens that the LM head reads in it, most likely first.
    """

    question: str
    text: str
    answer: str
    thoughts: tuple[tuple[str, ...], ...]
    num_tokens: int
    num_passes: int


def write(
    model: ThinkingModel,
    questions: Sequence[str],
    *,
    thinking: bool,
    max_new_tokens: int,
    force_marker: bool = True,
    top_tokens: int = 0,
) -> list[Generated]:
    """Let a model answer a batch of questions, in thoughts or in written steps.

    With thoughts the answer marker is forced after the last slot, unless `force_marker` is off (in the middle of the
    curriculum the model still writes some steps); without, or with a model that has no slots, the model writes its
    steps and the marker. A question that
    leaves no room in the model's context gets nothing: no tokens, no passes.
    """
    prompts = [model.encoder.prompt(question) for question in questions]
    forced: tuple[int, ...] = ()
    thinking = thinking and model.options.num_thoughts > 0
    if thinking:
        marker = model.encoder.marker if force_marker else ()
        pairs = [model.around_thoughts(prompt, marker) for prompt in prompts]
        prompts, forced = [pair[0] for pair in pairs], pairs[0][1]
    eos = model.tokenizer.eos_token_id
    pad = model.tokenizer.pad_token_id
    assert isinstance(eos, int) and isinstance(pad, int)
    num_thoughts = model.options.num_thoughts if thinking else 0
    context = context_length(unwrap(model.lm).config)
    fitting = [
        i for i, prompt in enumerate(prompts) if context is None or len(prompt) + num_thoughts + len(forced) <= context
    ]
    nothing = Generated((), (), num_tokens=0, num_thoughts=0, num_passes=0, finished=False)
    rows = [nothing] * len(prompts)
    if not fitting:
        return rows
    ids, mask = left_pad([prompts[i] for i in fitting], pad_id=pad)
    written = generate(
        model.lm,
        ids.to(model.device),
        mask.to(model.device),
        num_thoughts=num_thoughts,
        forced=forced,
        max_new_tokens=max_new_tokens,
        eos_id=eos,
        projection=model.projection,
        jacobi_passes=model.options.jacobi_passes,
        top_tokens=top_tokens,
        context=context,
    )
    for i, row in zip(fitting, written, strict=True):
        rows[i] = row
    return rows


def _load_folder(cls: type[Any], folder: Path, *, trainable: bool = False, **load_options: Any) -> Any:
    """Load what `save_model` wrote; `trainable` leaves its adapters open for more training."""
    description = read_description(folder)
    if damages := folder_damages(folder):
        raise UserError(f"the model in {folder.parent} is damaged: {damages[0]}; make it again")
    try:
        options = ThinkingOptions(**description["options"])
    except TypeError as error:
        raise UserError(f"the options in {folder} are not of this version: {error}") from error
    base_options = {**description["load_options"], **load_options}
    if description["adapter"]:
        model = cls(description["base"], options=options, **base_options)
    else:
        model = cls(str(folder), options=options, **load_options)
        # An adapter that is trained on it must find these weights again, not those that they began as.
        model.base = str(folder.resolve())
        model.name, model.load_options = description["base"], description["load_options"]
    model.description = description
    if isinstance(model, StudentModel):
        for name, (rows, columns) in projector_shapes(folder).items():
            if name == "thought_adapter":
                model.attach_projectors((), teacher_hidden_size=columns, thoughts=True)
            elif name.isdecimal():  # what else a file may hold is named when it is loaded
                model.attach_projectors([int(name)], teacher_hidden_size=rows)
    attach_weights(model, folder, trainable=trainable)
    return model.eval()


class TeacherModel(ThinkingModel):
    """The model that learns to think first, and whose hidden states are distilled.

    Example:
        >>> teacher = TeacherModel("tiny-teacher")
    """

    def __init__(
        self,
        model: str | PreTrainedModel,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        options: ThinkingOptions | None = None,
        **load_options: Any,
    ) -> None:
        super().__init__(model, tokenizer=tokenizer, options=options, **load_options)

    @classmethod
    def load(cls, folder: str | Path, *, trainable: bool = False, **load_options: Any) -> TeacherModel:
        """Load a saved teacher, in evaluation mode; `trainable` leaves adapters open for more training."""
        return _load_folder(cls, Path(folder), trainable=trainable, **load_options)

    def fingerprints(self) -> dict[str, str]:
        """Return what a store is bound to: hashes of the weights (adapters and projection too) and the tokenizer."""
        return {
            "teacher": fingerprint_weights(self),
            "tokenizer": fingerprint_tokenizer(self.tokenizer),
        }


class StudentModel(ThinkingModel):
    """The smaller model; give it LoRA adapters with `create_lora_model`.

    It owns the projectors that distillation needs when its width is not the teacher's. They are trained and saved
    with it, and never needed to answer.

    Example:
        >>> student = create_lora_model(StudentModel("tiny-student"), r=16, lora_alpha=32)
    """

    projectors: nn.ModuleDict
    thought_adapter: nn.Module | None

    def __init__(
        self,
        model: str | PreTrainedModel,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        options: ThinkingOptions | None = None,
        **load_options: Any,
    ) -> None:
        super().__init__(model, tokenizer=tokenizer, options=options, **load_options)
        self.projectors = nn.ModuleDict()
        self.thought_adapter = None
        self.description: Mapping[str, Any] = {}

    def attach_projectors(
        self, teacher_layers: Sequence[int], *, teacher_hidden_size: int, thoughts: bool = False
    ) -> None:
        """Add a linear map from the student's width to the teacher's for each distilled layer, if they differ.

        Args:
            teacher_layers: the teacher's layers, which name the projectors.
            teacher_hidden_size: its width.
            thoughts: also add the map from the teacher's thoughts to the student's inputs.
        """
        if teacher_hidden_size == self.hidden_size:
            return
        for layer in teacher_layers:
            if str(layer) not in self.projectors:
                self.projectors[str(layer)] = nn.Linear(self.hidden_size, teacher_hidden_size).to(self.device)
        if thoughts and self.thought_adapter is None:
            self.thought_adapter = nn.Linear(teacher_hidden_size, self.hidden_size).to(self.device)

    def project(self, layer: int, states: Tensor) -> Tensor:
        """Map the student's states [B, P, H_S] into the space of the teacher's `layer`: [B, P, H_T]."""
        return self.projectors[str(layer)](states) if str(layer) in self.projectors else states

    def forward(
        self, *, layer_map: Mapping[int, int] | None = None, teacher_thoughts: Tensor | None = None, **batch: Any
    ) -> ThinkingOutput:
        """Think through a batch, as `ThinkingModel.forward`.

        All parameters of a training step are used in here: wrappers such as DDP and FSDP see nothing else.

        Args:
            layer_map: teacher layer -> student layer; the states are then those to compare with the teacher's, by the
                teacher's layers and in its width.
            teacher_thoughts: [B, N, H_T] to fill the slots with, instead of the student's own thoughts.
        """
        if layer_map is None:
            return super().forward(**batch)
        forced = teacher_thoughts
        if forced is not None and self.thought_adapter is not None:
            forced = self.thought_adapter(forced)
        output = super().forward(**batch, layers=sorted(set(layer_map.values())), forced=forced)
        output.states = {layer: self.project(layer, output.states[own]) for layer, own in layer_map.items()}
        return output

    @classmethod
    def load(cls, folder: str | Path, **load_options: Any) -> StudentModel:
        """Load a saved student, ready for evaluation."""
        return _load_folder(cls, Path(folder), **load_options)

    @classmethod
    def from_run(cls, run: str | Path, **load_options: Any) -> StudentModel:
        """Load the student of a run folder.

        Raises:
            UserError: if the folder has no finished student.
        """
        folder = Path(run) / "student"
        if not folder.is_dir():
            raise UserError(f"{run} has no finished student (no folder {folder}); run the distill phase first")
        return cls.load(folder, **load_options)

    @torch.no_grad()
    def solve(self, questions: Sequence[str], *, max_new_tokens: int = 256, top_tokens: int = 3) -> list[Solution]:
        """Answer questions, in thoughts if the student thinks, and show what each thought decodes to."""
        if isinstance(questions, str):
            raise UserError('solve takes a list of questions; put this one into brackets: solve(["..."])')
        if not questions:
            return []
        was_training = self.training
        self.eval()
        rows = write(self, questions, thinking=True, max_new_tokens=max_new_tokens, top_tokens=top_tokens)
        self.train(was_training)
        solutions = []
        for question, row in zip(questions, rows, strict=True):
            if row.num_passes == 0:
                raise UserError(
                    f"the question that begins {question[:60]!r} does not fit into the model's context of "
                    f"{context_length(unwrap(self.lm).config)} tokens beside its thoughts; shorten it"
                )
            text = str(self.tokenizer.decode(list(row.tokens), skip_special_tokens=True))
            if self.options.num_thoughts > 0:
                text = MARKER + text
            thoughts = tuple(
                tuple(str(self.tokenizer.decode([token])) for token in slot) for slot in row.thought_tokens
            )
            solutions.append(
                Solution(
                    question=question,
                    text=text,
                    answer=text.rpartition(MARKER.strip())[2].strip(),
                    thoughts=thoughts,
                    num_tokens=row.num_tokens,
                    num_passes=row.num_passes,
                )
            )
        return solutions
