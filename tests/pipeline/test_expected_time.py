"""The expected time of a run's trainings: said before a long one begins, and without a trace in what is trained."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from lrd_peft.config import RunConfig
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.pipeline.expected_time import FEWEST_UPDATES, student_updates, tell_expected_time
from lrd_peft.training.curriculum import StageCollator, items
from tests import tiny


def config(**changes: Any) -> RunConfig:
    chosen: dict[str, Any] = {"max_stage": 2, "teacher_batch_size": 4, "batch_size": 4, "device": "cpu", **changes}
    return RunConfig.from_flat(chosen)


@pytest.mark.parametrize(
    ("changes", "updates"),
    [
        ({"epochs": 3}, 30),  # 40 problems in batches of 4
        ({"epochs": 0.25}, 3),
        ({"epochs": 3, "gradient_accumulation_steps": 2}, 15),
        ({"epochs": 3, "num_student_problems": 8}, 6),
        ({"epochs": 3, "num_student_problems": 400}, 30),
        ({"max_steps": 7}, 7),
        ({"max_seconds": 60}, 0),
        ({"method": "base"}, 0),
    ],
)
def test_a_students_updates_are_those_that_it_makes(changes: dict[str, Any], updates: int) -> None:
    assert student_updates(config(**changes), num_problems=40) == updates


def _told(chosen: RunConfig, teacher: TeacherModel, epochs: float, caplog: pytest.LogCaptureFixture) -> list[str]:
    rows = items(teacher.encoder.encode_many(tiny.problems(8)))
    stages = [(StageCollator(teacher, stage=stage, max_stage=2, thoughts_per_step=1), epochs) for stage in range(3)]
    caplog.clear()
    drawn = torch.random.get_rng_state()
    with caplog.at_level(logging.INFO, logger="lrd_peft"):
        tell_expected_time(chosen, rows, teacher=teacher, stages=stages)
    assert torch.equal(drawn, torch.random.get_rng_state())
    return [line for line in caplog.messages if "trainings will take" in line]


@pytest.mark.parametrize("method", ["latent-lora", "direct", "icot", "codi", "coconut-lora", "pause", "distill-lora"])
def test_a_long_run_says_its_time_and_nothing_has_changed(method: str, caplog: pytest.LogCaptureFixture) -> None:
    teacher = tiny.teacher()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    (line,) = _told(config(method=method, epochs=FEWEST_UPDATES), teacher, 10, caplog)
    assert "(teacher " in line and ", student " in line
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_short_run_is_not_measured(caplog: pytest.LogCaptureFixture) -> None:
    assert not _told(config(epochs=1), tiny.teacher(), 1, caplog)
