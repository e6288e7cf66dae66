"""Training curves reach the tracker that `--report_to` names, offline: real runs, each training on its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lrd_peft.config import RunConfig
from lrd_peft.evaluation.records import read_record
from lrd_peft.integrations.trackers import track_results
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


EVALUATED = (*FLAGS, "--max_stage", "1", "--methods", "teacher-latent", "--ablate_problems", "4")
"""A run to its end."""


@pytest.mark.slow
def test_results_and_figures_follow_the_trainings(tmp_path: Path) -> None:
    for tracker in ("tensorboard", "wandb", "trackio"):
        pytest.importorskip(tracker)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    finish(lrd("run", *EVALUATED, "--output_dir", str(folder), "--report_to", "tensorboard"))
    events = EventAccumulator(str(folder / "tensorboard" / "results"), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    metrics = read_record(folder / "record.json").metrics["gsm-mini"]
    for method in ("teacher-latent", "latent-lora"):
        (value,) = [event.value for event in events.Scalars(f"gsm-mini/{method}/accuracy")]
        assert value == pytest.approx(metrics[method]["summary"]["num_right"] / 6)
    assert events.Scalars("ablation/gsm-mini/latent-lora/zeros")
    assert {Path(name).name for name in events.Tags()["images"]} == {
        path.stem for path in (folder / "report").glob("*.png")
    }
    assert "table1_main_results/text_summary" in events.Tags()["tensors"]
    # The other trackers take the results of the same run.
    assert "did not take" not in _again(folder, "wandb", WANDB_MODE="offline", WANDB_DIR=str(tmp_path))
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    content = file.read_bytes()
    assert b"run/results" in content and b"gsm-mini/latent-lora/accuracy" in content and b"run-report" in content
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/figures/*.png"))
    assert "did not take" not in _again(folder, "trackio", TRACKIO_DIR=str(tmp_path / "trackio"))
    kept = b"".join(path.read_bytes() for path in (tmp_path / "trackio").rglob("*") if path.is_file())
    assert b"gsm-mini/latent-lora/accuracy" in kept
    # One that fails is said.
    assert "wandb did not take the results:" in _again(folder, "wandb", WANDB_MODE="nonsense")


def _again(folder: Path, tracker: str, **environment: str) -> str:
    """Send a run's results to a tracker from a new process, and return what that says."""
    code = "import sys; from tests.pipeline.test_trackers import track_again; track_again(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), tracker],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def track_again(folder: str, tracker: str) -> None:
    """Send a finished run's results to another tracker."""
    flat = {**yaml.safe_load(Path(folder, "config.yaml").read_text()), "output_dir": folder, "report_to": tracker}
    track_results(RunConfig.from_flat(flat), Path(folder, "report"))


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
