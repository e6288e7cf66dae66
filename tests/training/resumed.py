"""The training that the tests of resuming kill and go on with: everything that has a state is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lrd_peft.training.trainer import LRDPEFTTrainer
from tests import tiny
from tests.training.small import student, trainer

# 20 problems in batches of 4: 5 steps an epoch; a checkpoint each 2, so one within the second epoch.
ARGUMENTS: dict[str, Any] = {
    "num_train_epochs": 2,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "logging_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
}


def make_trainer(folder: Path, **changes: Any) -> LRDPEFTTrainer:
    """Adam, dropout, schedules, stages, fitted projectors, a thought adapter, drawn thoughts, steps that they write."""
    return trainer(
        folder,
        student_model=student(lora_dropout=0.2),
        teacher_model=tiny.teacher(width=32, seed=4),
        train_dataset=tiny.problems(20),
        alpha_schedule="falling",
        projector_init="least-squares",
        thoughts_from="annealed",
        student_curriculum=0.6,
        step_loss_weight=0.3,
        arguments={**ARGUMENTS, **changes},
    )
