"""The choices that flags and the Python API share."""

from __future__ import annotations

import typing

import pytest

from lrd_peft.config import choices
from lrd_peft.config.choices import Positions, check_choice
from lrd_peft.runtime.errors import UserError


def test_every_choice_of_a_literal_is_accepted() -> None:
    for value in typing.get_args(Positions):
        check_choice("positions", value, Positions)


@pytest.mark.parametrize("value", ["thought", "", None, 3])
def test_other_values_are_refused_with_the_choices(value: typing.Any) -> None:
    with pytest.raises(UserError, match=r'positions is ".*"; it must be one of thoughts\+answer, thoughts, all'):
        check_choice("positions", value, Positions)


def test_the_nearest_choice_is_suggested() -> None:
    with pytest.raises(UserError, match='Did you mean "annealed"'):
        check_choice("thoughts_from", "aneeled", choices.ThoughtsFrom)
