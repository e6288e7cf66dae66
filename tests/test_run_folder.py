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

from lrd_peft.checksums import read_sealed, write_checksums
from lrd_peft.config import PHASES, RunConfig
from lrd_peft.errors import UserError
from lrd_peft.experiments.verify import verify
from lrd_peft.run_folder import RunFolder
from lrd_peft.store import Store
from tests.store import made

HOLD = """
import sys
import threading
import time
from lrd_peft.config import RunConfig
from lrd_peft.run_folder import RunFolder
with RunFolder.claim(RunConfig(output_dir=sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def config(folder: Path, **changes: Any) -> RunConfig:
    return RunConfig(output_dir=str(folder), **changes)


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
    with pytest.raises(UserError, match=who), RunFolder.claim(config(run_folder)):
        pass
    holder.kill()
    holder.communicate()
    with RunFolder.claim(config(run_folder)):  # the system lets go of what a dead process held
        assert (read_sealed(run_folder / "held_by.json") or {})["pid"] == os.getpid()
    with RunFolder.claim(config(run_folder)):
        pass


def test_a_damaged_configuration_is_named_with_the_way_out(run_folder: Path) -> None:
    with RunFolder.claim(config(run_folder)) as run:
        run.finish("teacher", config(run_folder), {})
    (run_folder / "config.yaml").write_text("seed: [")
    with (
        pytest.raises(UserError, match=r"config\.yaml.*not valid YAML.*delete that file"),
        RunFolder.claim(config(run_folder)),
    ):
        pass
    (run_folder / "config.yaml").unlink()
    with (
        pytest.raises(UserError, match="holds no run"),
        RunFolder.claim(config(run_folder, seed=1)),  # the marker is another configuration's
    ):
        pass
    with RunFolder.claim(config(run_folder)) as run:
        assert run.finished("teacher", config(run_folder)) is not None


def finished_run(folder: Path) -> RunFolder:
    """A run folder with the files of every phase, made of bytes and numbers."""
    run = RunFolder(folder)
    for name in ("teacher/cot", "teacher/latent", "student"):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.safetensors").write_bytes(name.encode() * 9)
        write_checksums(folder / name)
    made.make(run.store)
    (folder / "evaluation.json").write_text("{}")
    for phase in PHASES:
        run.finish(phase, config(folder), {"phase": phase})
    return RunFolder(folder)


def test_a_phase_is_finished_while_what_it_was_made_from_stays(run_folder: Path) -> None:
    run, ours = finished_run(run_folder), config(run_folder)
    assert all(run.finished(phase, ours) is not None for phase in PHASES)
    assert all(run.damages(phase, ours) == [] for phase in PHASES)
    assert run.finished("student", config(run_folder, distill_alpha=0.5)) is None
    (run.teacher / "latent" / "model.safetensors").write_bytes(b"another teacher")
    write_checksums(run.teacher / "latent")
    assert [phase for phase in PHASES if run.finished(phase, ours) is None] == ["store", "evaluation"]
    assert RunFolder(run_folder).damages("teacher", ours) == ["teacher/latent is not what this run made"]


def test_the_same_weights_with_another_description_are_the_same(run_folder: Path) -> None:
    run = finished_run(run_folder)
    (run.teacher / "latent" / "lrd_model.json").write_text('{"history": [{"wall_seconds": 3}]}')
    write_checksums(run.teacher / "latent")
    assert all(run.finished(phase, config(run_folder)) is not None for phase in PHASES)


def test_a_store_that_was_put_in_the_place_of_another_does_not_count(run_folder: Path) -> None:
    run = finished_run(run_folder)
    made.make(run_folder.parent / "other", of=made.spec(fingerprints={"teacher": "zz"}))
    for path in run.store.iterdir():
        path.write_bytes((run_folder.parent / "other" / path.name).read_bytes())
    assert Store.open(run.store).verify() == []  # it is whole, and not the one of this run
    assert run.damages("store", config(run_folder)) == ["store is not what this run made"]
    assert run.finished("student", config(run_folder)) is None


def test_a_damaged_part_is_not_used_and_named(run_folder: Path) -> None:
    run, ours = finished_run(run_folder), config(run_folder)
    path = run.student / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"the student of .* is damaged: student/model\.safetensors has 62 bytes,"):
        run.require("student", ours)
    marker = run_folder / "teacher.done.json"
    note = json.loads(marker.read_text())
    marker.write_text(json.dumps({**note, "phase": "other"}))
    with pytest.raises(UserError, match=r"no finished teacher.*lrd train-teacher"):
        run.require("teacher", ours)


def test_a_run_of_an_earlier_version_without_checksums_still_counts(run_folder: Path) -> None:
    run, ours = finished_run(run_folder), config(run_folder)
    for path in run_folder.rglob("files.json"):
        path.unlink()
    for phase in PHASES:
        (run_folder / f"{phase}.done.json").write_text(json.dumps({"fingerprint": ours.fingerprint(phase)}))
    assert all(run.require(phase, ours) for phase in PHASES)


def test_verify_reads_a_whole_folder_and_changes_nothing(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        verify(tmp_path)
    with RunFolder.claim(config(run_folder)):
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
    with pytest.raises(UserError, match=r"store, student\. Only these are made again by: lrd run --config .*config"):
        checked.complain()


def cell(folder: Path, shared: Path, changes: dict[str, Any]) -> RunFolder:
    """A run folder as studies make them: teacher, store and their markers are links to what it shares."""
    made_run = finished_run(shared) if not shared.exists() else RunFolder(shared)
    ours = config(folder, **changes)
    folder.mkdir()
    for phase in ("teacher", "store"):
        for part in (phase, f"{phase}.done.json"):
            (folder / part).symlink_to(os.path.relpath(made_run.root / part, folder))
    run = RunFolder(folder)
    run.student.mkdir()
    (run.student / "model.safetensors").write_bytes(b"student")
    write_checksums(run.student)
    (folder / "evaluation.json").write_text("{}")
    for phase in ("student", "evaluation"):
        run.finish(phase, ours, {})
    return run


def test_what_cells_share_is_checked_and_marked_through_the_links(tmp_path: Path) -> None:
    first = cell(tmp_path / "first", tmp_path / "shared", {})
    second = cell(tmp_path / "second", tmp_path / "shared", {"distill_alpha": 0.5})
    configs = [config(first.root), config(second.root, distill_alpha=0.5)]
    for run, ours in zip((first, second), configs, strict=True):
        assert all(run.require(phase, ours) for phase in PHASES)
    made.shard(tmp_path / "shared" / "store", 1).write_bytes(b"")
    for run, ours in zip((first, second), configs, strict=True):
        assert "has 0 bytes" in RunFolder(run.root).damages("store", ours)[0]
    shutil.rmtree(first.store.resolve())
    made.make(first.store.resolve())
    first.finish("store", configs[0], {"again": True})
    assert (first.root / "store.done.json").is_symlink()
    note = RunFolder(second.root).require("store", configs[1])
    assert note["again"] is True


def test_one_run_at_a_time_makes_what_several_share(tmp_path: Path) -> None:
    first = cell(tmp_path / "first", tmp_path / "shared", {})
    second = cell(tmp_path / "second", tmp_path / "shared", {})
    order: list[str] = []

    def repair(run: RunFolder, name: str) -> None:
        with run.alone("store"):
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
    with first.alone("student"), first.alone("student"):  # its own: the run holds it already
        pass


def test_a_student_that_is_not_kept_counts_until_its_evaluation_is_needed_again(run_folder: Path) -> None:
    with RunFolder.claim(config(run_folder)):
        pass
    run, ours = finished_run(run_folder), config(run_folder)
    run.discard_student()
    run = RunFolder(run_folder)
    assert not run.student.exists() and all(run.require(phase, ours) for phase in PHASES)
    checked = verify(run_folder)
    assert checked.damaged == [] and "student     not kept" in checked.report()
    (run_folder / "evaluation.json").write_text("[]")
    checked = verify(run_folder)
    assert checked.damaged == ["student", "evaluation"] and "the student was not kept" in checked.report()
    with pytest.raises(UserError, match="the student was not kept"):
        RunFolder(run_folder).require("student", ours)
    run.finish("student", ours, {})
    assert not RunFolder(run_folder).has_discarded(ours)


def test_verify_asks_for_no_phase_that_the_method_skips(run_folder: Path) -> None:
    ours = config(run_folder, method="full-finetune")
    with RunFolder.claim(ours) as run:
        run.student.mkdir()
        (run.student / "model.safetensors").write_bytes(b"student")
        write_checksums(run.student)
        run.finish("student", ours, {})
    checked = verify(run_folder)
    assert [row[:2] for row in checked.rows] == [
        ("config.yaml", "whole"),
        ("student", "whole"),
        ("evaluation", "not finished"),
    ]
