"""Processes that share an optimizer step: the problems of one process's step, each once, as many batches in each."""

from __future__ import annotations

import math
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_peft.training.sampling import LengthBucketSampler, ProcessBatches, UpdateSampler, count_updates
from tests import tiny

Batches = list[list[tuple[int, int, bool]]]


def shared_out(lengths: list[int], *, batch_size: int, accumulation: int, num_processes: int) -> list[Batches]:
    """Return the batches of each process in the third epoch."""
    found = []
    for rank in range(num_processes):
        order = LengthBucketSampler(lengths, batch_size=batch_size * accumulation * num_processes, seed=3)
        order.set_epoch(2)
        batches = ProcessBatches(
            order, batch_size=batch_size, accumulation=accumulation, rank=rank, num_processes=num_processes
        )
        found.append(list(batches))
        assert len(found[-1]) == len(batches)
    return found


@given(
    lengths=st.lists(st.integers(1, 99), min_size=6, max_size=90),
    batch_size=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    num_processes=st.integers(2, 6),
)
@settings(max_examples=150, deadline=None)
def test_a_step_is_that_of_one_process_with_larger_batches(
    lengths: list[int], batch_size: int, accumulation: int, num_processes: int
) -> None:
    found = shared_out(lengths, batch_size=batch_size, accumulation=accumulation, num_processes=num_processes)
    per_step = batch_size * accumulation * num_processes
    alone = LengthBucketSampler(lengths, batch_size=per_step, seed=3)
    alone.set_epoch(2)
    steps: dict[int, list[int]] = {}
    for index, step in UpdateSampler(alone, problems_per_update=per_step):
        steps.setdefault(step - 2 * math.ceil(len(lengths) / per_step), []).append(index)
    ours: dict[int, list[int]] = {}
    assert len({len(batches) for batches in found}) == 1
    for batches in found:
        for batch in batches:
            assert 1 <= len(batch) <= batch_size and len({step for _, step, _ in batch}) == 1
            if any(fills for *_, fills in batch):
                assert len(batch) == 1 and batches.index(batch) >= len(batches) - accumulation
                continue
            for index, step, _ in batch:
                ours.setdefault(step, []).append(index)
    first = min(ours)
    for step, problems in steps.items():
        taken = sorted(ours.get(first + step, []))
        assert taken == sorted(problems)  # each of them, none twice


def test_a_process_without_problems_of_its_own_runs_one_that_does_not_count() -> None:
    # two processes, batches of 2: steps of 4, then one problem that the second process has no other beside
    first, second = shared_out([9] * 9, batch_size=2, accumulation=1, num_processes=2)
    assert [len(batch) for batch in first] == [len(batch) for batch in second] == [2, 2, 1]
    assert (first[-1][0][2], second[-1][0][2]) == (False, True) and first[-1][0][:2] == second[-1][0][:2]
    # three are 2 and 1
    last = [batches[-1] for batches in shared_out([9] * 11, batch_size=2, accumulation=1, num_processes=2)]
    assert [len(batch) for batch in last] == [2, 1]


def test_fewer_problems_than_processes() -> None:
    found = shared_out([5, 6], batch_size=4, accumulation=1, num_processes=3)
    assert [[fills for *_, fills in batch] for batches in found for batch in batches] == [[False], [False], [True]]


def test_steps_of_one_process_are_counted_as_before(tmp_path: Path) -> None:
    args = tiny.arguments(tmp_path, num_train_epochs=3, gradient_accumulation_steps=2)
    assert [count_updates(args, num_problems) for num_problems in (1, 8, 9, 17)] == [3, 3, 6, 9]
