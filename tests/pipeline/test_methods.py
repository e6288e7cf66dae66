"""Every method through the one run path, over the embedded models, a few steps each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lrd_peft.config import RunConfig, dump_yaml, load_config
from lrd_peft.config.methods import METHODS, REFERENCES
from lrd_peft.evaluation.records import read_record
from lrd_peft.model.loop import unwrap
from lrd_peft.model.student import StudentModel
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.pipeline.distill import AffordableSteps
from lrd_peft.pipeline.runner import run_phases
from lrd_peft.pipeline.solve import solve
from lrd_peft.report.run_summary import show
from lrd_peft.runtime.json_files import write_sealed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PHASES = ("teacher", "store", "student", "evaluation")
QUESTION = "Ann has 3 pens. She buys 4 more. How many pens does Ann have now?"


def config(folder: Path, method: str, **changes: Any) -> RunConfig:
    chosen: dict[str, Any] = {
        "method": method,
        "output_dir": str(folder),
        "num_train_problems": 8,
        "num_validation_problems": 2,
        "eval_steps": 1,
        "num_eval_problems": 3,
        "max_stage": 1,
        "thoughts_per_step": 2,
        "epochs_stage0": 0.5,
        "epochs_per_stage": 0.5,
        "epochs": 1,
        "learning_rate": 1e-3,
        "distill_layers": (8, 12),
        "max_new_tokens": 4,
        "ablate_problems": 2,
        "probe_problems": 2,
        "logging_steps": 1,
        "device": "cpu",
        **changes,
    }
    return load_config(overrides=chosen)


@pytest.fixture(scope="module")
def latent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a teacher that thinks and its store."""
    folder = tmp_path_factory.mktemp("latent") / "run"
    run_phases(config(folder, "latent-lora"), ("teacher", "store"))
    return folder


def begun(folder: Path, method: str, latent: Path) -> RunConfig:
    """Return a configuration whose run folder has what methods share: a teacher and a store, if it uses them."""
    chosen = config(folder, method)
    if METHODS[method].needs in ("store", "teacher/latent"):
        shutil.copytree(latent, folder)
        (folder / "config.yaml").unlink()
        (folder / "log.jsonl").unlink()
        run = config(latent, "latent-lora")
        phases = ("teacher", "store") if METHODS[method].needs == "store" else ("teacher",)
        assert all(run.fingerprint(phase) == chosen.fingerprint(phase) for phase in phases)
        (folder / "config.yaml").write_text(dump_yaml(chosen))
    return chosen


@pytest.mark.parametrize("method", [name for name in METHODS if name not in REFERENCES])
def test_a_method_trains_grades_and_records_its_student(method: str, latent: Path, tmp_path: Path) -> None:
    folder, row = tmp_path / "run", METHODS[method]
    chosen = begun(folder, method, latent)
    run_phases(chosen, PHASES)
    record = read_record(folder / "record.json")
    assert record.method == method and record.config["method"] == method
    entries = record.metrics["gsm-mini"]
    beside = {None: set(), "teacher/cot": {"teacher-cot"}, "store": {"teacher-cot", "teacher-latent"}}[row.needs]
    assert set(entries) == {"base", method} | beside
    assert (entries[method]["summary"]["mean_thoughts"] == 2) == row.thinks
    assert set(record.costs.wall_seconds) == set(PHASES)
    assert (record.costs.wall_seconds["teacher"] > 0) == (row.needs is not None)
    assert (record.costs.trainable_parameters < record.costs.total_parameters) == (row.trains == "lora")
    curve = [line for line in record.curves if line["phase"] == "student" and "loss" in line]
    assert len(curve) == 2
    assert all(("distill" in line) == (row.objective != "task") for line in curve)
    graded = [line["step"] for line in record.curves if "eval_accuracy" in line]
    assert graded == [1, 2], "its validation problems are graded while it trains"
    assert (folder / "ablation.json").is_file() == row.thinks
    assert not (folder / "probe.json").exists(), "two problems are too few for probes, and the run has not failed"
    shown = show(folder)
    assert method in shown and ("right with its thoughts" in shown) == row.thinks

    student = StudentModel.from_pretrained(folder)
    assert student.has_adapters == (row.trains == "lora")
    base = StudentModel("tiny-student")
    ids = torch.tensor([student.encoder.prompt(QUESTION)])
    with torch.no_grad():
        assert not torch.equal(student.lm(ids).logits, base.lm(ids).logits), "it has learnt something, and kept it"
    text = solve(folder, [QUESTION])
    assert ("thought 2:" in text) == row.thinks and ("written:" in text) != row.thinks and "answer:" in text


@pytest.mark.parametrize("method", REFERENCES)
def test_a_reference_is_graded_and_recorded_without_a_student(method: str, latent: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_phases(begun(folder, method, latent), PHASES)
    record = read_record(folder / "record.json")
    assert record.method == method and method in record.metrics["gsm-mini"]
    assert not (folder / "student").exists()
    of_teacher = method.startswith("teacher")
    assert (record.costs.trainable_parameters > 0) == of_teacher
    size = StudentModel("tiny-teacher" if of_teacher else "tiny-student").num_parameters()
    assert record.costs.total_parameters == size


@pytest.mark.parametrize("method", ["full-finetune", "latent-lora", "codi"])
def test_a_student_begins_with_blocks_of_the_trained_teacher(method: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    changes: dict[str, Any] = {"student": "teacher:2", "keep_blocks": (0, 11), "student_weights": "trained"}
    # The teacher moves at once; the student's rate is so small that its weights stay what they were.
    rates: dict[str, Any] = {"teacher_learning_rate": 1e-2, "warmup_steps": 0, "learning_rate": 1e-30}
    chosen = config(folder, method, **changes, **rates)
    run_phases(chosen, PHASES)
    name = "model.layers.{}.mlp.up_proj.weight"
    theirs = unwrap(TeacherModel.from_pretrained(folder / "teacher" / METHODS[method].begins_with).lm).state_dict()
    untrained = unwrap(StudentModel("tiny-teacher").lm).state_dict()
    own = unwrap(StudentModel.from_pretrained(folder).lm).state_dict()
    adapted = METHODS[method].trains == "lora"
    for place, original in ((0, 0), (1, 11)):
        kept = own[name.format(place).replace(".weight", ".base_layer.weight" if adapted else ".weight")]
        torch.testing.assert_close(kept, theirs[name.format(original)])
        assert not torch.equal(kept, untrained[name.format(original)])
    graded = read_record(folder / "record.json").metrics["gsm-mini"]
    assert set(graded) >= {method, "base", "teacher-cot"}


def test_an_untrained_student_of_a_trained_teacher_counts_as_untrained(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"student": "teacher:2", "student_weights": "trained", "methods": ()}
    run_phases(config(tmp_path / "run", "base", **changes), PHASES)
    assert read_record(tmp_path / "run" / "record.json").costs.trainable_parameters == 0


def test_a_student_trains_for_a_given_time(tmp_path: Path) -> None:
    runs = []
    for seconds in (0.6, 2.4):
        folder = tmp_path / f"{seconds}"
        chosen = config(folder, "full-finetune", max_seconds=seconds, methods=())
        run_phases(chosen, PHASES)
        noted = json.loads((folder / "student_steps.json").read_text())
        assert noted["steps"] == max(1, int(seconds / noted["seconds_per_step"]))
        record = read_record(folder / "record.json")
        assert [row for row in record.curves if row["phase"] == "student"][-1]["step"] == noted["steps"]
        runs.append(noted)
    # The clock of a busy machine is rough, and yet four times the time is more steps.
    assert runs[1]["steps"] > runs[0]["steps"]
    # A run that goes on keeps the number that it began with.
    (folder / "student.done.json").unlink()
    shutil.rmtree(folder / "student")
    write_sealed(folder / "student_steps.json", AffordableSteps(steps=3, seconds_per_step=1.0))
    run_phases(chosen, ("student",))
    assert StudentModel.from_pretrained(folder) is not None
    note = json.loads((folder / "student.done.json").read_text())
    assert note["note"]["curve"][-1]["step"] == 3


def test_full_weights_come_back_as_they_were_trained(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_phases(config(folder, "direct"), ("student",))
    assert (folder / "student" / "model.safetensors").is_file()
    assert not (folder / "student" / "adapter_config.json").exists()
    student = StudentModel.from_pretrained(folder)
    assert (student.options.num_thoughts, student.name) == (0, "tiny-student")
    assert next(student.parameters()).dtype == torch.float32


def test_a_store_of_another_method_is_not_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="lrd_peft"):
        run_phases(config(tmp_path / "run", "icot"), ("teacher", "store"))
    assert "teacher: not needed for icot, skipped" in caplog.messages
    assert not (tmp_path / "run" / "teacher").exists() and not (tmp_path / "run" / "store").exists()


def test_a_model_without_slots_writes_even_if_asked_to_think(tmp_path: Path) -> None:
    run_phases(config(tmp_path / "run", "latent-lora", max_stage=0, distill_layers=(12,)), PHASES)
    entries = read_record(tmp_path / "run" / "record.json").metrics["gsm-mini"]
    assert set(entries) == {"base", "teacher-cot", "latent-lora"}
    summary = entries["latent-lora"]["summary"]
    # It writes on until it is cut off; after a forced marker an answer would have ended sooner.
    assert (summary["mean_thoughts"], summary["mean_passes"]) == (0, 4)
    assert "written: Ann" in solve(tmp_path / "run", [QUESTION])


@pytest.mark.parametrize("method", ["latent-lora", "distill-lora"])
def test_a_student_sees_the_first_problems_of_each_set(
    method: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    sets = {"dataset": "gsm-mini+math-mini", "num_train_problems": 12, "num_student_problems": 4}
    settings = config(folder, method, **sets, max_steps=5, batch_size=4, methods=())
    with caplog.at_level("INFO", logger="lrd_peft"):
        run_phases(settings, PHASES)
    assert ("student: 8 of 24 training problems" in caplog.messages) == (method == "latent-lora")
    lines = [line for line in read_record(folder / "record.json").curves if line["phase"] == "student"]
    assert (lines[-1]["step"], lines[-1]["epoch"]) == (5, 2.5)  # eight problems, four at a time


def test_a_student_with_a_curriculum_and_fitted_projectors(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    recipe = {"student_curriculum": 0.5, "projector_init": "least-squares", "alpha_schedule": "rising"}
    run_phases(config(folder, "latent-lora", **recipe, methods=()), PHASES)
    card = (folder / "student" / "README.md").read_text()
    assert "share of training in which thoughts replace steps: 0.5" in card
    assert "schedule of this weight: rising" in card
    assert read_record(folder / "record.json").metrics["gsm-mini"]["latent-lora"]["summary"]["mean_thoughts"] == 2


def test_thoughts_write_steps_in_both_phases(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    weights: dict[str, Any] = {"step_loss_weight": 0.5, "teacher_step_loss_weight": 0.25, "distill_alpha": 0.0}
    run_phases(config(folder, "latent-lora", **weights, methods=("teacher-latent",)), PHASES)
    lines = [line for line in read_record(folder / "record.json").curves if "loss" in line]
    begun, latent = ([x for x in lines if x["phase"] == "teacher" and x["stage"] == stage] for stage in (0, 1))
    students = [line for line in lines if line["phase"] == "student"]
    assert begun and not any("step_loss" in line for line in begun)
    for rows, weight in ((latent, 0.25), (students, 0.5)):
        assert rows
        for line in rows:
            assert line["step_loss"] > 0
            assert line["loss"] == pytest.approx(line["task"] + weight * line["step_loss"], rel=1e-4)
    assert "weight of the step loss: 0.5" in (folder / "student" / "README.md").read_text()
    # The decoder is the model itself: what is saved is what a student without this loss would have.
    assert {path.name for path in (folder / "student").glob("*.safetensors")} == {"adapter_model.safetensors"}
