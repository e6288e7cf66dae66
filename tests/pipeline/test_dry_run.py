"""The dry run: counts that are worked out by hand, without weights and without a trace on disk."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lrd_peft.config import load_config
from lrd_peft.model.student import StudentModel
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.pipeline.dry_run.describe import dry_run


def test_counts_are_those_of_the_loaded_models(tmp_path: Path) -> None:
    config = load_config(["--num_train_problems", "50", "--output_dir", str(tmp_path / "run"), "--lora_r", "4"])
    text = dry_run(config)
    teacher, student = TeacherModel("tiny-teacher"), StudentModel("tiny-student")
    assert f"12 blocks, width 80, {teacher.num_parameters():,} parameters" in text
    assert f"6 blocks, width 72, {student.num_parameters():,} parameters" in text
    # r (in + out) for each linear layer: 4 of 72 x 72, gate and up 72 -> 192, down 192 -> 72; six blocks. Five maps
    # from the student's width to the teacher's, with biases.
    num_adapters, num_projectors = 6 * 4 * (4 * (72 + 72) + 3 * (72 + 192)), 5 * (72 * 80 + 80)
    assert f"trained in the student: {num_adapters + num_projectors:,} parameters" in text
    assert "8->4, 9->5, 10->5, 11->6, 12->6" in text
    assert "problems: 50" in text
    assert not (tmp_path / "run").exists()


def test_the_recipe_of_the_specification(root: Path) -> None:
    config = load_config(["--config", str(root / "src" / "lrd_peft" / "recipes" / "llama2.yaml")])
    text = dry_run(config)
    assert "32 blocks, width 4096, 6,738,415,616 parameters" in text
    # 13 of 32 blocks of 202,383,360 parameters, two embeddings of 32,000 x 4,096 and the last norm.
    assert f"13 blocks, width 4096, {13 * 202_383_360 + 2 * 32_000 * 4096 + 4096:,} parameters (42.9%" in text


@pytest.mark.parametrize(("name", "share"), [("demo", "37.1%"), ("quick", "43.0%"), ("tiny", "43.0%")])
def test_the_offline_recipes(name: str, share: str, root: Path) -> None:
    text = dry_run(load_config(["--config", str(root / "src" / "lrd_peft" / "recipes" / f"{name}.yaml")]))
    assert f"({share} of the teacher's)" in text


def _scale_blocks() -> list[tuple[str, list[str]]]:
    """Return each command of docs/how-to/large-runs.md with the lines that stand under it."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "large-runs.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```\n\$ lrd run ([^\n]*) --dry_run\n(.*?)\n```", text, flags=re.DOTALL)
    return [(flags, lines.split("\n")) for flags, lines in blocks]


@pytest.mark.parametrize(("flags", "lines"), _scale_blocks(), ids=lambda value: value if isinstance(value, str) else "")
def test_the_page_on_scale_says_what_the_dry_run_says(
    flags: str, lines: list[str], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    printed = dry_run(load_config(flags.split())).split("\n")
    assert lines and [line for line in lines if line not in printed] == []


def test_hours_and_memory_follow_the_method(root: Path) -> None:
    recipe = ["--config", str(root / "src" / "lrd_peft" / "recipes" / "tiny.yaml"), "--num_train_problems", "40"]
    printed = dry_run(load_config([*recipe, "--method", "direct"])).split("\n")
    rows = [line.split()[0] for line in printed[printed.index("") :] if line[:1].islower()]
    # no teacher, no store: neither in the table of operations nor in that of memory
    assert rows[-6:] == ["phase", "student", "evaluation", "all", "student", "student,"]
    assert not any("H100" in line for line in printed)  # such a run takes no hundredth of an hour there
