"""What a user can get wrong, at the command line: one clear line, exit status 2, no traceback, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from lrd_peft.cli.app import main

SMALL = (
    *("--num_train_problems", "4", "--num_validation_problems", "0", "--num_eval_problems", "2", "--max_stage", "1"),
    *("--epochs_stage0", "0", "--epochs_per_stage", "0", "--epochs", "1", "--num_threads", "1", "--device", "cpu"),
)
ROW = {"question": "Ann has 3 pens. She buys 4 more. How many?", "steps": ["Ann: 3 + 4 = 7"], "answer": "7"}


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command line, which must fail, and return its one line."""
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    lines = [line for line in error.splitlines() if line.startswith("lrd: error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (("--lorra_r", "4"), ("--lorra_r", "--lora_r")),
        (("--alpha", "1.5"), ("1.5", "distill_alpha")),
        (("--teacher", "tiny-teecher"), ("tiny-teecher", "tiny-teacher")),
        (("--student", "tiny-studnt"), ("tiny-studnt", "tiny-student")),
        (("--dataset", "gsm-mino"), ("gsm-mino", "gsm-mini")),
        (("--distill_layers", "8", "40"), ("40", "12 blocks", "0 ")),
        (("--student_layers", "1", "2", "3", "4", "9"), ("9", "6 blocks")),
        (("--prompt_style", "chat"), ("chat template", "plain")),
        (("--max_length", "5"), ("longer than", "5 tokens")),
        (("--methods", "base", "latent-lorra"), ("latent-lorra", "latent-lora")),
        (("--lora_targets", "q_projj"), ("q_projj", "q_proj")),
    ],
    ids=lambda value: value[0].strip("-") if isinstance(value, tuple) else None,
)
def test_a_wrong_value_is_named_with_what_is_right(
    flags: tuple[str, ...], parts: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_of(capsys, "run", *SMALL, "--output_dir", str(tmp_path / "run"), *flags)
    for part in parts:
        assert part in line


def test_an_unknown_key_of_a_yaml_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("lora_r: 4\nlearnig_rate: 0.1\n")
    line = error_of(capsys, "run", "--config", str(path))
    assert "recipe.yaml" in line and "learnig_rate" in line and "learning_rate" in line


def test_a_malformed_row_is_named_by_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(ROW) + "\n{not json\n")
    line = error_of(capsys, "run", *SMALL, "--dataset", str(path), "--output_dir", str(tmp_path / "run"))
    assert "train.jsonl" in line and "2" in line


def test_an_empty_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("")
    line = error_of(capsys, "run", *SMALL, "--dataset", str(path), "--output_dir", str(tmp_path / "run"))
    assert "train" in line and "no usable problem" in line and "empty" in line


def test_an_output_folder_that_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    line = error_of(capsys, "run", *SMALL, "--output_dir", str(folder))
    assert "not empty" in line and "--output_dir" in line
    assert (folder / "thesis.tex").read_text() == "years of work"


def test_an_output_folder_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run"
    path.write_text("a file")
    assert "cannot be a run folder" in error_of(capsys, "run", *SMALL, "--output_dir", str(path))
    assert path.read_text() == "a file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_without_permission(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o500)
    line = error_of(capsys, "run", *SMALL, "--output_dir", str(tmp_path / "run"))
    tmp_path.chmod(0o700)
    assert "permission" in line


def test_a_phase_before_its_turn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(capsys, "distill", *SMALL, "--output_dir", str(tmp_path / "run"))
    assert "no finished store" in line and "lrd extract" in line


def test_a_disk_too_small_for_the_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lrd_peft.store import require_space

    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(ValueError, match="GB free"):
        require_space(tmp_path, free * 2)


def test_no_run_to_solve_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no run" in error_of(capsys, "solve", str(tmp_path / "run"), "What?")
