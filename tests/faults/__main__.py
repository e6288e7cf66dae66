"""The whole campaign: kills, both signals, every fault; one table each, as docs/reliability.md has them.

    python -m tests.faults

Exits with 1 if a run did not end as it should.
"""

from __future__ import annotations

import argparse
import random
import resource
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.faults.campaign import end_state, prepare, undisturbed
from tests.faults.faults import make_trials
from tests.faults.kills import campaign


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--signals", type=int, default=20, help="of SIGTERM and of SIGINT, each")
    parser.add_argument("--times", type=int, default=5, help="trials of each fault")
    parser.add_argument("--only", default="", help="only faults whose name has this in it")
    parser.add_argument("--seed", type=int, default=0)
    found = parser.parse_args()
    prepare()
    failed = num_trials = 0
    with tempfile.TemporaryDirectory(prefix="lrd-faults-") as root:
        reference, seconds = undisturbed(Path(root))
        wanted = end_state(reference)
        print(f"an undisturbed run: {seconds:.1f} seconds of processor time\n")
        places: dict[str, Counter[str]] = {}
        totals: list[str] = []
        numbers = {signal.SIGKILL: found.kills, signal.SIGTERM: found.signals, signal.SIGINT: found.signals}
        for number, times in numbers.items():
            place = Path(root, number.name)
            killed = campaign(place, reference, seconds, num_kills=times, seed=found.seed, number=number)
            failed += sum(bool(end) for end in killed.ends)
            places[number.name] = killed.places
            totals.append(killed.total(number))
            print(totals[-1], flush=True)
        print(f"\n| hit in | {' | '.join(places)} |\n|---|{'---|' * len(places)}")
        for name in sorted({name for counts in places.values() for name in counts}):
            print(f"| {name} | {' | '.join(str(counts[name]) for counts in places.values())} |")
        print("\n| fault | times tried | noticed, put right, same end | otherwise |\n|---|---|---|---|", flush=True)
        trials = make_trials(reference, wanted, Path(root, "work"), random.Random(found.seed))
        for name, trial in trials.items():
            if found.only not in name:
                continue
            wrong = [found for found in (trial() for _ in range(found.times)) if found]
            failed += len(wrong)
            print(f"| {name} | {found.times} | {found.times - len(wrong)} | {wrong or ''} |", flush=True)
            num_trials += found.times
        print(f"\n{num_trials} trials")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{(used.ru_utime + used.ru_stime) / 60:.1f} minutes of processor time; {failed} ended otherwise")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
