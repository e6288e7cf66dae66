"""The store against the machine: bytes a second, random reads, opening, size."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from benchmarks.extraction import memory_disk
from benchmarks.measure import Row, Settings, alternate, measured_once, row
from lrd_peft.runtime.checksums import new_digest
from lrd_peft.store import Store, StoreSpec, StoreWriter
from lrd_peft.store.writer import DEFAULT_SHARD_BYTES

SECTION = "store"
PROBLEM = {"id": "made/1", "question": "How many pens does Ann have now? " * 5, "steps": ["1 + 2 = 3"], "answer": "3"}
# A Llama-2-7B teacher's states: 5 layers, 6 slots and the answer position, width 4096, bfloat16: 0.29 MB a problem.
WIDE = {"layers": (8, 9, 10, 11, 12), "num_thoughts": 6, "hidden_size": 4096, "num_blocks": 32}
# Shards of 64 MB hold 233 of those; the store of a million problems has as many shards of as many tiny problems.
PROBLEMS_PER_SHARD = 233


def spec_of(num_problems: int, **shape: object) -> StoreSpec:
    fingerprints = {"teacher": "bench", "tokenizer": "bench", "data": "bench"}
    return StoreSpec(fingerprints=fingerprints, teacher_name="bench", num_problems=num_problems, **shape)  # pyright: ignore[reportArgumentType]


def write(folder: Path, spec: StoreSpec, states: torch.Tensor, *, shard_bytes: int = DEFAULT_SHARD_BYTES) -> Path:
    with StoreWriter.open(folder, spec, shard_bytes=shard_bytes) as writer:
        for index in range(spec.num_problems):
            writer.add(index, states, PROBLEM)
        writer.finish()
    return folder


def plain_write(folder: Path, block: memoryview, num_blocks: int) -> None:
    """The same bytes with the same checksum and nothing else, one file after another on each core."""
    folder.mkdir()

    def one(number: int) -> str:
        with open(folder / str(number), "wb", buffering=0) as file:
            digest = new_digest()
            for start in range(0, len(block), 1 << 20):
                digest.update(block[start : start + (1 << 20)])
                file.write(block[start : start + (1 << 20)])
            os.fsync(file.fileno())
        return digest.hexdigest()

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(one, range(num_blocks)))


def rows(settings: Settings) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(dir=memory_disk()) as name:
        folder = Path(name)
        yield from _writing(settings, folder)
        yield from _reading(settings, folder)
        yield from _opening(settings, folder)


def _writing(settings: Settings, folder: Path) -> Iterator[Row]:
    num_shards = 4 if settings.quick else 12
    spec = spec_of(PROBLEMS_PER_SHARD * num_shards, **WIDE)
    states = torch.randn(5, 7, 4096).bfloat16()
    shard = torch.randn(PROBLEMS_PER_SHARD * 5 * 7 * 4096).bfloat16()
    block = shard.view(torch.uint8).numpy().data
    num_bytes = states.nbytes * spec.num_problems

    def store() -> None:
        shutil.rmtree(folder / "store", ignore_errors=True)
        write(folder / "store", spec, states)

    def plain() -> None:
        shutil.rmtree(folder / "plain", ignore_errors=True)
        plain_write(folder / "plain", block, num_shards)

    mine, bare = alternate(settings, store, plain)
    speed = [num_bytes / 1e9 / seconds for seconds in mine]
    work = f"{num_bytes / 1e9:.2f} GB, bfloat16"
    yield row(
        SECTION, work, ours=("write", mine), other=("the bytes and their checksum alone", bare), target="", is_cost=True
    )
    middle = sorted(speed)[len(speed) // 2]
    yield measured_once(
        SECTION, work, "write", middle, seconds=sorted(mine)[len(mine) // 2], other="GB a second", target="≥ 1.5"
    )
    shutil.rmtree(folder / "plain")
    on_disk = sum(path.stat().st_size for path in (folder / "store").iterdir())
    yield measured_once(
        SECTION, work, "bytes on disk", on_disk / num_bytes, seconds=0.0, other="bytes of the tensors", target="≤ 1.02"
    )


def _reading(settings: Settings, folder: Path) -> Iterator[Row]:
    """Random problems, all their bytes read; the other side slices one mapped tensor of the same bytes."""
    store = Store.open(folder / "store")
    num_problems = len(store)
    order = random.Random(0).choices(range(num_problems), k=2_000 if settings.quick else 10_000)
    path = folder / "raw"
    with open(path, "wb") as file:
        for index in range(num_problems):
            file.write(store.states(index).contiguous().view(torch.uint8).numpy().tobytes())
    raw = torch.from_file(str(path), size=num_problems * 5 * 7 * 4096, dtype=torch.bfloat16)
    raw = raw.view(num_problems, 5, 7, 4096)
    target = torch.empty(5, 7, 4096, dtype=torch.bfloat16)

    def ours() -> None:
        for index in order:
            target.copy_(store.states(index))

    def bare() -> None:
        for index in order:
            target.copy_(raw[index])

    assert torch.equal(store.states(7), raw[7])
    mine, sliced = alternate(settings, ours, bare)
    yield row(
        SECTION,
        f"{len(order)} problems at random",
        ours=("read", mine),
        other=("a mapped slice", sliced),
        target="≤ 2",
        is_cost=True,
    )


def _opening(settings: Settings, folder: Path) -> Iterator[Row]:
    """A store of many problems, as many shards as the states of a large teacher would make."""
    num_problems = 50_000 if settings.quick else 1_000_000
    spec = spec_of(num_problems, layers=(1,), num_thoughts=1, hidden_size=4, num_blocks=2, positions="thoughts")
    path = write(folder / "many", spec, torch.zeros(1, 1, 4), shard_bytes=PROBLEMS_PER_SHARD * 8)
    began = settings.now()
    store = Store.open(path)
    store.states(num_problems // 2)
    seconds = settings.now() - began
    tracemalloc.start()
    store = Store.open(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    work = f"{num_problems} problems, {len(store.shard_ranges)} shards"
    yield measured_once(SECTION, work, "open", seconds, seconds=seconds, other="seconds", target="≤ 1")
    yield measured_once(SECTION, work, "open", peak / 1e6, seconds=seconds, other="MB of memory")
