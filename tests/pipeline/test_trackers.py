"""Training curves reach the tracker that `--report_to` names, offline: real runs, each training on its own."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from lrd_peft.config import RunConfig
from lrd_peft.pipeline.preflight import preflight
from lrd_peft.runtime.errors import UserError
from tests.pipeline.small_run import FLAGS, finish, lrd


@pytest.mark.slow
def test_wandb_offline_keeps_each_training_as_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    finish(
        lrd("train-teacher", *FLAGS, "--max_stage", "1", "--output_dir", "run", "--report_to", "wandb", cwd=tmp_path)
    )
    files = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2  # stages 0 and 1
    for stage, file in enumerate(files):
        content = file.read_bytes()
        assert f"run/teacher-{stage}".encode() in content
        assert b"train/loss" in content


@pytest.mark.slow
def test_tensorboard_logs_stay_in_the_run_folder(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    finish(lrd("train-teacher", *FLAGS, "--max_stage", "1", "--output_dir", str(folder), "--report_to", "tensorboard"))
    assert sorted(path.name for path in (folder / "tensorboard").iterdir()) == ["teacher-0", "teacher-1"]
    for stage in (folder / "tensorboard").iterdir():
        events = EventAccumulator(str(stage))
        events.Reload()
        losses = [event.value for event in events.Scalars("train/loss")]
        assert len(losses) == 2  # 24 problems in batches of 4, a line every 3 steps
        assert all(loss > 0 for loss in losses)


def test_a_tracker_that_is_not_there_is_said_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("trackio") is None:
        with pytest.raises(UserError, match=r'report_to is "trackio" but that package is not installed: pip install'):
            preflight(RunConfig.from_flat(report_to="trackio"))
    pytest.importorskip("wandb")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", os.devnull)
    with pytest.raises(UserError, match=r"no W&B key here: `wandb login` first, or set WANDB_MODE=offline"):
        preflight(RunConfig.from_flat(report_to="wandb"))
