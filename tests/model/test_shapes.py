"""The shapes in the signatures are checked where the tests check types."""

from __future__ import annotations

import os

import pytest
import torch

from lrd_peft.model.loop import gather_positions, think
from tests import tiny

pytestmark = pytest.mark.skipif(os.environ.get("LRD_CHECK_TYPES") != "1", reason="needs LRD_CHECK_TYPES=1")


def test_a_wrong_shape_or_type_is_refused() -> None:
    from beartype.roar import BeartypeCallHintViolation
    from jaxtyping import TypeCheckError

    refused = (BeartypeCallHintViolation, TypeCheckError)
    states = torch.zeros(2, 5, 4)
    with pytest.raises(refused):
        gather_positions(states, torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(refused):
        gather_positions(states, torch.zeros(2, 2))
    lm, ids = tiny.student().lm, torch.zeros(1, 3, dtype=torch.int64)
    with pytest.raises(refused):
        think(lm, ids, torch.ones(1, 4, dtype=torch.int64), num_thoughts=1, suffix_ids=ids)
