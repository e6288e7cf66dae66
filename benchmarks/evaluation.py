"""Answering: batched and cached against one problem at a time without a cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.measure import Row, Settings, alternate, row
from benchmarks.reference import decoding
from benchmarks.work import NUM_THOUGHTS, Work, make
from lrd_peft.data.collate import left_pad
from lrd_peft.model.generation import Generated, decode_batch

FORCED = (5, 6, 7)
BATCH_SIZE = 64
# work -> problems, tokens at most, problems that the reference solves, evenly spread in length (its time is multiplied)
SIZES = {"gpt2-256x4-50k": (32, 16, 2), "tiny": (256, 16, 16)}
LARGE = {"llama-256x4-50k": (32, 16, 2), "gpt2-124m": (16, 8, 1)}
QUICK = {"gpt2-256x4-50k": (16, 8, 2), "tiny": (128, 16, 8)}


def ours(work: Work, *, forced: tuple[int, ...], max_new_tokens: int, eos_id: int) -> list[Generated]:
    """Answer the work's problems, neighbours in length together as `evaluation.score` has them; in their own order."""
    order = sorted(range(len(work.rows)), key=lambda i: len(work.rows[i].question))
    answers: dict[int, Generated] = {}
    for start in range(0, len(order), BATCH_SIZE):
        chosen = order[start : start + BATCH_SIZE]
        ids, mask = left_pad([work.rows[i].question for i in chosen], pad_id=0)
        written = decode_batch(
            work.model.lm,
            ids,
            mask,
            num_thoughts=NUM_THOUGHTS,
            forced=forced,
            max_new_tokens=max_new_tokens,
            eos_id=eos_id,
        )
        answers.update(zip(chosen, written, strict=True))
    return [answers[i] for i in range(len(order))]


def spread(work: Work, num_problems: int) -> list[int]:
    """Return the places of this many problems, evenly spread in length."""
    order = sorted(range(len(work.rows)), key=lambda i: len(work.rows[i].question))
    return [order[(2 * i + 1) * len(order) // (2 * num_problems)] for i in range(num_problems)]


def theirs(
    work: Work, places: list[int], *, forced: tuple[int, ...], max_new_tokens: int, eos_id: int
) -> list[tuple[int, ...]]:
    return [
        decoding.solve(
            work.plain,
            work.rows[place].question,
            num_thoughts=NUM_THOUGHTS,
            forced=forced,
            max_new_tokens=max_new_tokens,
            eos_id=eos_id,
        )
        for place in places
    ]


def rows(settings: Settings) -> Iterator[Row]:
    sizes = QUICK if settings.quick else SIZES | LARGE if settings.thorough else SIZES
    for name, (num_problems, num_tokens, num_reference) in sizes.items():
        work = make(name, batch_size=num_problems)
        work.model.eval()
        work.plain.eval()
        tiny = name == "tiny"
        eos = work.model.tokenizer.eos_token_id
        assert isinstance(eos, int)
        options: dict[str, Any] = {
            "forced": work.model.encoder.marker if tiny else FORCED,
            "max_new_tokens": num_tokens,
            "eos_id": eos if tiny else -1,  # random weights never end by themselves: all rows go the whole way
        }
        places = spread(work, num_reference)
        answers = [written.tokens for written in ours(work, **options)]
        assert [answers[place] for place in places] == theirs(work, places, **options), f"{name}: other answers"
        batched, single = alternate(
            settings,
            lambda work=work, options=options: ours(work, **options),
            lambda work=work, options=options, places=places: theirs(work, places, **options),
            warm_up=False,
        )
        yield row(
            "evaluation",
            f"{name}, {num_problems} problems",
            ours=("batched, cached", batched),
            other=("one at a time, no cache", single),
            target="≥ 15",
            scale=num_problems / num_reference,
        )
