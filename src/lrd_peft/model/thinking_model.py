"""A causal LM that thinks: tokenizer, thinking loop, projections, files. Knows batches; no losses between models.

TeacherModel and StudentModel (models.py) are the two that users meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lrd_peft.data.collate import IGNORED
from lrd_peft.data.encoding import Encoder
from lrd_peft.errors import UserError
from lrd_peft.model.facts import block_count, fingerprint_base, hidden_size
from lrd_peft.model.fused import fuse_activations, summed_cross_entropy
from lrd_peft.model.loading import load_lm
from lrd_peft.model.thinking import gather_positions, head_logits, think, unwrap
from lrd_peft.model.written_steps import summed_step_loss

PROJECTIONS = ("none", "linear", "mlp")
POSITIONS = ("thoughts+answer", "thoughts", "all")


@dataclass(frozen=True, slots=True)
class ThinkingOptions:
    """How a model thinks; saved beside its weights.

    Attributes:
        num_thoughts: slots when it answers.
        projection: what a hidden state passes through on its way to being an input: none, linear or mlp.
        jacobi_passes: refine all thoughts together this many times; None: one after another.
        markers: put <bot> and <eot> around the thoughts.
        prompt_style: plain or chat.
    """

    num_thoughts: int = 4
    projection: str = "none"
    jacobi_passes: int | None = None
    markers: bool = False
    prompt_style: str = "plain"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class ThinkingOutput:
    """What a batch gives.

    Attributes:
        loss_sum: summed cross-entropy over labelled suffix positions, float32.
        num_labels: how many those are, int64.
        states: layer -> [B, P, H] at the chosen positions.
        valid: bool [B, P], False where a row has no such position.
        mask: bool [B, P], the positions that a loss may use: valid ones but the first token.
        thoughts: [B, N, H], the inputs at the slots.
        logits: [labelled positions, V], float32 at least, row by row; None unless asked for.
        step_loss_sum: summed cross-entropy of the steps that the batch has thoughts write; None if it has none.
    """

    loss_sum: Tensor
    num_labels: Tensor
    states: dict[int, Tensor]
    valid: Tensor
    mask: Tensor
    thoughts: Tensor
    logits: Tensor | None = None
    step_loss_sum: Tensor | None = None


class ThoughtProjection(nn.Sequential):
    """Computes in its own precision (float32, also beside a bfloat16 model) and answers in its input's."""

    def forward(self, input: Tensor) -> Tensor:
        own = next(self.parameters()).dtype
        return super().forward(input.to(own)).to(input.dtype)


def make_projection(kind: str, size: int) -> nn.Module | None:
    """Return the module that turns a hidden state into an input embedding, or None for the identity.

    `linear` starts as the identity, so that a model which thought without it still does. `mlp` is a two-layer
    perceptron with LayerNorm (CODI, arXiv 2502.21074).
    """
    if kind not in PROJECTIONS:
        raise UserError(f'thought_projection is "{kind}"; it must be one of {", ".join(PROJECTIONS)}')
    if kind == "none":
        return None
    if kind == "linear":
        linear = nn.Linear(size, size)
        nn.init.eye_(linear.weight)
        nn.init.zeros_(linear.bias)
        return ThoughtProjection(linear)
    return ThoughtProjection(nn.Linear(size, size), nn.GELU(), nn.Linear(size, size), nn.LayerNorm(size))


class ThinkingModel(nn.Module):
    """A causal LM with a thinking loop.

    Args:
        model: a name that `load_lm` knows, or a transformers model (then `tokenizer` is needed).
        tokenizer: the model's tokenizer, with a pad token.
        options: how it thinks.
        load_options: passed on to `load_lm`.

    Raises:
        UserError: if the model cannot be loaded or an option does not fit.
    """

    lm: nn.Module

    def __init__(
        self,
        model: str | PreTrainedModel,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        options: ThinkingOptions | None = None,
        **load_options: Any,
    ) -> None:
        super().__init__()
        self.notes: tuple[str, ...] = ()
        if isinstance(model, str):
            loaded = load_lm(model, **load_options)
            self.name, self.source, self.notes = model, loaded.source, loaded.notes
            self.lm, self.tokenizer = loaded.lm, loaded.tokenizer
            self.kept_blocks = loaded.kept_blocks
        else:
            if tokenizer is None:
                raise UserError("a model object was given without its tokenizer; pass tokenizer=")
            self.name = self.source = str(model.config.name_or_path or type(model).__name__)
            self.lm, self.tokenizer, self.kept_blocks = model, tokenizer, None
        fuse_activations(self.lm)
        self.load_options = load_options
        # What makes the weights under an adapter again; `name` may say where those came from long ago.
        self.base, self.base_options = self.name, load_options
        # Before markers and adapters change it; an adapter is bound to it.
        self.base_weights = fingerprint_base(unwrap(self.lm))
        self.options = options or ThinkingOptions()
        self.encoder = Encoder(self.tokenizer, prompt_style=self.options.prompt_style)
        self.new_token_ids: tuple[int, ...] = ()
        if self.options.markers:
            self._add_markers()
        projection = make_projection(self.options.projection, self.hidden_size)
        self.projection = None if projection is None else projection.to(self.device)

    @property
    def hidden_size(self) -> int:
        return hidden_size(unwrap(self.lm).config)

    @property
    def num_blocks(self) -> int:
        return block_count(unwrap(self.lm).config)

    @property
    def device(self) -> torch.device:
        return next(self.lm.parameters()).device

    @property
    def has_adapters(self) -> bool:
        return isinstance(self.lm, PeftModel)

    def _add_markers(self) -> None:
        """Make sure the tokenizer has <bot> and <eot>, and the model embeddings for them."""
        before = set(self.tokenizer.get_vocab())
        # Beside the tokenizer's own special tokens, not in their place.
        self.tokenizer.add_special_tokens(
            {"additional_special_tokens": ["<bot>", "<eot>"]}, replace_extra_special_tokens=False
        )
        self.new_token_ids = tuple(
            token_id
            for token, token_id in zip(("<bot>", "<eot>"), self._marker_ids, strict=True)
            if token not in before
        )
        inner: Any = unwrap(self.lm)
        num_before = inner.get_input_embeddings().weight.shape[0]
        if len(self.tokenizer) > num_before:
            inner.resize_token_embeddings(len(self.tokenizer), mean_resizing=False)
            # The mean of the others: the same each time that an adapter's base is made again.
            with torch.no_grad():
                for layer in (inner.get_input_embeddings(), inner.get_output_embeddings()):
                    layer.weight[num_before:] = layer.weight[:num_before].mean(dim=0)

    @property
    def _marker_ids(self) -> tuple[int, int]:
        bot, eot = (self.tokenizer.convert_tokens_to_ids(token) for token in ("<bot>", "<eot>"))
        assert isinstance(bot, int) and isinstance(eot, int)
        return bot, eot

    def around_thoughts(
        self, question: Sequence[int], suffix: Sequence[int]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return question and suffix ids with the thoughts' markers, if this model uses them."""
        if not self.options.markers:
            return tuple(question), tuple(suffix)
        bot, eot = self._marker_ids
        return (*question, bot), (eot, *suffix)

    def forward(
        self,
        *,
        question_ids: Tensor,
        question_mask: Tensor,
        suffix_ids: Tensor,
        labels: Tensor,
        answer_start: Tensor,
        num_thoughts: int,
        index: Tensor | None = None,
        step_labels: Tensor | None = None,
        step_places: Tensor | None = None,
        layers: Sequence[int] = (),
        positions: str = "thoughts+answer",
        forced: Tensor | None = None,
        with_loss: bool = True,
        with_logits: bool = False,
    ) -> ThinkingOutput:
        """Think through a batch (see `lrd_peft.data.collate.Batch`), and read the loss and the states.

        The answer position is the one that predicts the answer's first token. With `positions="all"` the padding and
        the first token (an attention sink) are masked.
        """
        keep_all = positions == "all"
        thinking = think(
            self.lm,
            question_ids,
            question_mask,
            num_thoughts=num_thoughts,
            suffix_ids=suffix_ids,
            layers=layers,
            keep_question=keep_all,
            projection=self.projection,
            forced=forced,
            jacobi_passes=self.options.jacobi_passes,
            states_only=not (with_loss or with_logits),
        )
        if 0 in thinking.states:
            # At a slot the thought itself; some architectures (GPT-2) have added its position in their layer 0.
            start = question_ids.shape[1] if keep_all else 0
            inputs = thinking.states[0]
            parts = [inputs[:, :start], thinking.thoughts, inputs[:, start + num_thoughts :]]
            thinking.states[0] = torch.cat(parts, dim=1)
        step_loss = None
        if step_labels is not None and step_places is not None:
            step_loss = summed_step_loss(self.lm, thinking.thoughts, labels=step_labels, places=step_places)
        labelled = labels != IGNORED
        loss = thinking.last.new_zeros((), dtype=torch.float32)
        logits = None
        if with_loss or with_logits:
            predicting = thinking.last[:, num_thoughts : num_thoughts + labels.shape[1]]
            if with_logits:
                logits = head_logits(self.lm, predicting[labelled])
            if with_loss and logits is not None:
                loss = F.cross_entropy(logits, labels[labelled], reduction="sum")
            elif with_loss:
                loss = summed_cross_entropy(self.lm, predicting[labelled], labels[labelled])
        if keep_all:
            first_token = (question_mask.cumsum(dim=1) == 1) & (question_mask == 1)
            slot_part = torch.ones_like(question_mask[:, :1], dtype=torch.bool).expand(-1, num_thoughts)
            valid = torch.cat([question_mask == 1, slot_part, labelled], dim=1)
            mask = torch.cat([(question_mask == 1) & ~first_token, slot_part, labelled], dim=1)
            states = thinking.states
        else:
            where = torch.arange(num_thoughts, device=answer_start.device).expand(len(answer_start), -1)
            if positions == "thoughts+answer":
                where = torch.cat([where, (num_thoughts + answer_start - 1)[:, None]], dim=1)
            mask = valid = torch.ones_like(where, dtype=torch.bool)
            states = {layer: gather_positions(state, where) for layer, state in thinking.states.items()}
        return ThinkingOutput(
            loss_sum=loss,
            num_labels=labelled.sum(),
            states=states,
            valid=valid,
            mask=mask,
            thoughts=thinking.thoughts,
            logits=logits,
            step_loss_sum=step_loss,
        )

    def num_parameters(self, *, trainable: bool = False) -> int:
        """Count parameters, a tied weight once.

        Args:
            trainable: only those that require a gradient, LoRA adapters and projectors among them; else those of the
                model that answers, with adapters merged into the weights that they change, so not counted again.
        """
        if trainable:
            return sum(p.numel() for p in self.parameters() if p.requires_grad)
        modules = [self.lm] if self.projection is None else [self.lm, self.projection]
        named = [pair for module in modules for pair in module.named_parameters()]
        return sum(p.numel() for name, p in named if "lora_" not in name and "token_adapter" not in name)
