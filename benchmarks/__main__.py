"""`python -m benchmarks`: measures, prints the table, and on request keeps the record and writes the page.

python -m benchmarks                      everything, one thread and all cores (the large works those only)
python -m benchmarks --quick              fewer works and repeats, one thread
python -m benchmarks --only evaluation    one section
python -m benchmarks --clock cpu          on a machine that others use too: this process's own time
python -m benchmarks --write              results/bench.json, the tables and the figure of docs/performance.md as well
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "results" / "bench.json"
PAGE = ROOT / "docs" / "performance.md"
FIGURE = ROOT / "docs" / "assets" / "ratios.svg"
# A load above the threads that are measured means that something else computes as well.
BUSY_LOAD = 0.5


def main() -> None:
    """Measure what the command line asks for."""
    arguments = _arguments()
    # Before torch is loaded: each measurement sets its own number of threads.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from benchmarks import evaluation, extraction, memory, peak, processes, scaling, storage, student, training_step
    from benchmarks.figure import draw
    from benchmarks.measure import Row, Settings, threads
    from benchmarks.table import page, table
    from lrd_peft.runtime.environment import environment
    from lrd_peft.runtime.json_files import write_json_atomic

    sections: dict[str, Callable[[Settings], Iterator[Row]]] = {
        "training": training_step.rows,
        "evaluation": evaluation.rows,
        "student": student.rows,
        "extraction": extraction.rows,
        "store": storage.rows,
        "growth": scaling.rows,
        "processes": processes.rows,
        "peak": peak.rows,
        "memory": memory.rows,
    }
    # What does not compute with torch's threads, or takes long and would say the same twice.
    once = {"store", "growth", "processes"}
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    if load > BUSY_LOAD:
        print(f"the machine is busy (load {load:.1f} before the start): ratios hold, seconds do not", file=sys.stderr)
    rows: list[Row] = []
    began = time.perf_counter()
    counts = (1,) if arguments.quick else tuple(dict.fromkeys((1, cores)))
    for count in counts if arguments.threads is None else (arguments.threads,):
        settings = Settings(
            quick=arguments.quick,
            threads=counts,
            repeats=3 if arguments.quick else 5,
            seconds=3 if arguments.quick else 8,
            clock=arguments.clock,
        )
        for name, section in sections.items():
            if arguments.only not in (None, name) or (name in once and count != counts[0]):
                continue
            started = time.perf_counter()
            with threads(count):
                for row in section(settings):
                    rows.append(row)
                    print(table([row], header=len(rows) == 1), flush=True)
            print(f"{name}, threads {count}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    seconds = time.perf_counter() - began
    load_after = os.getloadavg()[0]
    print(f"\n{len(rows)} rows in {seconds / 60:.1f} minutes")
    if arguments.write:
        work = training_step.make("gpt2-256x4-50k")
        with threads(1):
            operations = peak.largest_operations(work)
        record: dict[str, Any] = {
            "rows": [row.to_dict() for row in rows],
            "operations": operations,
            "environment": environment(),
            "clock": arguments.clock,
            "quick": arguments.quick,
            "load_before": load,
            "load_after": load_after,
            "cores": cores,
            "wall_seconds": seconds,
        }
        RECORD.parent.mkdir(exist_ok=True)
        write_json_atomic(RECORD, record)
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), record), encoding="utf-8")
        draw(rows, FIGURE)
        print("wrote " + ", ".join(str(path.relative_to(ROOT)) for path in (RECORD, PAGE, FIGURE)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Speed, as ratios measured in one run.")
    parser.add_argument("--quick", action="store_true", help="fewer works and repeats, one thread, under two minutes")
    sections = "training, evaluation, student, extraction, store, growth, processes, peak or memory"
    parser.add_argument("--only", help=sections)
    parser.add_argument("--threads", type=int, help="only this number of threads (default: one, and all cores)")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: this process's own time")
    parser.add_argument("--write", action="store_true", help="keep results/bench.json, fill docs/performance.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
