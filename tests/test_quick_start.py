"""The specification's surface, word for word, in a checkout and from the wheel: its quick start, its command lines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

QUICK_START = """
from {package}.model import TeacherModel, StudentModel
from {package}.distillation import LatentDistillationLoss
from {package}.lora import create_lora_model
from {trainer} import LRDPEFTTrainer
from {utils} import load_problems

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

MODULES = {
    "src": {"trainer": "src.trainer", "utils": "src.utils"},
    "lrd_peft": {"trainer": "lrd_peft", "utils": "lrd_peft.data"},
}


@pytest.fixture(scope="session")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the wheel of this checkout is installed, without its dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    built, site = str(folder / "built"), folder / "site"
    for command in (
        ["hatchling", "build", "-t", "wheel", "-d", built],
        ["pip", "install", "--no-deps", "--no-index", "--find-links", built, "--target", str(site), "lrd-peft"],
    ):
        done = subprocess.run([sys.executable, "-m", *command], cwd=root, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
    return site


def installed(*command: str, wheel: Path, place: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with the wheel first on the paths."""
    path = os.pathsep.join([str(wheel / "bin"), os.environ["PATH"]])
    environment = {**os.environ, "PYTHONPATH": str(wheel), "PATH": path}
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300)


def test_the_package_comes_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    done = installed(sys.executable, "-c", "import lrd_peft; print(lrd_peft.__file__)", wheel=wheel, place=tmp_path)
    assert Path(done.stdout.strip()).is_relative_to(wheel), done.stderr


@pytest.mark.parametrize("package", ["src", "lrd_peft"])
def test_the_quick_start_runs(package: str, root: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """`src` in a checkout, `lrd_peft` from the wheel in an empty folder."""
    code = QUICK_START.format(package=package, **MODULES[package])
    if package == "src":
        done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=300)
    else:
        done = installed(sys.executable, "-c", code, wheel=request.getfixturevalue("wheel"), place=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "steps 6 loss True" in done.stdout


@pytest.mark.parametrize(
    ("start", "flags"),
    [
        ("main.py", "--epochs 3 --alpha 0.1 --lr 1e-4 --lora_r 16"),
        ("lrd", "--epochs 5 --alpha 0.15 --lr 5e-5 --batch_size 8 --lora_r 32 --distill_layers 8 9 10 11 12"),
    ],
    ids=["checkout", "wheel"],
)
def test_the_command_lines_run(
    start: str, flags: str, root: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    small = "--num_train_problems 16 --num_validation_problems 0 --num_eval_problems 4 --num_threads 1 --max_stage 1"
    arguments = [*flags.split(), *small.split(), "--output_dir", str(tmp_path / "run")]
    if start == "main.py":
        done = subprocess.run(
            [sys.executable, start, *arguments], cwd=root, capture_output=True, text=True, timeout=300
        )
    else:
        done = installed(start, "run", *arguments, wheel=request.getfixturevalue("wheel"), place=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "latent-lora" in done.stdout
    assert (tmp_path / "run" / "record.json").is_file()


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("lrd run --config demo --dry_run", "teacher: tiny-latent-teacher, 12 blocks"),
        ("lrd study few --dry_run", "40 cells of 40"),
        ("python -m lrd_peft --help", "Start with: lrd run --config demo"),
        ("lrd --version", "lrd"),
    ],
)
def test_recipes_and_studies_are_in_the_wheel(command: str, shown: str, wheel: Path, tmp_path: Path) -> None:
    words = command.split()
    done = installed(*([sys.executable, *words[1:]] if words[0] == "python" else words), wheel=wheel, place=tmp_path)
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "folder"),
    [("lrd run --config no_such", "recipes"), ("lrd study no_such", "studies")],
    ids=["recipe", "study"],
)
def test_a_wrong_name_lists_what_the_wheel_holds(
    command: str, folder: str, root: Path, wheel: Path, tmp_path: Path
) -> None:
    recipes = root / "src" / "lrd_peft" / "recipes"
    places = (recipes, recipes / "published") if folder == "recipes" else (recipes / "studies",)
    names = sorted(path.stem for place in places for path in place.glob("*.yaml"))
    done = installed(*command.split(), wheel=wheel, place=tmp_path)
    assert done.returncode == 2
    assert done.stderr.rstrip().endswith(f"one of {', '.join(names)}")
