"""Answering: batched and cached against one problem at a time without a cache."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measure import Row, Settings, alternate, row
from benchmarks.reference import decoding
from benchmarks.work import NUM_THOUGHTS, Work, make
from lrd_peft.data.collate import left_pad
from lrd_peft.model.generate import Generated, generate

FORCED = (5, 6, 7)
# work -> problems, tokens at most, problems that the reference solves (its time is multiplied)
SIZES = {"gpt2-256x4-50k": (32, 16, 2), "llama-256x4-50k": (32, 16, 2), "gpt2-124m": (16, 12, 1), "tiny": (64, 16, 8)}
QUICK = {"gpt2-256x4-50k": (16, 8, 2), "tiny": (32, 12, 4)}


def ours(work: Work, *, forced: tuple[int, ...], max_new_tokens: int, eos_id: int) -> list[Generated]:
    ids, mask = left_pad([row.question for row in work.rows], pad_id=0)
    return generate(
        work.model.lm,
        ids,
        mask,
        num_thoughts=NUM_THOUGHTS,
        forced=forced,
        max_new_tokens=max_new_tokens,
        eos_id=eos_id,
    )


def theirs(
    work: Work, num_problems: int, *, forced: tuple[int, ...], max_new_tokens: int, eos_id: int
) -> list[tuple[int, ...]]:
    return [
        decoding.solve(
            work.plain,
            row.question,
            num_thoughts=NUM_THOUGHTS,
            forced=forced,
            max_new_tokens=max_new_tokens,
            eos_id=eos_id,
        )
        for row in work.rows[:num_problems]
    ]


def rows(settings: Settings) -> Iterator[Row]:
    for name, (num_problems, num_tokens, num_reference) in (QUICK if settings.quick else SIZES).items():
        work = make(name, batch_size=num_problems)
        work.model.eval()
        work.plain.eval()
        tiny = name == "tiny"
        eos = work.model.tokenizer.eos_token_id
        assert isinstance(eos, int)
        options = {
            "forced": work.model.encoder.marker if tiny else FORCED,
            "max_new_tokens": num_tokens,
            "eos_id": eos if tiny else -1,  # random weights never end by themselves: all rows go the whole way
        }
        answers = [written.tokens for written in ours(work, **options)][:num_reference]
        assert answers == theirs(work, num_reference, **options), f"{name}: other answers"
        batched, single = alternate(
            settings,
            lambda work=work, options=options: ours(work, **options),
            lambda work=work, options=options, n=num_reference: theirs(work, n, **options),
        )
        yield row(
            "evaluation",
            f"{name}, {num_problems} problems",
            ours=("batched, cached", batched),
            other=("one at a time, no cache", single),
            target="≥ 15",
            scale=num_problems / num_reference,
        )
