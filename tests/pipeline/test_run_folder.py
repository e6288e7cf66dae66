"""Who holds a run folder, when a phase counts as finished, what a damaged part is called."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lrd_peft.config import PHASES, Phase, RunConfig, dump_yaml
from lrd_peft.pipeline.ledger import PhaseLedger, PhaseMarker, PhaseNote
from lrd_peft.pipeline.run_folder import RunPaths
from lrd_peft.pipeline.run_lock import RunLock
from lrd_peft.pipeline.verify import ArtifactChecks, verify
from lrd_peft.runtime.checksums import write_checksums
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.json_files import read_sealed, write_sealed
from lrd_peft.store import Store
from tests.store import made

HOLD = """
import sys
import threading
import time
from lrd_peft.config import RunConfig
from lrd_peft.pipeline.run_lock import RunLock
with RunLock.claim(RunConfig.from_flat(output_dir=sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def config(folder: Path, **changes: Any) -> RunConfig:
    return RunConfig.from_flat(output_dir=str(folder), **changes)


def damages(folder: Path, phase: Phase, ours: RunConfig) -> list[str]:
    """Read an artifact anew and return what is damaged."""
    return ArtifactChecks(PhaseLedger(RunPaths(folder), ours)).damages(phase)


def require(folder: Path, phase: Phase, ours: RunConfig) -> PhaseMarker:
    return ArtifactChecks(PhaseLedger(RunPaths(folder), ours)).require(phase)


def test_the_second_process_is_told_at_once_who_holds_the_folder(run_folder: Path, root: Path) -> None:
    path = os.pathsep.join([str(root / "src"), *sys.path])
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run_folder)],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    who = f"in use by process {holder.pid} on {os.uname().nodename} since 20"
    with pytest.raises(UserError, match=who), RunLock.claim(config(run_folder)):
        pass
    holder.kill()
    holder.communicate()
    with RunLock.claim(config(run_folder)):  # the system lets go of what a dead process held
        assert (read_sealed(run_folder / "held_by.json") or {})["pid"] == os.getpid()
    with RunLock.claim(config(run_folder)):
        pass


def test_a_damaged_configuration_is_named_with_the_way_out(run_folder: Path) -> None:
    with RunLock.claim(config(run_folder)) as run:
        PhaseLedger(run, config(run_folder)).finish("teacher", PhaseNote())
    (run_folder / "config.yaml").write_text("seed: [")
    with (
        pytest.raises(UserError, match=r"config\.yaml.*not valid YAML.*delete that file"),
        RunLock.claim(config(run_folder)),
    ):
        pass
    (run_folder / "config.yaml").unlink()
    with (
        pytest.raises(UserError, match="holds no run"),
        RunLock.claim(config(run_folder, seed=1)),  # the marker is another configuration's
    ):
        pass
    with RunLock.claim(config(run_folder)) as run:
        assert PhaseLedger(run, config(run_folder)).finished("teacher") is not None


def finished_run(folder: Path) -> RunPaths:
    """A run folder with the files of every phase, made of bytes and numbers."""
    run = RunPaths(folder)
    for name in ("teacher/cot", "teacher/latent", "student"):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.safetensors").write_bytes(name.encode() * 9)
        write_checksums(folder / name)
    made.make(run.store)
    run.table.write_text("{}")
    for phase in PHASES:
        PhaseLedger(run, config(folder)).finish(phase, PhaseNote())
    return run


def unfinished(run: RunPaths, ours: RunConfig) -> list[str]:
    ledger = PhaseLedger(run, ours)
    return [phase for phase in PHASES if ledger.finished(phase) is None]


def test_a_phase_is_finished_while_what_it_was_made_from_stays(run_folder: Path) -> None:
    run, ours = finished_run(run_folder), config(run_folder)
    assert unfinished(run, ours) == []
    assert all(damages(run_folder, phase, ours) == [] for phase in PHASES)
    assert "student" in unfinished(run, config(run_folder, distill_alpha=0.5))
    (run.teacher / "latent" / "model.safetensors").write_bytes(b"another teacher")
    write_checksums(run.teacher / "latent")
    assert unfinished(run, ours) == ["store", "evaluation"]
    assert damages(run_folder, "teacher", ours) == ["teacher/latent is not what this run made"]


def test_the_same_weights_with_another_description_are_the_same(run_folder: Path) -> None:
    run = finished_run(run_folder)
    (run.teacher / "latent" / "lrd_model.json").write_text('{"history": [{"wall_seconds": 3}]}')
    write_checksums(run.teacher / "latent")
    assert unfinished(run, config(run_folder)) == []


def test_a_store_that_was_put_in_the_place_of_another_does_not_count(run_folder: Path) -> None:
    run = finished_run(run_folder)
    made.make(run_folder.parent / "other", of=made.spec(fingerprints={"teacher": "zz"}))
    for path in run.store.iterdir():
        path.write_bytes((run_folder.parent / "other" / path.name).read_bytes())
    assert Store.open(run.store).verify() == []  # it is whole, and not the one of this run
    assert damages(run_folder, "store", config(run_folder)) == ["store is not what this run made"]
    assert "student" in unfinished(run, config(run_folder))


def test_a_damaged_part_is_not_used_and_named(run_folder: Path) -> None:
    run, ours = finished_run(run_folder), config(run_folder)
    path = run.student / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"the student of .* is damaged: student/model\.safetensors has 62 bytes,"):
        require(run_folder, "student", ours)
    marker = run.marker("teacher")
    body = json.loads(marker.read_text())
    marker.write_text(json.dumps({**body, "note": {**body["note"], "wall_seconds": 9.0}}))
    with pytest.raises(UserError, match=r"no finished teacher.*lrd train-teacher"):
        require(run_folder, "teacher", ours)


def test_a_marker_of_another_form_is_damage_and_one_line(run_folder: Path) -> None:
    run, ours = finished_run(run_folder), config(run_folder)
    write_sealed(run.marker("teacher"), {"fingerprint": ours.fingerprint("teacher")})
    assert "teacher" in unfinished(run, ours)
    run.config.write_text(dump_yaml(ours))
    assert ("teacher", "damaged", ("teacher.done.json is damaged",)) in verify(run_folder).rows


def test_an_artifact_is_read_once_and_again_when_it_was_made_again(run_folder: Path) -> None:
    run, ours = finished_run(run_folder), config(run_folder)
    checks = ArtifactChecks(PhaseLedger(run, ours))
    assert checks.damages("store") == []
    made.shard(run.store, 1).write_bytes(b"")
    assert checks.damages("store") == []
    checks.forget("store")
    assert "has 0 bytes" in checks.damages("store")[0] and not checks.is_whole("store")
    checks.made("store")
    assert checks.is_whole("store")


def test_verify_reads_a_whole_folder_and_changes_nothing(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        verify(tmp_path)
    with RunLock.claim(config(run_folder)):
        pass
    finished_run(run_folder)
    before = {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}
    checked = verify(run_folder)
    assert checked.report().split() == [word for name in ("config.yaml", *PHASES) for word in (name, "whole")]
    checked.complain()
    assert {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()} == before
    made.shard(run_folder / "store", 1).write_bytes(b"")
    (run_folder / "student" / "model.safetensors").unlink()
    (run_folder / "evaluation.done.json").unlink()
    checked = verify(run_folder)
    assert checked.damaged == ["store", "student"]
    assert "problems 2..3: shard-000000002.safetensors has 0 bytes" in checked.report()
    assert "not finished" in checked.report() and "lrd evaluate" in checked.report()
    with pytest.raises(UserError, match=r"store, student\. To rebuild only these: lrd run --config .*config"):
        checked.complain()


def cell(folder: Path, shared: Path, changes: dict[str, Any]) -> RunPaths:
    """A run folder as studies make them: teacher, store and their markers are links to what it shares."""
    made_run = finished_run(shared) if not shared.exists() else RunPaths(shared)
    ours = config(folder, **changes)
    folder.mkdir()
    for phase in ("teacher", "store"):
        for part in (phase, f"{phase}.done.json"):
            (folder / part).symlink_to(os.path.relpath(made_run.root / part, folder))
    run = RunPaths(folder)
    run.student.mkdir()
    (run.student / "model.safetensors").write_bytes(b"student")
    write_checksums(run.student)
    run.table.write_text("{}")
    for phase in PHASES[2:]:
        PhaseLedger(run, ours).finish(phase, PhaseNote())
    return run


def test_what_cells_share_is_checked_and_marked_through_the_links(tmp_path: Path) -> None:
    first = cell(tmp_path / "first", tmp_path / "shared", {})
    second = cell(tmp_path / "second", tmp_path / "shared", {"distill_alpha": 0.5})
    configs = [config(first.root), config(second.root, distill_alpha=0.5)]
    for run, ours in zip((first, second), configs, strict=True):
        assert all(require(run.root, phase, ours) for phase in PHASES)
    made.shard(tmp_path / "shared" / "store", 1).write_bytes(b"")
    for run, ours in zip((first, second), configs, strict=True):
        assert "has 0 bytes" in damages(run.root, "store", ours)[0]
    shutil.rmtree(first.store.resolve())
    made.make(first.store.resolve())
    PhaseLedger(first, configs[0]).finish("store", PhaseNote(wall_seconds=7.0))
    assert first.marker("store").is_symlink()
    assert require(second.root, "store", configs[1]).note.wall_seconds == 7.0


def test_one_run_at_a_time_makes_what_several_share(tmp_path: Path) -> None:
    first = cell(tmp_path / "first", tmp_path / "shared", {})
    second = cell(tmp_path / "second", tmp_path / "shared", {})
    order: list[str] = []

    def repair(run: RunPaths, name: str) -> None:
        with RunLock(run).hold_shared("store"):
            order.append(f"{name} begins")
            time.sleep(0.3)
            order.append(f"{name} ends")

    others = [threading.Thread(target=repair, args=pair) for pair in ((first, "first"), (second, "second"))]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join()
    names = [line.split()[0] for line in order]
    assert [line.split()[1] for line in order] == ["begins", "ends"] * 2 and len(set(names)) == 2
    assert names[0] == names[1] and names[2] == names[3]
    assert not first.is_shared("student")
    with RunLock(first).hold_shared("student"), RunLock(first).hold_shared("student"):  # its own: locked with the run
        pass


def test_a_student_that_is_not_kept_counts_until_its_evaluation_is_needed_again(run_folder: Path) -> None:
    with RunLock.claim(config(run_folder)):
        pass
    run, ours = finished_run(run_folder), config(run_folder)
    ledger = PhaseLedger(run, ours)
    ledger.discard_student()
    assert not run.student.exists() and all(require(run_folder, phase, ours) for phase in PHASES)
    checked = verify(run_folder)
    assert checked.damaged == [] and "student     not kept" in checked.report()
    run.table.write_text("[]")
    checked = verify(run_folder)
    assert checked.damaged == ["student", "evaluation"] and "the student was not kept" in checked.report()
    with pytest.raises(UserError, match="the student was not kept"):
        require(run_folder, "student", ours)
    ledger.finish("student", PhaseNote())
    assert not ledger.has_discarded_student()


def test_verify_asks_for_no_phase_that_the_method_skips(run_folder: Path) -> None:
    ours = config(run_folder, method="full-finetune")
    with RunLock.claim(ours) as run:
        run.student.mkdir()
        (run.student / "model.safetensors").write_bytes(b"student")
        write_checksums(run.student)
        PhaseLedger(run, ours).finish("student", PhaseNote())
    checked = verify(run_folder)
    assert [row[:2] for row in checked.rows] == [
        ("config.yaml", "whole"),
        ("student", "whole"),
        ("evaluation", "not finished"),
    ]
