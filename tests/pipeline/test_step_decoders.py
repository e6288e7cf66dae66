"""Trainings with an auxiliary decoder: one result however it is computed, exact resume, and nothing left of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from lrd_peft.config import RunConfig, load_config
from lrd_peft.evaluation.records import read_record
from lrd_peft.model.student import StudentModel
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.pipeline.distill import _begin
from lrd_peft.pipeline.dry_run.describe import dry_run
from lrd_peft.pipeline.dry_run.weightless import weightless_student
from lrd_peft.pipeline.run_folder import RunPaths
from lrd_peft.pipeline.runner import run_phases
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.interrupt import Stopped, heard
from lrd_peft.training.checkpoints import last_checkpoint
from lrd_peft.training.thinking_trainer import ThinkingTrainer
from tests import tiny
from tests.training.small import assert_close, weights

pytestmark = pytest.mark.timeout(300)

SETTINGS: dict[str, Any] = {
    "num_train_problems": 12,
    "num_validation_problems": 0,
    "num_eval_problems": 2,
    "max_stage": 2,
    "thoughts_per_step": 2,
    "extra_stage": True,
    "epochs": 3,
    "batch_size": 4,
    "teacher_batch_size": 4,
    "max_new_tokens": 4,
    "logging_steps": 2,
    "save_steps": 3,
    "methods": (),
    "device": "cpu",
    "step_decoder": "auxiliary",
    "step_loss_weight": 0.5,
    "learning_rate": 1e-2,
}


def config(folder: Path, method: str, **changes: Any) -> RunConfig:
    settings = {**SETTINGS, "student": tiny.folder("gpt2"), "output_dir": str(folder), "method": method, **changes}
    return load_config(overrides=settings)


def trainer_of(folder: Path, method: str, **changes: Any) -> ThinkingTrainer:
    chosen = config(folder, method, **changes)
    return _begin(chosen, RunPaths(folder), None, output_dir=folder, max_steps=-1)[1]


@pytest.mark.parametrize("method", ["coconut", "codi", "codi-full", "pccot"])
def test_accumulated_batches_have_loss_and_gradients_of_one_large_batch(method: str, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, method, drop_last_step=True)
    model: Any = trainer.model.train()
    torch.manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    collator = trainer.collator.fixed(trainer.collator.stage)
    items = sorted(trainer.items, key=lambda item: len(item.encoded.steps))[:7]
    found = []
    for size in (7, 3):
        batches = [collator(items[start : start + size]) for start in range(0, len(items), size)]
        counts = trainer.objective.counts(batches)
        # Processes add up their counts.
        apart = [trainer.objective.counts([batch]) for batch in batches]
        assert {name: int(sum(int(each[name]) for each in apart)) for name in counts} == {
            name: int(count) for name, count in counts.items()
        }
        model.zero_grad()
        parts = [trainer.objective(model, batch, counts) for batch in batches]
        torch.stack([part.total for part in parts]).sum().backward()
        grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        found.append((sum(part.parts["step_loss"].item() for part in parts), grads))
    assert found[0][0] > 0.1 and found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert any(name.startswith("step_decoder.") for name in found[0][1])
    assert_close(found[0][1], found[1][1], atol=1e-5)


def test_a_batch_without_any_step_still_runs_the_decoder(tmp_path: Path) -> None:
    """Every process of a sharded training gathers its weights."""
    trainer = trainer_of(tmp_path, "codi", drop_last_step=True)
    single = next(item for item in trainer.items if len(item.encoded.steps) == 1)
    batch: Any = trainer.collator([single])
    output = trainer.model(**batch)
    assert batch["step_groups"].tolist() == [5] and output.step_sums.tolist() == [0.0] * 5
    assert trainer.compute_loss(trainer.model, batch, return_outputs=True)[1].parts["step_loss"] == 0


class SignalAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("method", "update"), [("coconut", 7), ("codi", 2)])
def test_stopped_and_resumed_equals_uninterrupted(method: str, update: int, tmp_path: Path) -> None:
    def trained(folder: Path, *, stop: int | None = None) -> Any:
        trainer = trainer_of(folder, method)
        if stop is not None:
            trainer.add_callback(SignalAt(stop))
            with pytest.raises(Stopped), heard():
                trainer.train()
            return None
        trainer.train(resume_from_checkpoint=last_checkpoint(folder))
        return weights(trainer.model), trainer.curve()

    whole = trained(tmp_path / "whole")
    trained(tmp_path / "stopped", stop=update)
    checkpoint = Path(str(last_checkpoint(tmp_path / "stopped")))
    saved = load_file(checkpoint / "model.safetensors")
    assert checkpoint.name == f"checkpoint-{update}" and any(name.startswith("step_decoder.") for name in saved)
    again = trained(tmp_path / "stopped")
    assert whole[1] == again[1] and any(row["step_loss"] > 0 for row in whole[1])
    assert_close(whole[0], again[0], atol=0.0)
    begun = trainer_of(tmp_path / "new", method)
    first = weights(begun.model)
    trained_decoder = {name for name in first if name.startswith("step_decoder.")}
    assert all(not torch.equal(first[name], whole[0][name]) for name in trained_decoder if "wpe" not in name)


@pytest.mark.parametrize("method", ["coconut-lora", "codi-full"])
def test_nothing_of_the_decoder_is_in_a_saved_student(method: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_phases(config(folder, method, max_steps=6), ("student", "evaluation"))
    names = [name for path in (folder / "student").glob("*.safetensors") for name in load_file(path)]
    assert names and not any("decoder" in name for name in names)
    student = StudentModel.from_pretrained(folder)
    assert student.step_decoder is None
    record = read_record(folder / "record.json")
    assert record.costs.total_parameters == student.num_parameters()
    if method == "codi-full":
        assert record.costs.trainable_parameters == student.num_parameters()
    assert "auxiliary decoder: 0.5" in (folder / "student" / "README.md").read_text()
    assert not (folder / "checkpoints" / "student").exists()


def test_a_teachers_stages_have_a_decoder_that_is_not_saved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "run"
    chosen: dict[str, Any] = {
        "num_train_problems": 8,
        "teacher": tiny.folder("llama"),
        "teacher_step_loss_weight": 0.5,
        "step_loss_weight": 0,
    }
    with caplog.at_level("INFO", logger="lrd_peft"):
        run_phases(config(folder, "teacher-latent", **chosen), ("teacher",))
    rows = TeacherModel.from_pretrained(folder / "teacher" / "latent").facts["history"]
    losses = {note["stage"]: [row.get("step_loss") for row in note["curve"]] for note in rows}
    assert losses.pop(0) == [None] * len(rows[0]["curve"])
    assert losses and all(loss > 0 for stage in losses.values() for loss in stage)
    assert sum(line.startswith("auxiliary decoder: ") for line in caplog.messages) == len(losses)
    for part in ("cot", "latent"):
        assert not any("decoder" in name for name in load_file(folder / "teacher" / part / "model.safetensors"))


@pytest.mark.parametrize("method", ["coconut", "codi"])
def test_a_dry_run_counts_the_decoder(method: str, tmp_path: Path) -> None:
    own, auxiliary = (config(tmp_path, method, step_decoder=kind) for kind in ("own", "auxiliary"))
    size = StudentModel(tiny.folder("gpt2")).num_parameters()
    sketch, plain = weightless_student(auxiliary, None), weightless_student(own, None)
    assert (sketch.num_decoder, sketch.num_trained) == (size, plain.num_trained)
    assert sketch.num_updated == plain.num_updated + size
    texts = [dry_run(each).splitlines() for each in (own, auxiliary)]
    line = f"auxiliary decoder of the student: {size:,} parameters are trained and dropped"
    assert [line in text for text in texts] == [False, True]


def test_a_method_that_has_no_decoder_refuses_one() -> None:
    with pytest.raises(UserError, match='step_decoder is "auxiliary", but the student of method "latent-lora" writes'):
        RunConfig.from_flat(step_decoder="auxiliary", step_loss_weight=0.5)
    RunConfig.from_flat(step_decoder="auxiliary", teacher_step_loss_weight=0.5)
