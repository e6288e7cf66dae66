"""Students that refine their teacher's thoughts in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lrd_peft.training.curriculum import last_stage
from tests import tiny
from tests.training.small import assert_close, student, trainer, weights

SGD = {"optim": "sgd", "learning_rate": 0.1}
WIDER: dict[str, Any] = {"width": 32, "seed": 4}


def test_with_as_many_passes_as_thoughts_refining_equals_the_students_own(tmp_path: Path):
    after = []
    for options in ({"thoughts_from": "student"}, {"thoughts_from": "refined", "refine_passes": 2}):
        own = student()
        trainer(tmp_path, student_model=own, teacher_model=tiny.teacher(), arguments=SGD, **options).train()
        after.append(weights(own))
    assert_close(*after)


@pytest.mark.parametrize("passes", [1, 2])
def test_gradings_tell_how_far_refined_thoughts_are(passes: int, tmp_path: Path):
    own, teacher, data = student(), tiny.teacher(**WIDER), tiny.problems(8)
    run = trainer(
        tmp_path,
        student_model=own,
        teacher_model=teacher,
        train_dataset=data,
        eval_dataset=tiny.problems(4, seed=1),
        thoughts_from="refined",
        refine_passes=passes,
        arguments=SGD,
    )
    assert "eval_thought_distance" not in run.evaluate()
    run.train()
    found = run.evaluate()["eval_thought_distance"]
    collator = last_stage(own)
    batch = collator(run.items)
    taught = last_stage(teacher)(run.items)
    with torch.no_grad():
        assert own.thought_adapter is not None
        start = own.thought_adapter(teacher(**taught, with_loss=False).thoughts)
        sequential = own(**batch, with_loss=False).thoughts[:, 1]
        refined = own(**batch, with_loss=False, start=start, refine_passes=passes).thoughts[:, 1]
    variance = sequential.var(dim=0, correction=0).mean()
    assert found == pytest.approx(float((refined - sequential).square().mean() / variance), rel=1e-3, abs=1e-6)
    assert (found < 1e-6) == (passes == 2)
