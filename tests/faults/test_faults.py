"""A few of the campaign's kills and faults on one real run; `python -m tests.faults` does all."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lrd_peft.training.checkpoints import last_checkpoint
from tests.faults import campaign
from tests.faults.campaign import NAME, copy, differences, end_state, finish, prepare, run_flags, start, undisturbed
from tests.faults.damages import FAULTS, written, written_again
from tests.faults.faults import try_checkpoint, try_damage, try_full_disk, try_read_only, try_two
from tests.faults.kills import Killed, kill_until_it_ends

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
mounts = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    prepare()
    return undisturbed(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def wanted(reference: tuple[Path, float]) -> dict[str, Any]:
    return end_state(reference[0])


def test_kill_9_at_random_moments_leaves_no_trace(
    reference: tuple[Path, float], wanted: dict[str, Any], tmp_path: Path
) -> None:
    killed = Killed(Counter(), [])
    folder = tmp_path / NAME
    kill_until_it_ends(folder, random.Random(3), longest=reference[1] * 0.6, most=5, killed=killed)
    assert killed.places.total() >= 3
    assert differences(end_state(folder), wanted) == []


def test_signals_in_every_phase_end_with_their_status_and_one_line(wanted: dict[str, Any], tmp_path: Path) -> None:
    folder, output = tmp_path / NAME, tmp_path / "output.txt"

    def stop(number: int, status: int, pattern: str) -> None:
        process = start(*run_flags(folder), output=output)
        while process.poll() is None and not any(folder.glob(pattern)):
            time.sleep(0.001)
        assert process.signal(number) == status, process.text
        [line] = [line for line in process.text.splitlines() if line.startswith("lrd: ")]
        assert line == f"lrd: interrupted by {signal.Signals(number).name}; run the same command to resume"
        assert process.error == line

    stop(signal.SIGTERM, 143, "checkpoints/teacher-1/checkpoint-*/complete.json")
    kept = last_checkpoint(folder / "checkpoints" / "teacher-1")
    assert kept is not None
    begun = Path(kept).name
    stop(signal.SIGINT, 130, "checkpoints/student/checkpoint-*/complete.json")
    assert last_checkpoint(folder / "checkpoints" / "student") is not None
    stop(signal.SIGTERM, 143, "evaluation/base--*.json")
    finish(folder, output)
    assert differences(end_state(folder), wanted) == [], begun


def test_extraction_that_is_told_to_end_finishes_its_shard(
    reference: tuple[Path, float], wanted: dict[str, Any], tmp_path: Path
) -> None:
    """Two problems a shard: the signal comes with problem 4, so that problems 0 to 5 are kept."""
    folder = copy(reference[0], tmp_path / "copy" / NAME)
    for path in (*folder.glob("store/*"), folder / "store.done.json"):
        path.unlink()
    two_problems = str(2 * 5 * 3 * 80 * 2)

    def arm() -> None:
        from lrd_peft.store import StoreWriter

        add = StoreWriter.add

        def signalled(self: StoreWriter, index: int, *arguments: Any) -> None:
            if index == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            add(self, index, *arguments)

        StoreWriter.add = signalled  # pyright: ignore[reportAttributeAccessIssue]

    flags = (*run_flags(folder), "--shard_bytes", two_problems)
    assert start(*flags, output=tmp_path / "output.txt", before=arm).wait() == 143
    lines = [json.loads(line) for line in (folder / "store" / "journal.jsonl").read_text().splitlines()]
    assert [(line["first"], line["stop"]) for line in lines[1:]] == [(0, 2), (2, 4), (4, 6)]
    before = written(folder / "store")
    assert start(*flags, output=tmp_path / "output.txt").wait() == 0
    again = written(folder / "store")
    assert all(again[name] == before[name] for name in before if name.startswith("shard"))
    assert end_state(folder)["student/adapter_model.safetensors"] == wanted["student/adapter_model.safetensors"]


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_noticed_and_only_the_damaged_part_made_again(
    name: str, reference: tuple[Path, float], wanted: dict[str, Any], tmp_path: Path
) -> None:
    assert try_damage(FAULTS[name], reference[0], wanted, tmp_path / "work", random.Random(name)) == []


@pytest.mark.parametrize("how", ["half-written", "bit flipped"])
def test_a_damaged_checkpoint_does_not_count(how: str, wanted: dict[str, Any], tmp_path: Path) -> None:
    assert try_checkpoint(how, wanted, tmp_path / "work", random.Random(how)) == []


def test_a_second_process_is_refused_at_once(wanted: dict[str, Any], tmp_path: Path) -> None:
    assert try_two(wanted, tmp_path / "work", random.Random(1)) == []


@mounts
def test_a_full_disk_is_one_line_and_with_room_it_goes_on(wanted: dict[str, Any], tmp_path: Path) -> None:
    assert try_full_disk(wanted, tmp_path / "work", random.Random(2)) == []


@mounts
def test_a_read_only_folder_is_one_line(reference: tuple[Path, float], wanted: dict[str, Any], tmp_path: Path) -> None:
    assert try_read_only(reference[0], wanted, tmp_path / "work", random.Random(2)) == []


def test_the_store_of_another_run_is_refused_with_both_values(reference: tuple[Path, float], tmp_path: Path) -> None:
    """Another seed: other problems and another teacher."""
    folder, other = copy(reference[0], tmp_path / "a" / NAME), tmp_path / "b" / NAME
    other.parent.mkdir()
    layers = ("--store_layers", *map(str, range(7, 13)))
    flags = (*campaign.FLAGS, "--output_dir", str(other), "--seed", "1", *layers)
    for command in ("train-teacher", "extract"):
        assert start(command, *flags, output=tmp_path / "output.txt").wait() == 0
    mine = {path.name: json.loads(path.read_text()) for path in (folder / "store").glob("manifest.json")}
    theirs = {path.name: json.loads(path.read_text()) for path in (other / "store").glob("manifest.json")}
    for path in (folder / "store").iterdir():
        path.unlink()
    for path in (other / "store").iterdir():
        (folder / "store" / path.name).write_bytes(path.read_bytes())
    process = start(*run_flags(folder), output=tmp_path / "output.txt")
    assert process.wait() == 2
    for name in ("teacher", "data"):
        ours, given = (each["manifest.json"]["spec"]["fingerprints"][name] for each in (mine, theirs))
        assert f"{name}: the store has {given!r}, asked for {ours!r}" in process.error
    assert "layers: the store has [7, 8, 9, 10, 11, 12], asked for [8, 9, 10, 11, 12]" in process.error


def test_what_needed_no_repair_is_not_written(reference: tuple[Path, float], tmp_path: Path) -> None:
    folder = copy(reference[0], tmp_path / "copy" / NAME)
    before = written(folder)
    finish(folder, tmp_path / "output.txt")
    fault = next(iter(FAULTS.values()))
    assert [name for name in written_again(before, written(folder), fault) if "store" not in name] == []
