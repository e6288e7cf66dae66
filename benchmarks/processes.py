"""A student's updates with one process and with two, each with one thread: the same problems, the same batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.extraction import memory_disk
from benchmarks.measure import LEAST_REPEATS, Row, Settings, row, threads

SECTION = "processes"
BATCH_SIZE = 32
RESULT = "result.json"


def rows(settings: Settings) -> Iterator[Row]:
    num_steps = 3 if settings.quick else 12
    (alone, loss), (together, other_loss) = (train(count, num_steps=num_steps) for count in (1, 2))
    assert abs(loss - other_loss) <= 1e-3 * loss, f"mean loss {loss} with one process, {other_loss} with two"
    with threads(1):
        yield row(
            SECTION,
            f"student of tiny, batch {BATCH_SIZE}, {num_steps} steps",
            ours=("two processes", together),
            other=("one process", alone),
        )


def train(num_processes: int, *, num_steps: int) -> tuple[list[float], float]:
    """Return the wall times of several trainings in this many processes, without their start, and the mean loss."""
    with tempfile.TemporaryDirectory(dir=memory_disk()) as folder:
        launcher = ("torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes))
        command = [sys.executable, "-m", *launcher, "-m", "benchmarks.processes", folder, str(num_steps)]
        done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{num_processes} processes failed:\n{done.stderr}")
        written = json.loads((Path(folder) / RESULT).read_text(encoding="utf-8"))
        return written["seconds"], written["loss"]


def work(folder: Path, *, num_steps: int) -> None:
    """Train in one of the processes; the first writes how long it took."""
    from benchmarks.student import Pair

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    pair = Pair("tiny", folder / str(rank), num_steps=num_steps, batch_size=BATCH_SIZE)
    trainer = pair.trainer(num_processes=size)
    trainer.train()
    taken = []
    for _ in range(LEAST_REPEATS):
        began = time.perf_counter()
        trainer.train()
        taken.append(time.perf_counter() - began)
    if rank == 0:
        written = {"seconds": taken, "loss": trainer.curve()[0]["loss"]}
        (folder / RESULT).write_text(json.dumps(written), encoding="utf-8")


if __name__ == "__main__":
    work(Path(sys.argv[1]), num_steps=int(sys.argv[2]))
