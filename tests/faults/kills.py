"""Signals at random moments, the same command again, until the run ends; its end is compared bit for bit."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.campaign import NAME, differences, end_state, place, run_flags, start

# The longest life before a signal, as a share of an undisturbed run's processor time.
_SHARE = 0.5


@dataclass
class Killed:
    """What a campaign did.

    Attributes:
        places: kills by where the run stood.
        ends: for each run, what differed from the undisturbed one at its end.
    """

    places: Counter[str] = field(default_factory=Counter)
    ends: list[list[str]] = field(default_factory=list)

    def total(self, number: signal.Signals) -> str:
        """Return one line on all of it."""
        same = sum(not end for end in self.ends)
        found = ", ".join(sorted({name for end in self.ends for name in end}))
        hits = f"{self.places.total()} times {number.name}, {len(self.ends)} runs"
        return f"{hits}, {same} of which ended bit for bit as the undisturbed one{found and '; differing: ' + found}"


def kill_until_it_ends(
    folder: Path,
    draw: random.Random,
    *,
    longest: float,
    most: int,
    killed: Killed,
    number: signal.Signals = signal.SIGKILL,
) -> None:
    """Start a run again and again, kill it after at most `longest` seconds of work, `most` times; then let it end."""
    output = folder.parent / "output.txt"
    for _ in range(most):
        process = start(*run_flags(folder), output=output)
        process.wait_for_work(draw.uniform(0, longest))
        time.sleep(draw.uniform(0, 0.01))  # the clock of processor time ticks every 10 ms
        if process.signal(number) == 0:
            return
        expected = -number if number == signal.SIGKILL else 128 + number
        assert process.ended == expected, process.text
        if expected > 0:
            assert process.error == f"lrd: interrupted by {number.name}; run the same command to resume"
        killed.places[place(folder)] += 1
    process = start(*run_flags(folder), output=output)
    assert process.wait() == 0, process.text


def campaign(
    root: Path, reference: Path, seconds: float, *, num_kills: int, seed: int, number: signal.Signals
) -> Killed:
    """Disturb runs, one after another, until there were `num_kills` kills.

    Args:
        root: folder for the runs.
        reference: the undisturbed run, which took so many `seconds` of processor time.
    """
    draw = random.Random(seed)
    wanted = end_state(reference)
    killed = Killed()
    while (left := num_kills - killed.places.total()) > 0:
        folder = root / f"killed-{len(killed.ends)}" / NAME
        folder.parent.mkdir(parents=True)
        kill_until_it_ends(folder, draw, longest=seconds * _SHARE, most=left, killed=killed, number=number)
        killed.ends.append(differences(end_state(folder), wanted))
        shutil.rmtree(folder.parent)
    return killed
