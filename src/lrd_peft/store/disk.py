"""How a store touches the disk: atomic writes, checksums, space. Knows nothing of what the bytes mean."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from lrd_peft.checksums import file_damage, new_digest
from lrd_peft.errors import UserError
from lrd_peft.store.format import ITEM_BYTES, ShardEntry, StoreSpec

CHUNK_BYTES = 1 << 20  # hashed and written while it is in the cache
TEXT_BYTES_PER_PROBLEM = 512  # question, steps and answer as JSON: a guess, for the estimate only
INDEX_BYTES_PER_PROBLEM = 16


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the system's refusal (disk full, read-only folder, ...) into one line for the user."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. Finished shards are kept: "
            "put that right and give the same command again"
        ) from error


def write_atomic(path: Path, parts: Iterable[bytes | memoryview]) -> tuple[int, str]:
    """Write to a temporary name, fsync, rename; return size and checksum. The caller syncs the folder."""
    temporary = path.with_name(path.name + ".tmp")
    digest = new_digest()
    size = 0
    try:
        with open(temporary, "wb", buffering=0) as file:
            for part in parts:
                view = memoryview(part)
                for start in range(0, len(view), CHUNK_BYTES):
                    chunk = view[start : start + CHUNK_BYTES]
                    digest.update(chunk)
                    written = 0
                    while written < len(chunk):
                        written += file.write(chunk[written:])
                size += len(view)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):  # a full disk needs the room
            temporary.unlink()
        raise
    return size, digest.hexdigest()


def shard_damage(folder: Path, entry: ShardEntry) -> list[str]:
    """What is wrong with the two files of a shard."""
    found = (
        file_damage(folder / entry.name, num_bytes=entry.num_bytes, checksum=entry.checksum),
        file_damage(folder / entry.rows_name, num_bytes=entry.rows_bytes, checksum=entry.rows_checksum),
    )
    return [damage for damage in found if damage]


def estimate_bytes(spec: StoreSpec, total_positions: int) -> int:
    """Bytes on disk of a store with `total_positions` positions over all its problems."""
    states = total_positions * len(spec.layers) * spec.hidden_size * ITEM_BYTES[spec.dtype]
    return states + spec.num_problems * (INDEX_BYTES_PER_PROBLEM + TEXT_BYTES_PER_PROBLEM)


def require_space(folder: str | Path, num_bytes: int) -> None:
    """Refuse, before the first byte is written, what the disk cannot hold."""
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if num_bytes > free:
        raise UserError(
            f"the store needs {num_bytes / 1e9:.2f} GB, the disk of {folder} has {free / 1e9:.2f} GB free: "
            "make room, give a folder on a larger disk, or store fewer layers, problems or positions"
        )
