"""Processes that share an optimizer step: the problems of one process's step, each once, as many batches in each."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_peft.errors import UserError
from lrd_peft.sampling import LengthBucketSampler, ProcessBatches, StepSampler, count_steps
from tests import tiny

Batches = list[list[tuple[int, int]]]


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
    for index, step in StepSampler(alone, problems_per_step=per_step):
        steps.setdefault(step - 2 * math.ceil(len(lengths) / per_step), []).append(index)
    ours: dict[int, list[int]] = {}
    assert len({len(batches) for batches in found}) == 1
    for batches in found:
        for batch in batches:
            assert 1 <= len(batch) <= batch_size and len({step for _, step in batch}) == 1
            for index, step in batch:
                ours.setdefault(step, []).append(index)
    first = min(ours)
    for step, problems in steps.items():
        taken = sorted(ours.get(first + step, []))
        assert len(set(taken)) == len(taken)  # none twice
        if len(problems) == per_step:
            assert taken == sorted(problems)
        else:
            assert set(taken) <= set(problems) and len(problems) - len(taken) < num_processes


def test_what_cannot_be_shared_out_is_left_to_another_epoch() -> None:
    # two processes, batches of 2: steps of 4, then one problem that the second process has no other beside
    assert [len(batches) for batches in shared_out([9] * 9, batch_size=2, accumulation=1, num_processes=2)] == [2, 2]
    # three are 2 and 1
    last = [batches[-1] for batches in shared_out([9] * 11, batch_size=2, accumulation=1, num_processes=2)]
    assert [len(batch) for batch in last] == [2, 1]


def test_too_few_problems_for_the_processes() -> None:
    with pytest.raises(UserError, match="2 training problems are too few for 3 processes"):
        shared_out([5, 6], batch_size=4, accumulation=1, num_processes=3)


def test_steps_of_one_process_are_counted_as_before(tmp_path: Path) -> None:
    args = tiny.arguments(tmp_path, num_train_epochs=3, gradient_accumulation_steps=2)
    assert [count_steps(args, num_problems) for num_problems in (1, 8, 9, 17)] == [3, 3, 6, 9]
