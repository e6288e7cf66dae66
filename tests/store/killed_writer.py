"""Write a store in child processes that are killed with SIGKILL at random moments; the last one finishes.

python -m tests.store.killed_writer FOLDER NUM_KILLS SEED
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from lrd_peft.store import StoreWriter
from tests.store import made

SPEC = made.spec(num_problems=201)


def write(folder: Path, *, pause_seconds: float) -> None:
    with StoreWriter.open(folder, SPEC, shard_bytes=made.TWO_PROBLEMS) as writer:
        for first, stop in writer.missing:
            for index in range(first, stop):
                writer.add(index, made.states(index), made.row(index))
                time.sleep(pause_seconds)
        writer.finish()


def main(folder: Path, num_kills: int, seed: int) -> None:
    draw = random.Random(seed)
    for killed in range(num_kills + 1):
        child = os.fork()
        if child == 0:
            write(folder, pause_seconds=0.004 if killed < num_kills else 0.0)
            os._exit(0)
        if killed < num_kills:
            time.sleep(draw.uniform(0.0, 0.12))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        lines = (folder / "journal.jsonl").read_bytes().count(b"\n") if (folder / "journal.jsonl").exists() else 0
        print(os.waitstatus_to_exitcode(status), lines, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
