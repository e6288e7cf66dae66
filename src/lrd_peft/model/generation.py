"""Answering questions: thoughts, then batched greedy decoding."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lrd_peft.data.collate import left_pad
from lrd_peft.data.encoding import Encoder
from lrd_peft.model.inspection import context_length
from lrd_peft.model.loop import Projection, Thinking, ThoughtStart, head_logits, think, unwrap
from lrd_peft.model.options import ThinkingOptions
from lrd_peft.runtime.errors import UserError


@dataclass(frozen=True, slots=True)
class Generated:
    """Output of one row.

    Attributes:
        tokens: Generated ids without the end-of-text token and the forced ids.
        probabilities: Probability that the model gave each of `tokens`.
        num_tokens: Number of generated ids, including the end-of-text token.
        num_thoughts: Number of continuous thoughts before them.
        num_passes: Sequential model passes that this row took.
        finished: Whether the row ended with the end-of-text token.
        thought_tokens: For each slot, the ids that the LM head ranks highest there, best first.
        thought_probabilities: Their probabilities.
    """

    tokens: tuple[int, ...]
    probabilities: tuple[float, ...]
    num_tokens: int
    num_thoughts: int
    num_passes: int
    finished: bool
    thought_tokens: tuple[tuple[int, ...], ...] = ()
    thought_probabilities: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Refinement:
    """How thoughts are refined in parallel.

    Attributes:
        passes: Passes at most after the question's, as `jacobi_passes` of `think`. None: one thought after another.
        start: As in `think`.
        tolerance: As in `think`.
    """

    passes: int | None
    start: ThoughtStart | None = None
    tolerance: float | None = None


@torch.no_grad()
def decode_batch(
    lm: nn.Module,
    question_ids: Int[Tensor, "batch question"],
    question_mask: Int[Tensor, "batch question"],
    *,
    num_thoughts: int,
    forced: Sequence[int] = (),
    max_new_tokens: int,
    eos_id: int | Collection[int],
    projection: Projection | None = None,
    jacobi_passes: int | None = None,
    placeholder_id: int | None = None,
    start: ThoughtStart | None = None,
    tolerance: float | None = None,
    thoughts: Float[Tensor, "batch thought hidden"] | None = None,
    thinking_out: list[Thinking] | None = None,
    top_tokens: int = 0,
    context: int | None = None,
) -> list[Generated]:
    """Think, then decode greedily. Rows that have ended leave the batch.

    Args:
        lm: Causal LM, PEFT-wrapped or not.
        question_ids: Token ids of the questions, left-padded.
        question_mask: 1 on tokens, 0 on padding.
        num_thoughts: Slots after the question.
        forced: Ids that follow the thoughts in every row (the answer marker); they share the last slot's pass.
        max_new_tokens: Maximum number of generated ids per row.
        eos_id: End-of-text token, or several.
        projection: As in `think`.
        jacobi_passes: As in `think`.
        placeholder_id: As in `think`.
        start: As in `think`.
        tolerance: As in `think`.
        thoughts: Thoughts to use instead of the model's own; they then take one parallel pass.
        thinking_out: List that receives the result of `think`.
        top_tokens: Number of tokens to report for each slot, as read by the LM head.
        context: Longest sequence in tokens that the model takes. A row that reaches it stops.

    Returns:
        One result per row.

    Raises:
        UserError: If the model's output is NaN.
    """
    ends = {eos_id} if isinstance(eos_id, int) else set(eos_id)
    num_rows = question_ids.shape[0]
    suffix = torch.tensor([list(forced)] * num_rows, dtype=torch.long, device=question_ids.device)
    kept: list[Any] = []
    thinking = think(
        lm,
        question_ids,
        question_mask,
        num_thoughts=num_thoughts,
        suffix_ids=suffix.reshape(num_rows, len(forced)),
        projection=projection,
        forced=thoughts,
        jacobi_passes=jacobi_passes,
        placeholder_id=placeholder_id,
        start=start,
        tolerance=tolerance,
        cache_out=kept,
    )
    if thinking_out is not None:
        thinking_out.append(thinking)
    sequence = kept[0]
    tops: list[tuple[tuple[int, ...], ...]] = [() for _ in range(num_rows)]
    shares: list[tuple[tuple[float, ...], ...]] = [() for _ in range(num_rows)]
    if top_tokens and num_thoughts:
        # The input of slot j is the state before it, so the head is applied there.
        best = head_logits(lm, thinking.last[:, :num_thoughts]).softmax(dim=-1).topk(top_tokens, dim=-1)
        tops = [tuple(tuple(slot) for slot in row) for row in best.indices.tolist()]
        shares = [tuple(tuple(slot) for slot in row) for row in best.values.tolist()]

    tokens: list[list[int]] = [[] for _ in range(num_rows)]
    probabilities: list[list[float]] = [[] for _ in range(num_rows)]
    done: dict[int, bool] = {}
    rows = list(range(num_rows))
    padded = not bool(question_mask.all())
    lengths = (question_mask.sum(dim=1) + num_thoughts + len(forced)).tolist()
    hidden = thinking.last[:, -1]
    for step in range(max_new_tokens):
        log_probabilities = head_logits(lm, hidden).log_softmax(dim=-1)
        best_value, best_id = log_probabilities.max(dim=-1)
        alive = []
        for place, (row, token, value) in enumerate(
            zip(rows, best_id.tolist(), best_value.exp().tolist(), strict=True)
        ):
            if math.isnan(value):
                raise UserError(
                    "the model's output is NaN: its weights are broken, or float16 is too narrow for it; load it in "
                    "float32 or bfloat16"
                )
            if token in ends:
                done[row] = True
                continue
            tokens[row].append(token)
            probabilities[row].append(value)
            if context is None or lengths[row] + len(tokens[row]) <= context:
                alive.append(place)
        if not alive or step == max_new_tokens - 1:
            break
        keep = torch.tensor(alive, device=best_id.device)
        if len(alive) < len(rows):
            sequence.select(keep)
            rows = [rows[place] for place in alive]
            best_id = best_id[keep]
        ones = torch.ones_like(best_id[:, None])
        state, _ = sequence.extend(sequence.embed(best_id[:, None]), ones, padded=padded, keep=False)
        hidden = state[:, -1]
    results = []
    passes = [thinking.num_passes] * num_rows if thinking.row_passes is None else thinking.row_passes.tolist()
    for row in range(num_rows):
        num_tokens = len(tokens[row]) + (row in done)
        results.append(
            Generated(
                tokens=tuple(tokens[row]),
                probabilities=tuple(probabilities[row]),
                num_tokens=num_tokens,
                num_thoughts=num_thoughts,
                num_passes=passes[row] + max(0, num_tokens - 1),
                finished=row in done,
                thought_tokens=tops[row],
                thought_probabilities=shares[row],
            )
        )
    return results


@dataclass(frozen=True, slots=True)
class Solution:
    """An answered question.

    Attributes:
        question: The question.
        text: Everything after the thoughts, including the answer marker.
        answer: The part after the marker, or the whole text if there is no marker.
        thoughts: For each thought, the tokens that the LM head ranks highest there, best first.
        num_tokens: Number of generated tokens, including the end-of-text token.
        num_passes: Sequential model passes that the answer took.
    """

    question: str
    text: str
    answer: str
    thoughts: tuple[tuple[str, ...], ...]
    num_tokens: int
    num_passes: int


@runtime_checkable
class Answerer(Protocol):
    """What answering needs of a thinking model."""

    @property
    def lm(self) -> nn.Module: ...
    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...
    @property
    def encoder(self) -> Encoder: ...
    @property
    def options(self) -> ThinkingOptions: ...
    @property
    def projection(self) -> Projection | None: ...
    @property
    def placeholder_id(self) -> int | None: ...
    @property
    def device(self) -> torch.device: ...

    def around_thoughts(
        self, question: Sequence[int], suffix: Sequence[int], *, num_thoughts: int
    ) -> tuple[tuple[int, ...], tuple[int, ...]]: ...


def end_tokens(lm: nn.Module, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the tokens that end a text: those where `generate()` of transformers stops, and the tokenizer's own.

    Chat models have several: Llama 3.1's are <|end_of_text|>, <|eom_id|> and <|eot_id|>. Training labels the
    tokenizer's.

    Args:
        lm: Causal LM, PEFT-wrapped or not.
        tokenizer: Its tokenizer.
    """
    own = getattr(unwrap(lm).generation_config, "eos_token_id", None)
    listed = own if isinstance(own, (list, tuple)) else [own]
    return frozenset(token for token in (*listed, tokenizer.eos_token_id) if isinstance(token, int))


def answer_batch(
    model: Answerer,
    questions: Sequence[str],
    *,
    thinking: bool,
    max_new_tokens: int,
    force_marker: bool | None = None,
    top_tokens: int = 0,
    num_thoughts: int | None = None,
    thoughts: Float[Tensor, "batch thought hidden"] | None = None,
    refinement: Refinement | None = None,
    thinking_out: list[Thinking] | None = None,
) -> list[Generated]:
    """Answer a batch of questions after thoughts or in text.

    Args:
        model: A thinking model.
        questions: At least one question.
        thinking: Answer after thoughts, if the model has slots. Otherwise the model writes its steps and the marker.
        max_new_tokens: Maximum number of generated tokens per question.
        force_marker: Insert the answer marker, so that the model answers at once. False lets it write remaining steps
            first, as it does in the middle of the curriculum. None inserts it after thoughts only, if the model's
            options say so.
        top_tokens: Number of tokens to report for each slot.
        num_thoughts: Number of thoughts; None for the model's own.
        thoughts: Thoughts of each question to use instead of the model's own. `num_thoughts` must be their number.
        refinement: How thoughts are refined in parallel, in place of the model's own way of thinking.
        thinking_out: List that receives what was thought, of the questions that fit.

    Returns:
        One result per question. A question that does not fit the model's context gets an empty one with zero passes.
    """
    prompts = [model.encoder.prompt(question) for question in questions]
    slots = model.options.num_thoughts if num_thoughts is None else num_thoughts
    slots = slots if thinking else 0
    force_marker = slots > 0 and model.options.force_marker if force_marker is None else force_marker
    marker = model.encoder.marker if force_marker else ()
    pairs = [model.around_thoughts(prompt, marker, num_thoughts=slots) for prompt in prompts]
    prompts, forced = [pair[0] for pair in pairs], pairs[0][1]
    pad = model.tokenizer.pad_token_id
    assert isinstance(pad, int)
    context = context_length(unwrap(model.lm).config)
    fitting = [i for i, prompt in enumerate(prompts) if context is None or len(prompt) + slots + len(forced) <= context]
    empty = Generated((), (), num_tokens=0, num_thoughts=0, num_passes=0, finished=False)
    rows = [empty] * len(prompts)
    if not fitting:
        return rows
    ids, mask = left_pad([prompts[i] for i in fitting], pad_id=pad)
    how = refinement or Refinement(model.options.jacobi_passes)
    written = decode_batch(
        model.lm,
        ids.to(model.device),
        mask.to(model.device),
        num_thoughts=slots,
        forced=forced,
        max_new_tokens=max_new_tokens,
        eos_id=end_tokens(model.lm, model.tokenizer),
        projection=model.projection,
        jacobi_passes=how.passes,
        placeholder_id=model.placeholder_id,
        start=how.start,
        tolerance=how.tolerance,
        thoughts=None if thoughts is None else thoughts[fitting].to(model.device),
        thinking_out=thinking_out,
        top_tokens=top_tokens,
        context=context,
    )
    for i, row in zip(fitting, written, strict=True):
        rows[i] = row
    return rows


def until_stop(text: str, stops: Sequence[str]) -> str:
    """Return a text up to the first stop text in it."""
    return text[: min((text.find(stop) for stop in stops if stop and stop in text), default=len(text))]


def solve_batch(
    model: Answerer,
    questions: Sequence[str],
    *,
    max_new_tokens: int,
    top_tokens: int = 0,
    num_thoughts: int | None = None,
) -> list[Solution]:
    """Answer questions, after thoughts if the model thinks, and split the answers from the texts.

    Args:
        model: A thinking model in evaluation mode.
        questions: Any number of questions.
        max_new_tokens: Maximum number of generated tokens per question.
        top_tokens: Number of tokens to decode from each thought.
        num_thoughts: Number of thoughts; None for the model's own.

    Returns:
        One solution per question.

    Raises:
        UserError: If `questions` is a single text, or a question does not fit the model's context.
    """
    if isinstance(questions, str):
        raise UserError('questions must be a list; write ["..."] for a single question')
    if num_thoughts is not None and num_thoughts < 0:
        raise UserError(f"num_thoughts is {num_thoughts}; it must be at least 0")
    if not questions:
        return []
    rows = answer_batch(
        model,
        questions,
        thinking=True,
        max_new_tokens=max_new_tokens,
        top_tokens=top_tokens,
        num_thoughts=num_thoughts,
    )
    tokenizer = model.tokenizer
    solutions = []
    for question, row in zip(questions, rows, strict=True):
        if row.num_passes == 0:
            raise UserError(
                f"the question that begins {question[:60]!r} and its thoughts do not fit into the model's context of "
                f"{context_length(unwrap(model.lm).config)} tokens; shorten the question"
            )
        text = str(tokenizer.decode(list(row.tokens), skip_special_tokens=True))
        if row.num_thoughts > 0 and model.options.force_marker:
            text = model.encoder.answer_marker + text
        thoughts = tuple(tuple(str(tokenizer.decode([token])) for token in slot) for slot in row.thought_tokens)
        solutions.append(
            Solution(
                question=question,
                text=text,
                answer=text.rpartition(model.encoder.shown_marker)[2].strip(),
                thoughts=thoughts,
                num_tokens=row.num_tokens,
                num_passes=row.num_passes,
            )
        )
    return solutions
