"""A training that was stopped and resumed equals the uninterrupted one bit for bit; NaN stops it and loses nothing."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from lrd_peft.runtime.checksums import checksums
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.interrupt import Stopped, heard
from lrd_peft.runtime.json_files import write_sealed
from lrd_peft.training.checkpoints import last_checkpoint, mark_complete
from tests.training.resumed import make_trainer
from tests.training.small import weights

ROOT = Path(__file__).resolve().parents[2]


def trained(folder: Path, *, resume: str | None = None) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    run = make_trainer(folder)
    run.train(resume_from_checkpoint=resume)
    return weights(run.student), run.curve()


def assert_same(ours: Any, theirs: Any) -> None:
    assert ours[0].keys() == theirs[0].keys()
    for name, value in ours[0].items():
        assert torch.equal(value, theirs[0][name]), name
    assert ours[1] == theirs[1]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return trained(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(("where", "step", "left"), [("between", 7, 6), ("inside", 8, 6), ("inside", 2, None)], ids=str)
def test_killed_and_resumed_equals_uninterrupted(
    where: str, step: int, left: int | None, uninterrupted: Any, tmp_path: Path
):
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.killed_training", str(tmp_path / "run"), where, str(step)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    half = tmp_path / "run" / f"checkpoint-{step}"
    assert half.is_dir() == (where == "inside")
    resume = last_checkpoint(tmp_path / "run")
    assert resume == (None if left is None else str(tmp_path / "run" / f"checkpoint-{left}"))
    assert not half.exists()
    assert_same(trained(tmp_path / "run", resume=resume), uninterrupted)


def test_the_same_command_gives_the_same_weights(uninterrupted: Any, tmp_path: Path):
    assert_same(trained(tmp_path), uninterrupted)


def test_one_checkpoint_is_kept_with_all_that_is_trained(tmp_path: Path):
    run = make_trainer(tmp_path)
    run.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-10"]
    saved = load_file(tmp_path / "checkpoint-10" / "model.safetensors")
    own = weights(run.student)
    assert saved.keys() == own.keys()
    assert {name for name in saved if not name.startswith("lm.")} >= {
        "projectors.1.weight",
        "projectors.3.bias",
        "thought_adapter.weight",
    }
    assert all(torch.equal(saved[name], own[name]) for name in saved)


def test_the_checkpoint_of_another_training_is_refused(tmp_path: Path):
    make_trainer(tmp_path, num_train_epochs=1).train()
    other = make_trainer(tmp_path)
    other.prepare()
    del other.student.projectors["2"]
    with pytest.raises(UserError, match=r"made by another training"):
        other.train(resume_from_checkpoint=last_checkpoint(tmp_path))


def test_half_written_checkpoints_do_not_count(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert last_checkpoint(tmp_path / "nowhere") is None
    for step in (2, 4, 10, 11):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        write_sealed(folder / "complete.json", {"step": step, "files": checksums(folder, ["model.safetensors"])})
    (tmp_path / "checkpoint-11" / "model.safetensors").write_bytes(b"weighty")
    (tmp_path / "checkpoint-12").mkdir()
    (tmp_path / "checkpoint-12" / "model.safetensors").touch()
    (tmp_path / "checkpoint-notes").mkdir()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    assert not (tmp_path / "checkpoint-12").exists() and (tmp_path / "checkpoint-notes").exists()
    first, second = caplog.messages
    assert "checkpoint-12 does not count and is removed: it was not finished" in first
    assert "checkpoint-11 does not count and is removed: model.safetensors is damaged: checksum" in second


class Signal(TrainerCallback):
    """Sends a signal to this process in the middle of a step, as a scheduler or Ctrl-C does."""

    def __init__(self, number: int, *, step: int) -> None:
        self.number, self.step = number, step

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ("step", "number"), [(1, signal.SIGTERM), (7, signal.SIGINT), (8, signal.SIGTERM), (10, signal.SIGTERM)]
)
def test_told_to_end_it_saves_after_the_step_and_goes_on_as_if_nothing_was(
    step: int, number: int, uninterrupted: Any, tmp_path: Path
):
    """Steps 1 and 7 are between two log lines and between two checkpoints, 10 is the last."""
    run = make_trainer(tmp_path)
    run.add_callback(Signal(number, step=step))
    with pytest.raises(Stopped) as stopped, heard():
        run.train()
    assert stopped.value.status == 128 + number
    resume = last_checkpoint(tmp_path)
    assert resume == str(tmp_path / f"checkpoint-{step}")
    assert_same(trained(tmp_path, resume=resume), uninterrupted)


def test_a_training_of_part_of_an_epoch_is_not_trained_past_its_end(tmp_path: Path):
    """Killed after the last checkpoint and before the model was saved; 20 problems, 2 of 5 steps."""
    part = {"num_train_epochs": 0.4, "lr_scheduler_type": "constant", "warmup_steps": 0}
    run = make_trainer(tmp_path, **part)
    run.train()
    again = make_trainer(tmp_path, **part)
    again.train(resume_from_checkpoint=last_checkpoint(tmp_path))
    assert_same((weights(again.student), again.curve()), (weights(run.student), run.curve()))
    assert again.state.global_step == 2


PLANTED = ("optimizer.pt", "scheduler.pt", "rng_state.pth")


class Planted:
    """What a pickle may hold: a call that is made when it is opened."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("plain", [False, True], ids=["torch.save", "pickle"])
def test_a_pickle_in_a_checkpoint_is_not_opened(name: str, plain: bool, tmp_path: Path):
    make_trainer(tmp_path, num_train_epochs=0.4).train()
    checkpoint = Path(str(last_checkpoint(tmp_path)))
    bad = Planted(tmp_path / "canary")
    if plain:
        (checkpoint / name).write_bytes(pickle.dumps(bad, protocol=2))
    else:
        torch.save({"state": bad}, checkpoint / name)
    (checkpoint / "complete.json").unlink()
    mark_complete(checkpoint, step=2)  # whoever plants a pickle can make its checksum, too
    with pytest.raises(UserError, match=r"holds pickled objects other than tensors and numbers.*delete that folder"):
        make_trainer(tmp_path).train(resume_from_checkpoint=last_checkpoint(tmp_path))
    assert not (tmp_path / "canary").exists()
    pickle.loads(pickle.dumps(bad))
    assert (tmp_path / "canary").exists(), "the planted call works when it is made"


class Break(TrainerCallback):
    """Puts a bad value into a weight before a step, or into a gradient."""

    def __init__(self, model: torch.nn.Module, *, step: int, gradient: bool) -> None:
        self.model, self.step, self.gradient = model, step, gradient

    def _break(self, value: torch.Tensor) -> None:
        value.view(-1)[0] = float("inf")

    def parameter(self) -> torch.nn.Parameter:
        return next(p for name, p in self.model.named_parameters() if "lora_B" in name)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step + 1 == self.step and not self.gradient:
            self._break(self.parameter().data)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step + 1 == self.step and self.gradient:
            gradient = self.parameter().grad
            assert gradient is not None
            self._break(gradient)


@pytest.mark.parametrize(
    ("step", "gradient", "save_steps", "message", "good"),
    [
        (5, False, 2, "the loss is (nan|inf) at update 5", 4),
        (1, False, 2, "the loss is (nan|inf) at update 1", None),
        # the loss was still finite; the weights after the step are not
        (4, True, 2, "holds NaN or Inf after update 4", 2),
        (5, True, 2, "the loss is (nan|inf) at update 6", 4),
        (10, True, 4, "holds NaN or Inf after update 10", 8),
    ],
)
def test_nan_stops_and_keeps_the_last_good_checkpoint(
    step: int, gradient: bool, save_steps: int, message: str, good: int | None, tmp_path: Path
):
    run = make_trainer(tmp_path, save_steps=save_steps, max_grad_norm=0.0)
    run.add_callback(Break(run.student, step=step, gradient=gradient))
    kept = f"last good checkpoint is .*checkpoint-{good}\\." if good else "no checkpoint had been written yet"
    with pytest.raises(UserError, match=f"{message}.*{kept}.*Lower the learning rate"):
        run.train()
    last = last_checkpoint(tmp_path)
    assert (last is None) if good is None else (last is not None and last.endswith(f"checkpoint-{good}"))
    if last is not None:
        saved = load_file(Path(last) / "model.safetensors")
        assert all(bool(value.isfinite().all()) for value in saved.values())
        make_trainer(tmp_path).train(resume_from_checkpoint=last)
