"""What every offline problem set promises: its seed decides everything, and each split holds enough of it."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_peft.data.generators import SETS, SPLITS, generate_problems, split_of

# SHA-256 of the first 200 problems of each split, seed 0. Published numbers were measured on these problems.
FIRST_PROBLEMS = {
    ("gsm-mini", "train"): "4f6bc2eba654e97080970c834a5cc880103fa23f9a1ae65614419dc46cdc2f5c",
    ("gsm-mini", "validation"): "1336f42ea58a4c83f17e813437d8adef0330cfeb1d8e63d4514e6c586fadb986",
    ("gsm-mini", "test"): "f2ce896212e24c3290ae2f22ce5bcff628dfbc9cf319d6618249434c707c280e",
    ("math-mini", "train"): "c763ef2a4db3a8b418a7c0095dbb61614156b758c8c1faeca7cd0895185db8bc",
    ("math-mini", "validation"): "c2f85c84a337cc25fa151370fe754b886929e043ceff130c7bb1fe619635d418",
    ("math-mini", "test"): "b8bbcffb4526c02d5a1cfa10216340268fb0d99e23ee31f578562435de8b8edc",
    ("aqua-mini", "train"): "e0642d27d2d33e5c5cfbbf62580af5ee8bdd360963961dae97d62c7c6c9025b9",
    ("aqua-mini", "validation"): "031ddeada031d89be816c657cb491bcccad675c3a1318f21a2bdabf7d6c7b89f",
    ("aqua-mini", "test"): "7ecce44927783ca49f4b71af16c31723032c67ce9068fb14aef0b46da54b2198",
    ("graph-mini", "train"): "b5119013dca9cba12d4becc5d7f76abe665200b027271fbb965db3c8be0b3256",
    ("graph-mini", "validation"): "ae6a30582bc68e230c3c11a1f915a4b4d57c316f3c718612e75b9ed6002c1cd1",
    ("graph-mini", "test"): "f847e51f40bc5159885970070f30a84a8df7b27cf503d7d2472411b3f2178638",
    ("graph-mini-deep", "train"): "cf28d635563c02bd11306700869373f943c4bb82fd09c3defbe7b8c2d329ec35",
    ("graph-mini-deep", "validation"): "5d912d42c2419fcb78c2182052a1594b4fcdf29078b6e70143f742e630528086",
    ("graph-mini-deep", "test"): "0f06974de0b0e4c864847afd58c7c4e13182417eb96d86ebaccb9b3a98ec8ce7",
    ("gsm-mini-long", "train"): "7e3b363527f5cd5345c6bb8ac344037fe51bd3efb15ae379a10cc65fee0a0e28",
    ("gsm-mini-long", "validation"): "b715dc04d96475e2e948dedd127a5a5355a1f3e5be1f09c447084fc2d92b2a9e",
    ("gsm-mini-long", "test"): "e46cafd2b28bdc251aae4455c4eb069b890cd1a4c48e8fe5fcba379a502a9fec",
}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", SETS)
def test_the_problems_are_those_that_results_were_measured_on(name: str, split: str) -> None:
    digest = hashlib.sha256()
    for problem in generate_problems(name, split=split, num_problems=200, seed=0):
        digest.update(json.dumps(problem.to_row(), sort_keys=True).encode() + b"\n")
    assert digest.hexdigest() == FIRST_PROBLEMS[name, split]


@pytest.mark.parametrize("name", SETS)
@settings(deadline=None)
@given(seed=st.integers(min_value=0, max_value=2**64))
def test_a_seed_decides_everything(name: str, seed: int) -> None:
    assert SETS[name](random.Random(seed)) == SETS[name](random.Random(seed))


@pytest.mark.parametrize(
    ("name", "draws", "train", "test"),
    [
        ("gsm-mini", 15_000, 5_000, 1_000),
        ("gsm-mini-long", 4_000, 2_500, 500),
        ("math-mini", 15_000, 3_000, 600),
        ("aqua-mini", 15_000, 3_000, 600),
        ("graph-mini", 4_000, 500, 100),
        ("graph-mini-deep", 4_000, 2_000, 400),
    ],
)
def test_there_are_enough_contents_in_each_split(name: str, draws: int, train: int, test: int) -> None:
    rng = random.Random(3)
    sizes = Counter(map(split_of, {SETS[name](rng).signature for _ in range(draws)}))
    assert sizes["train"] >= train
    assert sizes["test"] >= test
