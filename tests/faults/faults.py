"""Every fault at a random place of a real run: is it noticed, and does the same command put it right?"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.faults.campaign import (
    NAME,
    Process,
    copy,
    differences,
    end_state,
    finish,
    run_flags,
    start,
)
from tests.faults.damages import FAULTS, Fault, flip, truncate, written, written_again


def try_damage(fault: Fault, reference: Path, wanted: dict[str, Any], work: Path, draw: random.Random) -> list[str]:
    """Damage a finished run, ask `lrd verify`, give the same command; return what was not as it should be."""
    folder = copy(reference, work / NAME)
    fault.apply(folder, draw)
    wrong = []
    verified = start("verify", str(folder), output=work / "verify.txt")
    if verified.wait() != 2 or not verified.error.startswith("lrd: error: ") or fault.part not in verified.error:
        wrong.append(f"verify: {verified.error}")
    before = written(folder)
    again = start(*run_flags(folder), output=work / "again.txt")
    if again.wait() != 0:
        return [*wrong, f"not put right: {again.error}"]
    wrong += [f"written anew without need: {name}" for name in written_again(before, written(folder), fault)]
    return wrong + [f"differs: {name}" for name in differences(end_state(folder), wanted)]


def stop_in_training(folder: Path, work: Path) -> list[Path]:
    """Start a run and kill it in the last stage of the teacher; return its checkpoints in order."""
    process = start(*run_flags(folder), output=work / "output.txt")
    place = folder / "checkpoints" / "teacher-2"
    while process.poll() is None and not list(place.glob("checkpoint-*/complete.json")):
        time.sleep(0.005)
    process.signal(signal.SIGKILL)
    found = sorted(place.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    if not any((path / "complete.json").is_file() for path in found):
        raise AssertionError(f"no checkpoint was caught: {process.text}")
    return found


def try_checkpoint(how: str, wanted: dict[str, Any], work: Path, draw: random.Random) -> list[str]:
    """Damage the last whole checkpoint of a killed run; return what was not as it should be."""
    folder = work / NAME
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    found = stop_in_training(folder, work)
    checkpoint = [path for path in found if (path / "complete.json").is_file()][-1]
    num_lost = len(found) - found.index(checkpoint)  # the kill may have left one after it half-written
    if how == "half-written":
        (checkpoint / "complete.json").unlink()
    target = draw.choice(sorted(path for path in checkpoint.iterdir() if path.is_file()))
    {"half-written": truncate, "truncated": truncate, "bit flipped": flip}[how](target, draw)
    text = finish(folder, work / "again.txt")
    said = text.count("does not count and is removed")
    wrong = [] if said == num_lost else [f"said {said} times of {num_lost} that it does not count"]
    return wrong + [f"differs: {name}" for name in differences(end_state(folder), wanted)]


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def one_line(process: Process, *words: str) -> list[str]:
    """Return what is wrong with how a run ended that could not go on."""
    status = process.wait()
    lines = [line for line in process.text.splitlines() if line.startswith("lrd: ")]
    if status != 2 or len(lines) != 1 or "Traceback" in process.text:
        return [f"status {status}, {lines or process.text[-300:]}"]
    return [] if any(word in lines[0] for word in words) else [f"said only: {lines[0]}"]


def try_full_disk(wanted: dict[str, Any], work: Path, draw: random.Random) -> list[str]:
    """Run on a disk that is too small, make room, go on; return what was not as it should be."""
    with small_disk(work / "disk", f"{draw.randint(2, 30) * 512}k") as disk:
        full = start(*run_flags(disk / NAME), output=work / "full.txt")
        wrong = one_line(full, "No space left", "no space left", "disk is full")
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        again = start(*run_flags(disk / NAME), output=work / "again.txt")
        if again.wait() != 0:
            return [*wrong, f"not gone on: {again.error}"]
        return wrong + [f"differs: {name}" for name in differences(end_state(disk / NAME), wanted)]


def try_read_only(reference: Path, wanted: dict[str, Any], work: Path, draw: random.Random) -> list[str]:
    """Give the command of a finished run whose folder became read-only; nothing may change."""
    with small_disk(work / "disk", "100m") as disk:
        folder = copy(reference, disk / "copy" / NAME)
        if draw.random() < 0.5:
            (folder / "student.done.json").unlink()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        return one_line(start(*run_flags(folder), output=work / "read-only.txt"), "Read-only file system")


def try_two(wanted: dict[str, Any], work: Path, draw: random.Random) -> list[str]:
    """Start a second process on the folder of the first."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    folder = work / NAME
    first = start(*run_flags(folder), output=work / "first.txt")
    while not (folder / "held_by.json").exists():
        time.sleep(0.01)
    time.sleep(draw.uniform(0, 3))
    second = start(*run_flags(folder), output=work / "second.txt")
    wrong = one_line(second, f"in use by process {first.pid} on {os.uname().nodename}")
    if first.wait() != 0:
        return [*wrong, f"the first was disturbed: {first.error}"]
    return wrong + [f"differs: {name}" for name in differences(end_state(folder), wanted)]


def make_trials(
    reference: Path, wanted: dict[str, Any], work: Path, draw: random.Random
) -> dict[str, Callable[[], list[str]]]:
    """Return every fault as a trial, which returns what was not as it should be.

    The two that mount a small file system need root and are left out without.
    """
    trials: dict[str, Callable[[], list[str]]] = {
        name: lambda fault=fault: try_damage(fault, reference, wanted, work, draw) for name, fault in FAULTS.items()
    }
    for how in ("half-written", "truncated", "bit flipped"):
        trials[f"checkpoint {how}"] = lambda how=how: try_checkpoint(how, wanted, work, draw)
    trials["two processes on one run folder"] = lambda: try_two(wanted, work, draw)
    if os.geteuid() == 0:
        trials["disk full (0.5 to 15 MB)"] = lambda: try_full_disk(wanted, work, draw)
        trials["read-only folder"] = lambda: try_read_only(reference, wanted, work, draw)
    return trials
