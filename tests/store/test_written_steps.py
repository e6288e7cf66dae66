"""A store that aligns to written steps: which positions count, and that the other kind is as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lrd_peft.runtime.errors import UserError
from lrd_peft.store import Store, StoreSpec, StoreWriter
from tests.store import made


def steps(**changes: Any) -> StoreSpec:
    return made.spec(align_to="steps", **changes)


@pytest.mark.parametrize(
    ("num_thoughts", "each", "num_steps", "slots"),
    [
        (4, 1, 3, [0, 1, 2]),
        (4, 1, 0, []),
        (4, 1, 9, [0, 1, 2, 3]),
        (6, 2, 2, [1, 3]),
        (6, 2, 9, [1, 3, 5]),
        (6, 3, 1, [2]),
        (0, 1, 3, []),
    ],
)
def test_the_last_slot_of_each_step_counts(num_thoughts: int, each: int, num_steps: int, slots: list[int]) -> None:
    spec = steps(num_thoughts=num_thoughts, thoughts_per_step=each)
    assert list(spec.aligned_slots(num_steps)) == slots
    assert spec.targets(num_steps) == (*slots, num_thoughts)
    assert steps(num_thoughts=num_thoughts, thoughts_per_step=each, positions="thoughts").targets(num_steps) == (
        *slots,
    )
    assert list(made.spec(num_thoughts=num_thoughts).aligned_slots(num_steps)) == list(range(num_thoughts))


def test_thoughts_per_step_counts_for_written_steps_only() -> None:
    assert made.spec(thoughts_per_step=2) == made.SPEC, "it says nothing where thoughts are stored"


def test_the_specification_comes_back_with_what_it_is_aligned_to(tmp_path: Path) -> None:
    spec = steps(thoughts_per_step=2)
    assert Store.open(made.make(tmp_path, of=spec), expect=spec).spec == spec


def test_mean_and_variance_are_those_of_the_positions_that_count(tmp_path: Path) -> None:
    store = Store.open(made.make(tmp_path, of=steps(dtype="float32")))
    kept = []
    for index in range(11):
        # problem i has i % 3 steps, 2 slots, and the answer position
        mask = [index % 3 > 0, index % 3 > 1, True]
        kept.append(made.states(index, of=store.spec)[:, mask])
    values = torch.cat(kept, dim=1).double()
    for place, layer in enumerate((2, 5)):
        assert store.mean[layer] == pytest.approx(values[place].mean().item(), rel=1e-9)
        assert store.variance[layer] == pytest.approx(values[place].var(unbiased=False).item(), rel=1e-9)
    expected = [[index % 3 > 0, index % 3 > 1, True] for index in range(11)]
    assert store.target_mask(with_answer=True).tolist() == expected
    assert store.target_mask(with_answer=False).tolist() == [row[:2] for row in expected]


@pytest.mark.parametrize("other", [made.SPEC, steps()], ids=["thoughts", "steps"])
def test_a_store_of_the_other_kind_is_refused_with_both_names(tmp_path: Path, other: StoreSpec) -> None:
    made.make(tmp_path, of=other)
    asked = made.spec(align_to="thoughts" if other.align_to == "steps" else "steps")
    message = f"align_to: the store has '{other.align_to}', asked for '{asked.align_to}'"
    with pytest.raises(UserError, match=message) as refused:
        Store.open(tmp_path, expect=asked)
    assert "None" not in str(refused.value)
    with pytest.raises(UserError, match=message), StoreWriter.open(tmp_path, asked):
        pass


def test_another_number_of_slots_for_a_step_is_refused(tmp_path: Path) -> None:
    made.make(tmp_path, of=steps(thoughts_per_step=2))
    with pytest.raises(UserError, match="thoughts_per_step: the store has 2, asked for 1"):
        Store.open(tmp_path, expect=steps())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"align_to": "step"}, 'align_to is "step"; it must be one of thoughts, steps. Did you mean "steps"'),
        ({"align_to": "steps", "positions": "all"}, r'align_to "steps" has no positions "all"'),
        ({"align_to": "steps", "thoughts_per_step": 3}, "2 thoughts are no multiple of thoughts_per_step 3"),
        ({"align_to": "steps", "thoughts_per_step": 0}, "thoughts_per_step is 0"),
    ],
)
def test_a_wrong_specification_says_what_is_right(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        made.spec(**changes)


def test_a_row_without_steps_and_a_store_without_any_are_refused(tmp_path: Path) -> None:
    spec = steps(num_problems=1, positions="thoughts")
    with StoreWriter.open(tmp_path, spec) as writer:
        with pytest.raises(UserError, match="problem 0: its row has no steps"):
            writer.add(0, torch.zeros(2, 2, 8), {"question": "How many?", "answer": "1"})
        writer.add(0, torch.zeros(2, 2, 8), made.row(0))
        writer.finish()
    with pytest.raises(UserError, match=r'no problem of the store .* has steps to align to; use positions "thoughts\+'):
        Store.open(tmp_path).target_mask(with_answer=False)
