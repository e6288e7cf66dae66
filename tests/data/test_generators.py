"""What every offline problem set promises: its seed decides everything, and each split holds enough of it."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_peft.data.generators import SETS, split_of


@pytest.mark.parametrize("name", SETS)
@settings(deadline=None)
@given(seed=st.integers(min_value=0, max_value=2**64))
def test_a_seed_decides_everything(name: str, seed: int) -> None:
    assert SETS[name](random.Random(seed)) == SETS[name](random.Random(seed))


@pytest.mark.parametrize(
    ("name", "train", "test"), [("gsm-mini", 5_000, 1_000), ("math-mini", 3_000, 600), ("aqua-mini", 3_000, 600)]
)
def test_there_are_enough_contents_in_each_split(name: str, train: int, test: int) -> None:
    rng = random.Random(3)
    sizes = Counter(map(split_of, {SETS[name](rng).signature for _ in range(15_000)}))
    assert sizes["train"] >= train
    assert sizes["test"] >= test
