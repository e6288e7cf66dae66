"""The memory that a dry run states, against what a real update holds at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.measure import peak_bytes
from benchmarks.work import make_lm
from lrd_peft import StudentModel, TeacherModel
from lrd_peft.model.loading.lm import load_lm
from lrd_peft.pipeline.dry_run.memory_use import TrainingMemory
from lrd_peft.pipeline.from_config import student_options, thinking_options, with_lora
from lrd_peft.training.curriculum import StageCollator
from tests.pipeline.test_dry_run_work import dry_run_of, real_batch


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose weights outweigh its activations: GPT-2-like, 50,257 tokens, width 256."""
    folder = tmp_path_factory.mktemp("wide")
    make_lm("gpt2-256x4-50k").save_pretrained(folder)
    load_lm("tiny-teacher").tokenizer.save_pretrained(folder)
    return str(folder)


def held_at_once(model: TeacherModel | StudentModel, stage: int) -> float:
    """Weights, moments, and the most that an update with Trainer's optimizer holds beside them."""
    batch = real_batch(model, stage)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=True)

    def update() -> None:
        optimizer.zero_grad(set_to_none=True)
        output = model(**batch)
        (output.loss_sum / output.num_labels).backward()
        optimizer.step()

    update()  # makes the moments
    weights = sum(parameter.numel() for parameter in model.parameters())
    return 4 * weights + 8 * sum(parameter.numel() for parameter in trained) + peak_bytes(update)


@pytest.mark.parametrize("stage", [0, 4])
@pytest.mark.parametrize("what", ["all weights", "lora", "tiny"])
def test_the_memory_of_a_training_is_what_an_update_holds_at_once(what: str, stage: int, wide: str):
    names: dict[str, Any] = {} if what == "tiny" else {"teacher": wide, "student": wide}
    run = dry_run_of(teacher_tuning="full", distill_alpha=0.0, **names)
    if what == "all weights":
        model, sketch = TeacherModel(wide, options=thinking_options(run.config)).train(), run.teacher
    else:
        student = StudentModel("tiny-student" if what == "tiny" else wide, options=student_options(run.config))
        model, sketch = with_lora(run.config, student).train(), run.student
    assert sketch is not None
    collator = StageCollator(sketch.one_block, stage, max_stage=4, thoughts_per_step=1)
    batch = run._teacher_batch(collator) if what == "all weights" else run._student_batch(collator)
    stated = TrainingMemory.of(
        num_frozen=sketch.num_frozen, num_trained=sketch.num_updated, half=False, activations=batch.activation_bytes
    )
    assert stated.total == pytest.approx(held_at_once(model, stage), rel=0.1)
