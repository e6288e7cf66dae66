"""`--from_run`: a second student takes the teacher and the store of a finished run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lrd_peft.cli.app import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SMALL = (
    *("--num_train_problems", "8", "--num_validation_problems", "0", "--num_eval_problems", "2", "--max_stage", "1"),
    *("--teacher_batch_size", "4", "--max_steps", "2", "--num_threads", "1", "--device", "cpu", "--methods", "base"),
)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    root = tmp_path_factory.mktemp("runs") / "first"
    assert not main(["run", *SMALL, "--output_dir", str(root)])
    return root


@pytest.fixture
def source(first: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(first, tmp_path / "first"))


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lrd: error: ")]
    return line


@pytest.mark.parametrize("command", ["run", "distill"])
def test_a_second_student_trains_no_teacher(
    command: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (source / "teacher.done.json").read_bytes(), (source / "store.done.json").read_bytes()
    second = tmp_path / "elsewhere" / "second"
    flags = (*SMALL, "--lora_r", "4", "--seed", "0", "--output_dir", str(second))
    capsys.readouterr()
    assert not main([command, *flags, "--from_run", str(source)])
    out = capsys.readouterr().out
    assert f"teacher: from {source}" in out and f"store: from {source}" in out
    assert "teacher: begins" not in out and "store: begins" not in out and "student: begins" in out
    assert (second / "teacher").resolve() == source / "teacher"
    assert (second / "student" / "adapter_model.safetensors").is_file()
    assert before == ((source / "teacher.done.json").read_bytes(), (source / "store.done.json").read_bytes())
    if command == "distill":
        return
    record = json.loads((second / "record.json").read_text())
    assert record["environment"]["from_run"] == str(source)
    assert "from_run" not in json.loads((source / "record.json").read_text())["environment"]
    assert not main(["run", *flags])  # resumed without the flag
    assert not main(["verify", str(second)])
    third = tmp_path / "third"  # from a run that has taken them itself
    assert not main(["distill", *SMALL, "--lora_r", "2", "--output_dir", str(third), "--from_run", str(second)])
    assert (third / "store").resolve() == source / "store"


def test_other_settings_of_the_teacher_are_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = tmp_path / "second"
    common = ("run", *SMALL, "--output_dir", str(second), "--from_run", str(source))
    line = error_of(capsys, *common, "--max_stage", "2")
    assert "the teacher of" in line and "max_stage: there 1, now 2" in line and "drop --from_run" in line
    line = error_of(capsys, *common, "--store_dtype", "float32")
    assert "the store of" in line and "store_dtype: there 'bfloat16', now 'float32'" in line
    assert not second.exists(), "refused before anything is written"


def test_a_damaged_store_is_refused(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = next((source / "store").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    line = error_of(capsys, "run", *SMALL, "--output_dir", str(tmp_path / "second"), "--from_run", str(source))
    assert "the store of" in line and "is damaged" in line and "repair it" in line


def test_what_is_no_finished_run_is_refused(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("run", *SMALL, "--output_dir", str(tmp_path / "second"), "--from_run")
    assert "is not a run folder" in error_of(capsys, *flags, str(tmp_path / "nothing"))
    (source / "store.done.json").unlink()
    assert "has no finished store" in error_of(capsys, *flags, str(source))


def test_a_run_with_a_teacher_of_its_own_is_left_alone(
    first: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_of(capsys, "run", *SMALL, "--output_dir", str(source), "--from_run", str(first))
    assert "has its own teacher" in line


def test_alpha_0_needs_neither_teacher_nor_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "run"
    assert not main(["run", *SMALL, "--alpha", "0", "--output_dir", str(root)])
    out = capsys.readouterr().out
    assert "teacher: not needed for latent-lora with alpha 0, skipped" in out
    assert "store: not needed for latent-lora with alpha 0, skipped" in out
    assert not (root / "teacher").exists() and not (root / "store").exists()
    assert set(json.loads((root / "record.json").read_text())["metrics"]["gsm-mini"]) == {"base", "latent-lora"}
    assert not main(["verify", str(root)])
