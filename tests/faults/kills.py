"""kill -9 at random moments, the same command again, until the run ends; its end is compared bit for bit.

    python -m tests.faults.kills --kills 50 --seed 0
    python -m tests.faults.kills --kills 25 --signal TERM

Prints where the kills hit and how many of the runs ended as the undisturbed one.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.campaign import NAME, differences, end_state, place, prepare, run_flags, start, undisturbed


@dataclass
class Killed:
    """What a campaign did.

    Attributes:
        places: kills by where the run stood.
        ends: for each run, what differed from the undisturbed one at its end.
    """

    places: Counter[str] = field(default_factory=Counter)
    ends: list[list[str]] = field(default_factory=list)


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
            assert process.error == f"lrd: interrupted by {number.name}; the same command goes on from here"
        killed.places[place(folder)] += 1
    process = start(*run_flags(folder), output=output)
    assert process.wait() == 0, process.text


def campaign(root: Path, *, num_kills: int, seed: int, share: float, number: signal.Signals) -> Killed:
    """Disturb runs, one after another, until there were `num_kills` kills."""
    draw = random.Random(seed)
    reference, seconds = undisturbed(root)
    wanted = end_state(reference)
    killed = Killed()
    while (left := num_kills - killed.places.total()) > 0:
        folder = root / f"killed-{len(killed.ends)}" / NAME
        folder.parent.mkdir()
        kill_until_it_ends(folder, draw, longest=seconds * share, most=left, killed=killed, number=number)
        killed.ends.append(differences(end_state(folder), wanted))
        print(
            f"run {len(killed.ends)}: {killed.places.total()} kills so far, differs in {killed.ends[-1] or 'nothing'}"
        )
        sys.stdout.flush()
    return killed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=0.5, help="longest life before a kill, as a share of the run")
    parser.add_argument("--signal", choices=["KILL", "TERM", "INT"], default="KILL")
    found = parser.parse_args()
    prepare()
    with tempfile.TemporaryDirectory(prefix="lrd-kills-") as folder:
        number = signal.Signals[f"SIG{found.signal}"]
        killed = campaign(Path(folder), num_kills=found.kills, seed=found.seed, share=found.share, number=number)
    same = sum(not end for end in killed.ends)
    print("\n| killed in | times |\n|---|---|")
    for name, times in sorted(killed.places.items()):
        print(f"| {name} | {times} |")
    print(
        f"\n{killed.places.total()} kills, {len(killed.ends)} runs, {same} of them ended bit for bit as the undisturbed"
    )
    sys.exit(0 if same == len(killed.ends) else 1)


if __name__ == "__main__":
    main()
