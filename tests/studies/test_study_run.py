"""A small study in real processes: what cells share, what a second call does, failures, kills, shards."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lrd_peft.cli import app as cli
from lrd_peft.evaluation.records import comparable, read_record
from lrd_peft.model.student import StudentModel
from lrd_peft.pipeline.inspect import inspect
from lrd_peft.pipeline.verify import verify
from lrd_peft.report.study_records import read_study_records
from lrd_peft.report.thought_tables import ablation_summary
from lrd_peft.training.checkpoints import last_checkpoint
from tests.pipeline.small_run import finish

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

RECIPE = """
{num_train_problems: 24, num_validation_problems: 4, num_eval_problems: 6, max_stage: 1, teacher_batch_size: 8,
 batch_size: 8, epochs: 1, eval_batch_size: 8, logging_steps: 2, save_steps: 2, device: cpu, methods: [latent-lora],
 ablate_problems: 4}
"""
SMALL = "{title: Small, recipe: recipe.yaml, axes: {distill_alpha: [0.1, 0.5]}, seeds: [0]}"
CELLS = ("distill_alpha=0.1--seed0", "distill_alpha=0.5--seed0")


def study(folder: Path, name: str, text: str, *flags: str) -> subprocess.Popen[str]:
    """Start `lrd study` on a file of these contents, at the head of a process group of its own."""
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / name).write_text(text)
    source = str(Path(__file__).resolve().parents[2] / "src")
    path = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", "lrd_peft", "study", name, "--output_dir", "out", *flags],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def results(folder: Path) -> dict[str, Any]:
    """Return what two studies of the same cells must agree on."""
    return {path.name: comparable(read_record(path)) for path in sorted((folder / "records").glob("*.json"))}


def times_begun(folder: Path, phase: str) -> list[int]:
    """Return for each shared folder of a phase how often it was begun."""
    logs = sorted((folder / "out" / "shared").glob(f"{phase}-*/log.jsonl"))
    return [sum(json.loads(line)["event"] == "phase begins" for line in log.read_text().splitlines()) for log in logs]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one undisturbed study, its students kept."""
    folder = tmp_path_factory.mktemp("study")
    output = finish(study(folder, "small.yaml", SMALL, "--keep_students"))
    assert "0 of 2 cells done, 2 at a time" in output
    assert "[2/2] distill_alpha=" in output and ": gsm-mini " in output
    assert "all 2 cells have their records" in output
    return folder


def test_each_cell_leaves_a_record_and_the_study_its_description(whole: Path) -> None:
    place = whole / "out" / "small"
    assert sorted(path.stem for path in (place / "records").iterdir()) == sorted(CELLS)
    record = read_record(place / "records" / f"{CELLS[1]}.json")
    assert (record.config["distill_alpha"], record.seed, record.environment["num_threads"]) == (0.5, 0, "1")
    assert record.costs.wall_seconds["teacher"] > 0
    told = json.loads((place / "study.json").read_text())
    assert (told["axes"], told["seeds"]) == ([{"field": "distill_alpha", "values": [0.1, 0.5]}], [0])


def test_each_cell_says_what_its_thoughts_are_worth(whole: Path) -> None:
    place = whole / "out" / "small"
    assert sorted(path.name for path in (place / "thoughts").iterdir()) == [f"{cell}.ablation.json" for cell in CELLS]
    looks = read_study_records(place).looks
    assert [
        (seed, found.found[0].untouched.n) for seeds in looks.ablations.values() for seed, found in seeds.items()
    ] == [(0, 4)] * 2
    assert [row[0] for row in ablation_summary(looks).rows] == ["distill_alpha 0.1", "distill_alpha 0.5"]


def test_the_cells_share_one_teacher_and_one_store(whole: Path) -> None:
    assert times_begun(whole, "teacher") == [1] and times_begun(whole, "store") == [1]
    for cell in CELLS:
        run = whole / "out" / "small" / "cells" / cell
        assert (run / "store").is_symlink() and (run / "store" / "manifest.json").is_file()
        assert "teacher: finished, skipped" in (whole / "out" / "small" / "logs" / f"{cell}.log").read_text()


def test_a_kept_student_answers(whole: Path) -> None:
    student = StudentModel.from_pretrained(whole / "out" / "small" / "cells" / CELLS[0])
    assert len(student.solve(["Ann has 3 pens. She buys 4 more. How many pens does Ann have now?"])[0].thoughts) == 1


def test_a_second_call_runs_nothing_and_the_dry_run_says_so(whole: Path) -> None:
    logs = {path: path.read_bytes() for path in (whole / "out").rglob("*.log")}
    output = finish(study(whole, "small.yaml", SMALL))
    assert output.splitlines() == ["study small: all 2 cells have their records in out/small/records"]
    output = finish(study(whole, "small.yaml", SMALL, "--dry_run", "--seeds", "0", "1"))
    assert "4 cells of 4, 2 done" in output
    assert [line.split()[1] for line in output.splitlines() if "--seed0 " in line] == ["done", "done"]
    assert [line.split()[-2:] for line in output.splitlines() if "--seed1 " in line] == [["to", "do"]] * 2
    assert output.count(", for 2 cells") == 4
    assert {path: path.read_bytes() for path in (whole / "out").rglob("*.log")} == logs


def test_a_cell_that_another_study_has_is_taken_over(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "out", tmp_path / "out", symlinks=True)
    damaged = tmp_path / "out" / "half" / "records" / "half--seed0.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text('{"schema')
    other = "{title: Other, recipe: recipe.yaml, axes: {normalize: [variance, none]}, seeds: [0]}"
    finish(study(tmp_path, "other.yaml", other, "--distill_alpha", "0.5"))
    place = tmp_path / "out" / "other"
    taken = (place / "records" / "normalize=variance--seed0.json").read_bytes()
    assert taken == (tmp_path / "out" / "small" / "records" / f"{CELLS[1]}.json").read_bytes()
    assert not (place / "cells" / "normalize=variance--seed0").exists()
    assert (place / "thoughts" / "normalize=variance--seed0.ablation.json").is_file()
    assert (place / "cells" / "normalize=none--seed0").exists()


def test_what_is_tuned_is_chosen_on_validation_problems_and_kept_in_study_json(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "out", tmp_path / "out", symlinks=True)
    # At 1e-9 the student stays as it was; `base` does not depend on the rate and has no trials.
    text = """{title: Tuned, recipe: recipe.yaml, base: {methods: []}, axes: {method: [latent-lora, base]}, seeds: [3],
               tune: {axes: {learning_rate: [1.0e-9, 3.0e-3]}, base: {epochs: 2}, seed: 1}}"""
    output = finish(study(tmp_path, "tuned.yaml", text, "--dry_run"))
    assert "2 cells of 2, 0 done; seeds 1; folder out/tuned-tuning" in output
    assert "2 cells of 2, 0 done; seeds 3; folder out/tuned" in output
    output = finish(study(tmp_path, "tuned.yaml", text, "--teacher_seed", "0"))
    place = tmp_path / "out" / "tuned"
    trials = [read_record(path) for path in (tmp_path / "out" / "tuned-tuning" / "records").iterdir()]
    trials.sort(key=lambda trial: trial.config["learning_rate"])
    assert [(t.config["learning_rate"], t.config["epochs"], t.seed) for t in trials] == [(1e-9, 2, 1), (0.003, 2, 1)]
    assert all(
        t.config["eval_split"] == "validation" and t.metrics["gsm-mini"]["latent-lora"]["summary"]["n"] == 4
        for t in trials
    )
    (told,) = read_study_records(place).tuned
    accuracies = [t.metrics["gsm-mini"]["latent-lora"]["summary"]["accuracy"] for t in trials]
    assert (told.cell, [trial.accuracy for trial in told.trials]) == ("method=latent-lora", accuracies)
    assert told.values == told.trials[accuracies.index(max(accuracies))].values
    assert f"method=latent-lora: chose learning_rate {told.values['learning_rate']:g} on validation problems" in output
    found = read_record(place / "records" / "method=latent-lora--seed3.json")
    assert (found.config["learning_rate"], found.config["epochs"]) == (told.values["learning_rate"], 1)
    assert found.metrics["gsm-mini"]["latent-lora"]["summary"]["n"] == 6
    # The choice is in study.json: the trials can go.
    shutil.rmtree(tmp_path / "out" / "tuned-tuning")
    output = finish(study(tmp_path, "tuned.yaml", text, "--teacher_seed", "0"))
    assert output.splitlines() == ["study tuned: all 2 cells have their records in out/tuned/records"]
    assert not (tmp_path / "out" / "tuned-tuning").exists()
    output = finish(
        study(tmp_path, "tuned.yaml", text, "--dry_run", "--teacher_seed", "0", "--lora_alpha", "8", "--seeds", "9")
    )
    assert "0 done; seeds 1; folder out/tuned-tuning" in output


def test_records_of_another_configuration_are_refused(whole: Path) -> None:
    process = study(whole, "small.yaml", SMALL, "--lora_r", "2")
    output, _ = process.communicate(timeout=150)
    assert process.returncode == 2
    assert "is of another configuration (lora_r: there 16, now 2); choose another --output_dir" in output


def test_a_failing_cell_is_told_at_the_end_and_the_others_go_on(whole: Path) -> None:
    # layer 40 of 12: the store of that cell cannot be made; the other cell finds teacher and store of the first study
    text = "{title: x, recipe: recipe.yaml, axes: {distill_layers: [[40]]}, also: [{distill_alpha: 0.25}], seeds: [0]}"
    process = study(whole, "broken.yaml", text, "--workers", "1")
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 2 and "Traceback" not in output
    last = output.splitlines()[-1]
    assert "lrd: error: 1 of 2 cells failed; the same command tries them again" in output
    assert last.startswith("  distill_layers=40--seed0: store-") and "layer 40" in last
    assert [path.stem for path in (whole / "out" / "broken" / "records").iterdir()] == ["distill_alpha=0.25--seed0"]
    assert times_begun(whole, "teacher") == [1]
    assert not (whole / "out" / "broken" / "cells" / "distill_alpha=0.25--seed0" / "student").exists()


def test_a_kept_student_is_looked_into_for_the_studys_report(whole: Path) -> None:
    place = whole / "out" / "small"
    said = inspect(place / "cells" / CELLS[1], num_problems=3, output=place)
    assert [line.split()[0] for line in said] == ["written"] * 2
    found = read_study_records(place)
    assert found.similarity is not None and found.similarity.num_positions == 6
    assert found.answers is not None and len(found.answers.problems) == 3


def test_a_removed_student_is_had_again_as_the_error_says(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = [times_begun(whole, phase) for phase in ("teacher", "store")]
    text = "{title: x, recipe: recipe.yaml, axes: {distill_alpha: [0.75]}, seeds: [0]}"
    finish(study(whole, "removed.yaml", text, "--workers", "1"))
    place = whole / "out" / "removed"
    cell = place / "cells" / "distill_alpha=0.75--seed0"
    assert cli.main(["inspect", str(cell)]) == cli.USER_ERROR
    assert (
        "delete the folder and the cell's record, then run `lrd study` with --keep_students" in capsys.readouterr().err
    )
    before = results(place)
    shutil.rmtree(cell)
    (place / "records" / f"{cell.name}.json").unlink()
    finish(study(whole, "removed.yaml", text, "--workers", "1", "--keep_students"))
    assert results(place) == before
    assert cli.main(["inspect", str(cell), "--num_problems", "1"]) is None
    assert [times_begun(whole, phase) for phase in ("teacher", "store")] == begun


def test_a_damaged_shared_store_is_made_again_by_the_cell_that_finds_it(whole: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy, symlinks=True)
    cells = [copy / "out" / "small" / "cells" / cell for cell in CELLS]
    for cell in cells:
        checked = verify(cell)
        assert checked.damaged == [] and len(checked.rows) == 6
    shard = next((cells[0] / "store").glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    shard.write_bytes(data[:-9])
    assert [verify(cell).damaged for cell in cells] == [["store"]] * 2
    (copy / "out" / "small" / "records" / f"{CELLS[1]}.json").unlink()
    finish(study(copy, "small.yaml", SMALL))
    assert shard.read_bytes() == data and (cells[0] / "store.done.json").is_symlink()
    log = (copy / "out" / "small" / "logs" / f"{CELLS[1]}.log").read_text()
    assert "only the damage is rebuilt" in log and "teacher: finished, skipped" in log
    assert results(copy / "out" / "small") == results(whole / "out" / "small")
    assert verify(cells[0]).damaged == []
    assert ("student", "not kept") in [row[:2] for row in verify(cells[1]).rows]


def test_a_damaged_shared_teacher_is_trained_again_by_the_store_that_needs_it(whole: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy, symlinks=True)
    cell = copy / "out" / "small" / "cells" / CELLS[1]
    teacher, store = ((cell / phase).resolve().parent for phase in ("teacher", "store"))
    states = {path.name: path.read_bytes() for path in store.glob("store/*")}
    shutil.rmtree(store)
    weights = teacher / "teacher" / "latent" / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-9])
    (copy / "out" / "small" / "records" / f"{CELLS[1]}.json").unlink()
    finish(study(copy, "small.yaml", SMALL))
    assert weights.read_bytes() == data and (store / "teacher.done.json").is_symlink()
    assert {path.name: path.read_bytes() for path in store.glob("store/*")} == states
    assert results(copy / "out" / "small") == results(whole / "out" / "small")
    assert "student: finished, skipped" in (copy / "out" / "small" / "logs" / f"{CELLS[1]}.log").read_text()


def test_a_study_that_is_told_to_end_saves_what_its_tasks_do(tmp_path: Path) -> None:
    process = study(tmp_path, "small.yaml", SMALL)
    while process.poll() is None and not list(tmp_path.glob("out/shared/*/checkpoints/*/checkpoint-*/complete.json")):
        time.sleep(0.005)
    process.terminate()
    output, _ = process.communicate(timeout=150)
    assert process.returncode == 143 and "Traceback" not in output
    assert output.splitlines()[-1] == "lrd: interrupted by SIGTERM; run the same command to resume"
    shared = next(tmp_path.glob("out/shared/teacher-*"))
    assert any(last_checkpoint(folder) for folder in (shared / "checkpoints").iterdir())
    assert not next(tmp_path.glob("out/shared/logs/teacher-*.log")).read_text().count("Traceback")


def files(folder: Path) -> set[str]:
    """Return the files below a folder, each with its size: a new set is a sign of progress."""
    found = set()
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            try:
                found.add(f"{path} {os.stat(path).st_size}")
            except FileNotFoundError:
                continue
    return found


def test_killed_at_random_moments_it_ends_with_the_records_of_the_undisturbed_study(
    whole: Path, tmp_path: Path
) -> None:
    rng = random.Random(11)
    kills = 0
    for _ in range(4):
        process = study(tmp_path, "small.yaml", SMALL)
        goal, seen = rng.randint(1, 12), files(tmp_path)
        while goal and process.poll() is None:
            now = files(tmp_path)
            goal -= now != seen
            seen = now
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.05))
        if process.poll() is None:
            kills += 1
            # all of its processes at once, or the first alone: the others must follow it
            kill = rng.choice((os.killpg, os.kill))
            kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert kills >= 2
    # two shards at once: neither does what the other does
    shards = [study(tmp_path, "small.yaml", SMALL, "--shard", f"{k}/2", "--workers", "1") for k in (1, 2)]
    for shard in shards:
        finish(shard)
    assert results(tmp_path / "out" / "small") == results(whole / "out" / "small")
