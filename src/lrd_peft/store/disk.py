"""Writes a store's files, compares them with their checksums, and estimates their size."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable
from pathlib import Path

from lrd_peft.runtime.checksums import file_damage, new_digest
from lrd_peft.runtime.errors import UserError, os_errors
from lrd_peft.runtime.files import atomic
from lrd_peft.store.format import ITEM_BYTES, ShardEntry, StoreSpec

CHUNK_BYTES = 1 << 20  # hashed and written while it is in the cache
TEXT_BYTES_PER_PROBLEM = 512  # question, steps and answer as JSON: a guess, for the estimate only
INDEX_BYTES_PER_PROBLEM = 16
_REMEDY = "finished shards are kept: fix that and give the same command again"


def disk_errors(path: Path) -> contextlib.AbstractContextManager[None]:
    """Turn a write that the system refuses (disk full, read-only folder, ...) into one line for the user."""
    return os_errors("write", path, _REMEDY)


def write_hashed(path: Path, parts: Iterable[bytes | memoryview]) -> tuple[int, str]:
    """Write a file atomically; return its size in bytes and its checksum."""
    digest = new_digest()
    size = 0
    with atomic(path) as file:
        for part in parts:
            view = memoryview(part)
            for start in range(0, len(view), CHUNK_BYTES):
                chunk = view[start : start + CHUNK_BYTES]
                digest.update(chunk)
                file.write(chunk)
            size += len(view)
    return size, digest.hexdigest()


def shard_damage(folder: Path, entry: ShardEntry) -> list[str]:
    """Describe what is wrong with the two files of a shard."""
    found = (
        file_damage(folder / entry.name, num_bytes=entry.num_bytes, checksum=entry.checksum),
        file_damage(folder / entry.rows_name, num_bytes=entry.rows_bytes, checksum=entry.rows_checksum),
    )
    return [damage for damage in found if damage]


def estimate_bytes(spec: StoreSpec, total_positions: int) -> int:
    """Return the size in bytes of a store with `total_positions` positions over all its problems."""
    states = total_positions * len(spec.layers) * spec.hidden_size * ITEM_BYTES[spec.dtype]
    return states + spec.num_problems * (INDEX_BYTES_PER_PROBLEM + TEXT_BYTES_PER_PROBLEM)


def require_space(folder: str | Path, num_bytes: int) -> None:
    """Refuse a store that the disk cannot hold, before the first byte is written.

    Raises:
        UserError: if less than `num_bytes` bytes are free.
    """
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if num_bytes > free:
        raise UserError(
            f"the store needs {num_bytes / 1e9:.2f} GB, the disk of {folder} has {free / 1e9:.2f} GB free: "
            "make room, give a folder on a larger disk, or store fewer layers, problems or positions"
        )
