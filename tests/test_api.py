"""The public API in Hugging Face's shape, used the way a script uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback

import lrd_peft
from lrd_peft import (
    LRDPEFTConfig,
    LRDPEFTTrainer,
    Problem,
    StudentModel,
    TeacherModel,
    ThinkingOptions,
    UserError,
    create_lora_model,
    load_problems,
)


def test_every_public_name_is_there_and_documented() -> None:
    for name in lrd_peft.__all__:
        value = getattr(lrd_peft, name)
        assert name == "__version__" or (value.__doc__ or "").strip(), name
    assert {"Store", "RunConfig", "think", "LatentDistillationLoss"} <= set(lrd_peft.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lrd_peft.nothing  # noqa: B018


class CountUpdates(TrainerCallback):
    def __init__(self) -> None:
        self.count = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.count += 1


def test_the_block_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    problems = load_problems("gsm-mini", split="train", limit=8)
    assert isinstance(problems[0], Problem)
    options = ThinkingOptions(num_thoughts=2)
    teacher = TeacherModel.from_pretrained("tiny-teacher", options=options)
    student = StudentModel.from_pretrained("tiny-student", options=options)
    student = create_lora_model(student, r=4, lora_alpha=8)
    counter = CountUpdates()
    trainer = LRDPEFTTrainer(
        student_model=student,
        teacher_model=teacher,
        train_dataset=problems,
        eval_dataset=problems[:2],
        args=LRDPEFTConfig(output_dir="out", max_steps=2, per_device_train_batch_size=4, use_cpu=True, report_to=[]),
        callbacks=[counter],
        peft_config=None,
    )
    trainer.train()
    assert counter.count == 2
    assert 0 <= trainer.evaluate()["eval_accuracy"] <= 1
    trainer.save_model("by-trainer")
    student.save_pretrained("by-student")
    questions = [problem.question_text for problem in problems[:2]]
    texts = student.generate(questions, max_new_tokens=8)
    assert texts == [solution.text for solution in student.solve(questions, max_new_tokens=8)]
    for folder in ("by-trainer", "by-student"):
        assert StudentModel.from_pretrained(folder).generate(questions, max_new_tokens=8) == texts
    with pytest.raises(UserError, match='cannot upload to "me/model"'):
        student.push_to_hub("me/model")  # the tests are offline; tests/model/test_hub.py publishes


def test_adapters_by_peft_config() -> None:
    config = LoraConfig(r=4, use_rslora=True, target_modules="all-linear")
    assert create_lora_model(StudentModel("tiny-student"), peft_config=config).has_adapters
