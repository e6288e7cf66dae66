"""A training that grades validation problems ends when their accuracy no longer rises, resumed or not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lrd_peft.config import RunConfig
from lrd_peft.runtime.errors import UserError
from lrd_peft.training.callbacks import StopWhenLevel
from lrd_peft.training.checkpoints import last_checkpoint
from lrd_peft.training.trainer import LRDPEFTTrainer
from tests import tiny
from tests.training.small import trainer, weights


@pytest.mark.parametrize(
    ("accuracies", "patience", "over"),
    [
        ([], 1, False),
        ([0.2], 1, False),
        ([0.2, 0.3], 1, False),
        ([0.2, 0.2], 1, True),
        ([0.2, 0.1], 2, False),
        ([0.3, 0.1, 0.2], 2, True),
        ([0.3, 0.1, 0.4, 0.4], 2, False),
        ([0.3, 0.1, 0.4, 0.4, 0.39], 2, True),
        ([0.0, 0.0, 0.0], 2, True),
    ],
)
def test_a_level_accuracy_is_one_without_a_new_best(accuracies: list[float], patience: int, over: bool) -> None:
    log: list[dict[str, float]] = [{"loss": 1.0}]
    for value in accuracies:
        log += [{"eval_accuracy": value}, {"loss": 0.9}]
    assert StopWhenLevel(patience).is_over(SimpleNamespace(log_history=log)) == over


def _level(folder: Path, **changes: Any) -> LRDPEFTTrainer:
    """A training whose rate is too small to change any answer, graded each 2 of 20 updates."""
    grading = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    return trainer(
        folder,
        teacher_model=tiny.teacher(),
        eval_dataset=tiny.problems(4),
        callbacks=[StopWhenLevel(2)],
        arguments={"learning_rate": 1e-9, "max_steps": 20, **grading, **changes},
    )


def test_a_training_ends_when_its_accuracy_is_level(tmp_path: Path) -> None:
    run = _level(tmp_path)
    run.train()
    assert run.state.global_step == 6
    assert [row["step"] for row in run.curve() if "eval_accuracy" in row] == [2, 4, 6]
    again = _level(tmp_path)
    assert again.train(resume_from_checkpoint=last_checkpoint(tmp_path)) is None, "it has ended already"
    assert again.curve() == run.curve()
    for name, value in weights(run.student).items():
        assert torch.equal(value, weights(again.student)[name])


def test_a_training_stopped_between_its_gradings_ends_as_the_undisturbed_one(tmp_path: Path) -> None:
    whole = _level(tmp_path / "whole", save_steps=100)
    whole.train()
    half = _level(tmp_path / "half")
    half.args.max_steps = 4
    half.train()
    resumed = _level(tmp_path / "half")
    resumed.train(resume_from_checkpoint=last_checkpoint(tmp_path / "half"))
    assert resumed.state.global_step == whole.state.global_step == 6
    for name, value in weights(whole.student).items():
        assert torch.equal(value, weights(resumed.student)[name])


def test_patience_needs_gradings_and_gradings_need_problems() -> None:
    with pytest.raises(UserError, match="set eval_steps"):
        RunConfig.from_flat(early_stopping_patience=2)
    with pytest.raises(UserError, match="num_validation_problems is 0"):
        RunConfig.from_flat(eval_steps=10, num_validation_problems=0)
    graded = RunConfig.from_flat(eval_steps=10, early_stopping_patience=2)
    assert graded.fingerprint() != RunConfig.from_flat(eval_steps=10).fingerprint()
