"""The thinking model as users meet it: loading, saving, publishing, answering."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import Self

from lrd_peft.model.card import make_card
from lrd_peft.model.core import ThinkingCore
from lrd_peft.model.generation import Solution, solve_batch
from lrd_peft.model.loading.hub import upload_folder
from lrd_peft.model.loading.saved import FoundModel, find_saved_model
from lrd_peft.model.options import ThinkingOptions
from lrd_peft.model.prompts import prompt_embeds
from lrd_peft.model.serialization import (
    SavedModel,
    check_model_folder,
    load_adapter,
    load_extra,
    read_description,
    write_model_folder,
)
from lrd_peft.runtime.errors import UserError

# Tensors that only distillation uses; a model that is not a student ignores them when it loads a student's folder.
_STUDENT_ONLY = ("projectors.", "thought_adapter.")


class ThinkingModel(ThinkingCore):
    """A causal LM with a thinking loop.

    Args:
        model: Name of a base model (see `load_lm`), or a transformers model.
        tokenizer: Tokenizer of a model object, with a pad token. A named model brings its own.
        options: How the model thinks.
        fuse_activations: Replace GPT-2's GELU by an equal, faster module. By default this happens to models loaded by
            name and leaves model objects unchanged.
        load_options: For a named model, keyword arguments of `load_lm`: device, dtype, revision, trust_remote_code,
            quantization, keep_blocks, teacher, attn_implementation.

    Attributes:
        name: Name of the model.
        source: Where the weights came from, in words.
        notes: Choices made at load that a user should know.
        kept_blocks: Blocks that depth pruning kept; None if it dropped none.
        base: Name of the model that an adapter would belong on.
        base_options: Options that load this base again.
        base_weights: Fingerprint of the base.
        is_saved: Whether `from_pretrained` found a saved thinking model, rather than a plain LM.
        facts: What `save_pretrained` kept with a model that was loaded from a folder.

    Raises:
        UserError: If the model cannot be loaded, or an argument does not fit.
    """

    # Folders of a run that hold a model of this class, best first.
    _RUN_PARTS: ClassVar[tuple[str, ...]] = ("student", "teacher/latent", "teacher/cot")

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
        self.is_saved = False
        self.facts: dict[str, Any] = {}

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        options: ThinkingOptions | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        trust_remote_code: bool = False,
        trainable: bool = False,
        **load_options: Any,
    ) -> Self:
        """Load a model in evaluation mode.

        Args:
            name: Folder of a saved thinking model, run folder, hub id of either a thinking model or a plain causal LM,
                folder of a plain causal LM, or the name of an embedded model.
            revision: Branch, tag or commit of a hub id.
            options: How the model thinks; by default as saved, or `ThinkingOptions()` for a plain LM.
            device: Where to put the model; None leaves it on the CPU.
            dtype: float32, bfloat16 or float16; by default as saved, or float32.
            trust_remote_code: Run Python code that comes with the model.
            trainable: Leave a saved adapter trainable.
            load_options: More keyword arguments of `load_lm`.

        Returns:
            The model.

        Raises:
            UserError: If there is no such model, it is damaged, or the hub does not answer.

        Example:
            >>> from lrd_peft import StudentModel
            >>> StudentModel.from_pretrained("tiny-student").num_blocks
            6
        """
        given = {**load_options, "device": device, "dtype": dtype, "trust_remote_code": trust_remote_code}
        given = {key: value for key, value in given.items() if value not in (None, False)}
        found = find_saved_model(str(name), parts=cls._RUN_PARTS, revision=revision)
        if found is None:
            if revision is not None:
                given["revision"] = revision
            return cls(str(name), options=options, **given).eval()
        return cls._from_folder(found, options=options, trainable=trainable, given=given)

    @classmethod
    def _from_folder(
        cls, found: FoundModel, *, options: ThinkingOptions | None, trainable: bool, given: dict[str, Any]
    ) -> Self:
        saved = read_description(found.folder)
        check_model_folder(found.folder)
        options = options or saved.options
        if saved.adapter:
            model = cls(saved.base, options=options, **{**saved.load_options, **given})
        else:
            model = cls(str(found.folder), options=options, **given)
            # An adapter trained on this model belongs on these weights, not on those that they started from.
            model.base, model.base_options = found.name, {**given, **found.options}
            model.name, model.load_options = saved.base, saved.load_options
        model.is_saved, model.facts = True, saved.facts
        extra = model._usable_extra(load_extra(found.folder))
        if saved.adapter:
            model._check_base(saved, found.folder)
            unfit = (
                f"the adapter in {found.folder} does not fit the base model {model.name} "
                f"(width {model.hidden_size}, {model.num_blocks} blocks)"
            )
            model.lm = load_adapter(model.lm, found.folder, trainable=trainable, unfit=unfit)
        model._load_extra(extra, found.folder)
        return model.eval()

    def _check_base(self, saved: SavedModel, folder: Path) -> None:
        """Refuse an adapter that was trained on other weights, where both have the same precision."""
        same_kind = all(
            saved.load_options.get(name) == self.base_options.get(name) for name in ("dtype", "quantization")
        )
        if same_kind and saved.base_weights not in (None, self.base_weights):
            raise UserError(
                f"the adapter in {folder} was trained on {saved.base!r} with weights {saved.base_weights}; "
                f"{self.base!r} has weights {self.base_weights} now: an adapter works on its own base only"
            )

    def _usable_extra(self, extra: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors outside the LM that this class loads from a saved model."""
        return {name: value for name, value in extra.items() if not name.startswith(_STUDENT_ONLY)}

    def _extra_state(self) -> dict[str, Tensor]:
        left_out = ("lm.", "step_decoder.")
        return {name: value.contiguous() for name, value in self.state_dict().items() if not name.startswith(left_out)}

    def _load_extra(self, stored: Mapping[str, Tensor], folder: Path) -> None:
        own = self._extra_state()
        if wrong := sorted(stored.keys() ^ own.keys()):
            raise UserError(f"{folder} does not fit this model: only one of the two has {', '.join(wrong)}")
        for name, value in stored.items():
            if value.shape != own[name].shape:
                raise UserError(
                    f"{folder} does not fit the model {self.name} of width {self.hidden_size}: {name} is "
                    f"{list(value.shape)} there and {list(own[name].shape)} here"
                )
        self.load_state_dict(dict(stored), strict=False)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        card: str | None = None,
        facts: Mapping[str, Any] | None = None,
        **push_options: Any,
    ) -> None:
        """Save the model: its adapter alone if it has one, else all weights.

        `from_pretrained` loads the folder. An adapter is also a plain PEFT folder, full weights a plain transformers
        folder; both load there without the ability to think.

        Args:
            folder: Folder to create or replace.
            push_to_hub: Upload the folder too.
            repo_id: Repository to upload to, "owner/name"; by default the name of the folder.
            card: Text of the model card; by default it is built from the model.
            facts: JSON values to keep in `lrd_model.json`.
            push_options: Keyword arguments of `push_to_hub`.

        Raises:
            UserError: If the folder cannot be written or uploaded.

        Example:
            >>> import tempfile
            >>> from lrd_peft import StudentModel, create_lora_model
            >>> student = create_lora_model(StudentModel("tiny-student"), r=2)
            >>> folder = tempfile.mkdtemp()
            >>> student.save_pretrained(folder)
            >>> StudentModel.from_pretrained(folder).has_adapters
            True
        """
        if push_options and not push_to_hub:
            raise UserError(f"{', '.join(sorted(push_options))}: only used with push_to_hub=True")
        path = Path(folder)
        saved = self.describe(facts or {})
        card = make_card(saved, name=repo_id or path.name) if card is None else card
        write_model_folder(
            path, lm=self.lm, tokenizer=self.tokenizer, extra=self._extra_state(), saved=saved, card=card
        )
        if push_to_hub:
            upload_folder(path, repo_id or path.name, **push_options)

    def describe(self, facts: Mapping[str, Any]) -> SavedModel:
        """Return what `save_pretrained` writes to `lrd_model.json`.

        Args:
            facts: JSON values to keep with it.
        """
        adapter = self.has_adapters
        options = self.base_options if adapter else self.load_options
        return SavedModel(
            base=self.base if adapter else self.name,
            adapter=adapter,
            # The device is left out: the model may be loaded on another machine.
            load_options=_plain_options(options),
            options=self.options,
            base_weights=self.base_weights if adapter else None,
            facts=dict(facts),
        )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str = "Upload a thinking model",
        card: str | None = None,
    ) -> str:
        """Upload the model to the Hugging Face Hub; `from_pretrained(repo_id)` loads it.

        Args:
            repo_id: "owner/name"; created if needed.
            private: Visibility of a new repository; None for the owner's default.
            token: Access token; None for the one of `hf auth login`.
            commit_message: Message of the commit.
            card: Text of the model card; by default it is built from the model.

        Returns:
            Address of the commit.

        Raises:
            UserError: If the hub does not answer or refuses.
        """
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            self.save_pretrained(folder, card=make_card(self.describe({}), name=repo_id) if card is None else card)
            return upload_folder(folder, repo_id, private=private, token=token, commit_message=commit_message)

    @torch.no_grad()
    def solve(
        self,
        questions: Sequence[str],
        *,
        max_new_tokens: int = 256,
        top_tokens: int = 3,
        num_thoughts: int | None = None,
    ) -> list[Solution]:
        """Answer questions, after thoughts if the model thinks, and read the answers from the texts.

        Args:
            questions: Any number of questions.
            max_new_tokens: Maximum number of generated tokens per question.
            top_tokens: Number of tokens to decode from each thought.
            num_thoughts: Number of thoughts; None for the model's own.

        Returns:
            One solution per question.

        Raises:
            UserError: If a question does not fit the model's context.

        Example:
            >>> from lrd_peft import StudentModel
            >>> student = StudentModel.from_pretrained("tiny-student")
            >>> (solution,) = student.solve(["Ann has 3 pens. She buys 4 more. How many pens does Ann have?"])
            >>> len(solution.thoughts)
            4
        """
        was_training = self.training
        self.eval()
        try:
            return solve_batch(
                self, questions, max_new_tokens=max_new_tokens, top_tokens=top_tokens, num_thoughts=num_thoughts
            )
        finally:
            self.train(was_training)

    def prompt_embeds(
        self, questions: Sequence[str], *, num_thoughts: int | None = None
    ) -> list[Float[Tensor, "position hidden"]]:
        """Return the inputs after which the language model answers, for engines that take prompt embeddings.

        A plain `generate(inputs_embeds=...)` of the language model continues them as `generate` of this model does.

        Args:
            questions: At least one question.
            num_thoughts: Number of thoughts; None for the model's own.

        Returns:
            For each question the embeddings of its tokens, its thoughts and the answer marker.

        Example:
            >>> from lrd_peft import StudentModel
            >>> student = StudentModel.from_pretrained("tiny-latent-student")
            >>> (embeds,) = student.prompt_embeds(["What is 2 + 3?"])
            >>> embeds.shape[1] == student.hidden_size
            True
        """
        return prompt_embeds(self, questions, num_thoughts=num_thoughts)

    def generate(
        self, questions: Sequence[str], *, max_new_tokens: int = 256, num_thoughts: int | None = None
    ) -> list[str]:
        """Think about questions, then write.

        Args:
            questions: Any number of questions.
            max_new_tokens: Maximum number of generated tokens per question.
            num_thoughts: Number of thoughts; None for the model's own.

        Returns:
            One text per question: everything after the thoughts, including the answer marker.

        Raises:
            UserError: If a question does not fit the model's context.

        Example:
            >>> from lrd_peft import TeacherModel
            >>> teacher = TeacherModel.from_pretrained("tiny-teacher")
            >>> texts = teacher.generate(["What is 2 + 3?"], max_new_tokens=8, num_thoughts=0)
            >>> len(texts)
            1
        """
        solutions = self.solve(questions, max_new_tokens=max_new_tokens, top_tokens=0, num_thoughts=num_thoughts)
        return [solution.text for solution in solutions]


def _plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return load options as JSON values: a torch dtype or device by its name, a range of blocks as a list."""
    plain = {}
    for name, value in options.items():
        if isinstance(value, (torch.dtype, torch.device)):
            value = str(value).removeprefix("torch.")
        plain[name] = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
    return plain
