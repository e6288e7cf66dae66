"""What is refused before a run begins."""

from __future__ import annotations

from typing import Any

import pytest

from lrd_peft import processes
from lrd_peft.config import RunConfig
from lrd_peft.errors import UserError
from lrd_peft.experiments.preflight import preflight


def test_a_student_sees_no_more_of_an_endless_set_than_its_teacher() -> None:
    with pytest.raises(UserError, match="num_student_problems is 8001, but the teacher sees 8000 of math-mini"):
        preflight(RunConfig(dataset="math-mini", num_student_problems=8001))
    preflight(RunConfig(dataset="math-mini", num_student_problems=8000))
    preflight(RunConfig(dataset="math-mini", num_student_problems=8001, num_train_problems=9000))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtype": "float16"}, 'dtype is "float16".*use "bfloat16"'),
        ({"quantization": "4bit", "teacher_tuning": "qlora"}, 'quantization is "4bit".*ddp.yaml'),
    ],
)
def test_what_cannot_be_spread_is_refused(options: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(processes)["_sharding"], "asked", True)
    with pytest.raises(UserError, match=said):
        preflight(RunConfig(**options))
