"""Coconut on a student's own weights: stages, restarts of the optimizer and what is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lrd_peft.config import RunConfig, load_config
from lrd_peft.evaluation.records import read_record
from lrd_peft.model.student import StudentModel
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.pipeline.distill import _begin
from lrd_peft.pipeline.run_folder import RunPaths
from lrd_peft.pipeline.runner import run_phases
from lrd_peft.training.thinking_trainer import ThinkingTrainer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SETTINGS: dict[str, Any] = {
    "num_train_problems": 8,
    "num_validation_problems": 4,
    "num_eval_problems": 3,
    "max_stage": 2,
    "thoughts_per_step": 2,
    "thought_markers": True,
    "stage0_markers": True,
    "extra_stage": True,
    "epochs_stage0": 2,
    "epochs_per_stage": 1,
    "epochs_last_stage": 2,
    "optimizer_reset": "epoch",
    "lr_scheduler": "constant",
    "warmup_steps": 0,
    "max_grad_norm": 0,
    "batch_size": 4,
    "teacher_batch_size": 4,
    "epochs": 6,
    "max_new_tokens": 4,
    "logging_steps": 1,
    "methods": (),
    "device": "cpu",
}


def config(folder: Path, **changes: Any) -> RunConfig:
    return load_config(overrides={**SETTINGS, "output_dir": str(folder), **changes})


def seen(trainer: ThinkingTrainer) -> tuple[list[tuple[int, bool]], list[int]]:
    """Train; return the thoughts of each update's batch and whether it writes steps, and where moments restarted."""
    batches: list[tuple[int, bool]] = []
    restarts: list[int] = []
    objective = trainer.objective

    def note(model: Any, batch: Any, counts: Any) -> Any:
        batches.append((batch["num_thoughts"], bool((batch["answer_start"] > 2).any())))
        optimizer: Any = trainer.optimizer
        if not optimizer.state:
            restarts.append(trainer.state.global_step)
        return objective(model, batch, counts)

    note.begin, note.counts = objective.begin, objective.counts  # pyright: ignore[reportFunctionMemberAccess]
    note.step_loss_weight = objective.step_loss_weight  # pyright: ignore[reportFunctionMemberAccess]
    trainer.objective = note  # pyright: ignore[reportAttributeAccessIssue]
    trainer.train()
    return batches, restarts


@pytest.mark.parametrize(("reset", "restarts"), [("epoch", [0, 2, 4, 6, 8, 10]), ("stage", [0, 4, 6, 8])])
def test_stages_and_restarts_are_those_of_the_settings(reset: str, restarts: list[int], tmp_path: Path) -> None:
    """Two updates an epoch: 2 epochs of stage 0, 1 each of stages 1 and 2, 2 of the stage without steps."""
    chosen = config(tmp_path, method="coconut", optimizer_reset=reset)
    _, trainer = _begin(chosen, RunPaths(tmp_path), None, output_dir=tmp_path, max_steps=-1)
    assert trainer.args.lr_scheduler_type == "constant" and trainer.args.max_grad_norm == 0
    batches, found = seen(trainer)
    assert found == restarts
    assert [num_thoughts for num_thoughts, _ in batches] == [0] * 4 + [2] * 2 + [4] * 6
    writes = [writes for _, writes in batches]
    assert all(writes[:6]) and any(writes[6:8]) and not any(writes[8:])


@pytest.mark.parametrize("method", ["coconut", "coconut-lora"])
def test_a_step_loss_is_a_part_of_the_loss(method: str, tmp_path: Path) -> None:
    run_phases(config(tmp_path, method=method, step_loss_weight=0.5, max_steps=6), ("student",))
    student = StudentModel.from_pretrained(tmp_path)
    assert student.has_adapters == (method == "coconut-lora")
    assert student.options.num_thoughts == 4 and student.options.empty_markers


def test_a_teacher_goes_through_the_extra_stage(tmp_path: Path) -> None:
    short = {"epochs_stage0": 1, "epochs_last_stage": 1, "epochs": 1}
    run_phases(config(tmp_path, method="teacher-latent", **short), ("teacher", "evaluation"))
    note = [row for row in read_record(tmp_path / "record.json").curves if "accuracy" in row]
    assert [row["stage"] for row in note] == [0, 1, 2, 3]
    teacher = TeacherModel.from_pretrained(tmp_path / "teacher" / "latent")
    assert teacher.options.num_thoughts == 4
    assert sorted(path.name for path in (tmp_path / "teacher").iterdir()) == ["cot", "latent"]
