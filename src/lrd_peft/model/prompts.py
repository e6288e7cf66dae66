"""Thinking about prompts of any lengths, before given suffixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lrd_peft.data.collate import left_pad
from lrd_peft.model.generation import Answerer
from lrd_peft.model.loop import Thinking, think, unwrap


@dataclass(frozen=True, slots=True)
class ThoughtAbout:
    """Prompts that a model has thought about.

    Attributes:
        ids: Token ids of the prompts, left-padded.
        mask: 1 on tokens, 0 on padding.
        suffix: Token ids of the suffixes, right-padded.
        thinking: Result of the pass.
    """

    ids: Int[Tensor, "batch prompt"]
    mask: Int[Tensor, "batch prompt"]
    suffix: Int[Tensor, "batch suffix"]
    thinking: Thinking


def think_about(
    model: Answerer,
    rows: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    num_thoughts: int,
    layers: Sequence[int] = (),
    forced: Float[Tensor, "batch thought hidden"] | None = None,
) -> ThoughtAbout:
    """Run prompts, thoughts and suffixes through a model in its own way of thinking.

    Args:
        model: A thinking model.
        rows: Ids of each prompt and of its suffix, with the markers around its thoughts (see `around_thoughts`).
        num_thoughts: Slots of each row.
        layers: Layer indices of the hidden states to keep, as in `think`.
        forced: Thoughts to use instead of the model's own.
    """
    pad = model.tokenizer.pad_token_id
    assert isinstance(pad, int)
    ids, mask = left_pad([prompt for prompt, _ in rows], pad_id=pad)
    ids, mask = ids.to(model.device), mask.to(model.device)
    longest = max(len(suffix) for _, suffix in rows)
    padded = [[*suffix, *[pad] * (longest - len(suffix))] for _, suffix in rows]
    suffix = torch.tensor(padded, dtype=torch.long, device=model.device).reshape(len(rows), longest)
    thinking = think(
        model.lm,
        ids,
        mask,
        num_thoughts=num_thoughts,
        suffix_ids=suffix,
        layers=layers,
        projection=model.projection,
        forced=forced,
        jacobi_passes=model.options.jacobi_passes,
        placeholder_id=model.placeholder_id,
    )
    return ThoughtAbout(ids, mask, suffix, thinking)


@torch.no_grad()
def prompt_embeds(
    model: Answerer, questions: Sequence[str], *, num_thoughts: int | None = None
) -> list[Float[Tensor, "position hidden"]]:
    """Return the inputs after which a model answers: embeddings of question, thoughts and answer marker.

    Args:
        model: A thinking model in evaluation mode.
        questions: At least one question.
        num_thoughts: Number of thoughts; None for the model's own.

    Returns:
        One tensor per question, without padding.
    """
    slots = model.options.num_thoughts if num_thoughts is None else num_thoughts
    marker = model.encoder.marker if slots and model.options.force_marker else ()
    pairs = [model.around_thoughts(model.encoder.prompt(each), marker, num_thoughts=slots) for each in questions]
    found = think_about(model, pairs, num_thoughts=slots)
    embed = unwrap(model.lm).get_input_embeddings()
    whole = torch.cat([embed(found.ids), found.thinking.thoughts, embed(found.suffix)], dim=1)
    lengths = (found.mask.sum(dim=1) + slots + found.suffix.shape[1]).tolist()
    return [row[-length:] for row, length in zip(whole, lengths, strict=True)]
