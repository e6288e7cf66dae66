"""The specification's surface, word for word: its Python quick start, its two command lines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

QUICK_START = """
from {package}.model import TeacherModel, StudentModel
from {package}.distillation import LatentDistillationLoss
from {package}.lora import create_lora_model
from {package}.trainer import LRDPEFTTrainer
from lrd_peft.data import load_problems

train_dataset = load_problems("gsm-mini", split="train", limit=8)
eval_dataset = load_problems("gsm-mini", split="validation", limit=4)

# Initialize models
teacher = TeacherModel("tiny-teacher")
student = StudentModel("tiny-student")

# Apply LoRA
student = create_lora_model(student, r=16, lora_alpha=32)

# Setup trainer
trainer = LRDPEFTTrainer(
    student_model=student,
    teacher_model=teacher,
    train_dataset=train_dataset,
    eval_dataset=eval_dataset,
    distill_alpha=0.1,
    distill_layers=[8, 9, 10, 11, 12]
)

# Train
trainer.train(epochs=3, learning_rate=1e-4)
print("steps", trainer.state.global_step, "loss", trainer.evaluate()["eval_loss"] > 0)
"""


@pytest.mark.parametrize("package", ["src", "lrd_peft"])
def test_the_quick_start_runs(package: str, root: Path, tmp_path: Path) -> None:
    place = root if package == "src" else tmp_path
    path = [] if package == "src" else [str(root / "src")]
    code = f"import sys; sys.path[:0] = {path}\n" + QUICK_START.format(package=package)
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "steps 6 loss True" in done.stdout


@pytest.mark.parametrize(
    "flags",
    [
        "--epochs 3 --alpha 0.1 --lr 1e-4 --lora_r 16",
        "--epochs 5 --alpha 0.15 --lr 5e-5 --batch_size 8 --lora_r 32 --distill_layers 8 9 10 11 12",
    ],
    ids=["defaults", "custom"],
)
def test_the_command_lines_run(flags: str, root: Path, tmp_path: Path) -> None:
    small = "--num_train_problems 16 --num_validation_problems 0 --num_eval_problems 4 --num_threads 1 --max_stage 1"
    done = subprocess.run(
        [sys.executable, "main.py", *flags.split(), *small.split(), "--output_dir", str(tmp_path / "run")],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "latent-lora" in done.stdout
    assert (tmp_path / "run" / "record.json").is_file()
