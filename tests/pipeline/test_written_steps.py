"""A run whose student is aligned to the teacher's written steps: what is trained, stored, recorded and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lrd_peft.evaluation.records import read_record
from lrd_peft.model.student import StudentModel
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.pipeline.dry_run.describe import dry_run
from lrd_peft.pipeline.inspect import inspect
from lrd_peft.pipeline.runner import run_phases
from lrd_peft.runtime.errors import UserError
from lrd_peft.store import Store
from tests.pipeline.test_methods import PHASES, config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
# Slots for two steps, and problems of two to four.
STEPS: dict[str, Any] = {"align_to": "steps", "max_stage": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "run"
    run_phases(config(folder, "latent-lora", **STEPS), PHASES)
    return folder


def test_the_teacher_that_writes_is_trained_and_stored(run: Path) -> None:
    assert [path.name for path in (run / "teacher").iterdir()] == ["cot"]
    store, teacher = Store.open(run / "store"), TeacherModel.from_pretrained(run / "teacher" / "cot")
    assert (store.spec.align_to, store.spec.thoughts_per_step, store.spec.num_thoughts) == ("steps", 2, 4)
    assert store.spec.fingerprints["teacher"] == teacher.fingerprints()["teacher"]
    for index in range(len(store)):
        states = store[index]["hidden_states"]["layer_8"]
        held = [place for place in range(5) if bool(states[place].any())]
        assert held == list(store.spec.targets(len(store.row(index)["steps"])))
        assert held[-1] == 4 and not {0, 2} & set(held)


def test_the_student_thinks_and_is_recorded(run: Path) -> None:
    record = read_record(run / "record.json")
    assert record.config["align_to"] == "steps"
    entries = record.metrics["gsm-mini"]
    assert set(entries) == {"base", "teacher-cot", "latent-lora"}
    assert entries["latent-lora"]["summary"]["mean_thoughts"] == 4
    curve = [line for line in record.curves if line["phase"] == "student" and "distill" in line]
    assert len(curve) == 2 and all(line["distill"] > 0 for line in curve)
    student = StudentModel.from_pretrained(run)
    assert student.has_adapters and student.projectors


def test_again_it_skips_and_with_thoughts_it_is_refused(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="lrd_peft"):
        run_phases(config(run, "latent-lora", **STEPS), PHASES)
    assert caplog.text.count("finished, skipped") == 4
    with pytest.raises(UserError, match="align_to: there 'steps', now 'thoughts'"):
        run_phases(config(run, "latent-lora", **{**STEPS, "align_to": "thoughts"}), PHASES)


def test_it_can_be_looked_into_without_a_teacher_that_thinks(run: Path, tmp_path: Path) -> None:
    lines = inspect(run, num_problems=2, output=tmp_path)
    assert "this latent-lora run has no latent teacher" in lines[-1]
    assert json.loads((tmp_path / "answers.json").read_text())


def test_blocks_of_the_thinking_teacher_are_aligned_to_the_writing_one(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    pruned = {"student": "teacher:2", "keep_blocks": (0, 11), "student_weights": "trained"}
    rates = {"teacher_learning_rate": 1e-2, "warmup_steps": 0}
    run_phases(config(folder, "latent-lora", **STEPS, **pruned, **rates, methods=()), PHASES)
    prints = {
        name: TeacherModel.from_pretrained(folder / "teacher" / name).fingerprints()["teacher"]
        for name in ("cot", "latent")
    }
    assert prints["cot"] != prints["latent"]
    assert Store.open(folder / "store").spec.fingerprints["teacher"] == prints["cot"]
    assert "latent-lora" in read_record(folder / "record.json").metrics["gsm-mini"]


def test_a_dry_run_counts_the_written_steps(tmp_path: Path) -> None:
    def operations(**changes: Any) -> float:
        lines = dry_run(config(tmp_path, "latent-lora", num_train_problems=1000, **changes)).splitlines()
        [store] = [line for line in lines if line.startswith("store ")]
        return float(store.split()[1].replace(",", ""))

    # More tokens than the thoughts and the marker.
    assert operations(**STEPS) > operations(**{**STEPS, "align_to": "thoughts"}) > 0
