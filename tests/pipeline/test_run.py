"""The main job in a real process: what it leaves, what running it again does, what a kill costs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from lrd_peft.config import load_config
from lrd_peft.data.collate import left_pad
from lrd_peft.evaluation.outcomes import unpack_outcomes
from lrd_peft.evaluation.records import comparable, read_record
from lrd_peft.model.loading.lm import load_lm
from lrd_peft.model.student import StudentModel
from lrd_peft.pipeline.dry_run.weightless import weightless_student, weightless_teacher
from lrd_peft.store import Store
from tests.pipeline.small_run import FLAGS, contents, finish, kill_when, lrd

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One undisturbed run."""
    folder = tmp_path_factory.mktemp("run") / "run"
    output = finish(lrd("run", *FLAGS, "--output_dir", str(folder)))
    assert "latent-lora" in output and "McNemar" in output
    return folder


def test_the_run_folder_holds_the_artifacts(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "teacher", "store", "student", "evaluation.json", "record.json", "log.jsonl"} <= names
    assert not list((run / "checkpoints").iterdir())
    record = read_record(run / "record.json")
    assert record.method == "latent-lora" and record.datasets == ("gsm-mini",)
    assert set(record.metrics["gsm-mini"]) == {"base", "teacher-cot", "teacher-latent", "latent-lora"}
    entry = record.metrics["gsm-mini"]["latent-lora"]
    assert entry["summary"]["n"] == 6 and len(unpack_outcomes(entry["outcomes"])) == 6
    assert entry["summary"]["mean_thoughts"] == 2
    assert [row["stage"] for row in record.curves if row["phase"] == "teacher" and "accuracy" in row] == [0, 1, 2]
    assert any("distill" in row for row in record.curves if row["phase"] == "student")


def test_the_dry_run_counts_the_parameters_that_the_run_trained(run: Path) -> None:
    config = load_config(["--config", str(run / "config.yaml")])
    counted = weightless_student(config, weightless_teacher(config))
    costs = read_record(run / "record.json").costs
    assert (counted.num_trained, counted.num_parameters) == (costs.trainable_parameters, costs.total_parameters)


def test_the_store_gives_the_data_format_of_the_specification(run: Path) -> None:
    store = Store.open(run / "store")
    row = store[3]
    assert row["question"] and row["steps"] and row["answer"]
    assert set(row["hidden_states"]) == {f"layer_{layer}" for layer in (8, 9, 10, 11, 12)}
    assert row["hidden_states"]["layer_8"].shape == (3, 80)


def test_the_adapter_is_plain_peft(run: Path) -> None:
    student = StudentModel.from_pretrained(run)
    plain = PeftModel.from_pretrained(load_lm("tiny-student").lm, str(run / "student"))
    ids, mask = left_pad([student.encoder.prompt("Ann has 3 pens. She buys 4 more. How many?")], pad_id=0)
    with torch.no_grad():
        torch.testing.assert_close(plain(ids, attention_mask=mask).logits, student.lm(ids, attention_mask=mask).logits)


def test_the_same_command_again_skips_every_phase(run: Path) -> None:
    before = contents(run / "student") | contents(run / "store")
    output = finish(lrd("run", *FLAGS, "--output_dir", str(run)))
    for phase in ("teacher", "store", "student", "evaluation"):
        assert f"{phase}: finished, skipped" in output
    assert contents(run / "student") | contents(run / "store") == before


def test_another_configuration_is_refused_and_changes_nothing(run: Path) -> None:
    before = contents(run)
    process = lrd("run", *FLAGS, "--output_dir", str(run), "--alpha", "0.7")
    output, _ = process.communicate(timeout=150)
    assert process.returncode == 2
    assert "distill_alpha: there 0.1, now 0.7" in output and "Traceback" not in output
    assert contents(run) == before


def test_solve_prints_answer_and_thoughts(run: Path) -> None:
    output = finish(lrd("solve", str(run), "Ann has 3 pens. She buys 4 more. How many pens does Ann have now?"))
    assert "thought 1:" in output and "thought 2:" in output and "answer:" in output


def test_compare_and_show_read_the_record(run: Path) -> None:
    assert "only a right 0, only b right 0, n 6, p = 1" in finish(lrd("compare", str(run), str(run)))
    assert "held-out problems" in finish(lrd("show", str(run)))


def test_killed_in_every_phase_ends_as_the_undisturbed_run(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "run"
    kills = 0
    for pattern in (
        "checkpoints/teacher-0/checkpoint-*/complete.json",
        "checkpoints/teacher-2/checkpoint-4/trainer_state.json",
        "teacher/latent/config.json",
        "store/journal.jsonl",
        "checkpoints/student/checkpoint-2/complete.json",
        "evaluation/base--*.json",
    ):
        kills += kill_when(lrd("run", *FLAGS, "--output_dir", str(other)), other, pattern)
    assert kills >= 4
    finish(lrd("run", *FLAGS, "--output_dir", str(other)))
    assert contents(other / "student") == contents(run / "student")
    assert contents(other / "store") == contents(run / "store")
    assert contents(other / "teacher" / "latent").keys() == contents(run / "teacher" / "latent").keys()
    for name in ("cot", "latent"):
        weights = "model.safetensors"
        assert (other / "teacher" / name / weights).read_bytes() == (run / "teacher" / name / weights).read_bytes()
    assert comparable(read_record(other / "record.json")) == comparable(read_record(run / "record.json"))
    assert json.loads((other / "evaluation.json").read_text()).keys() == {"gsm-mini"}
