"""The faults of a run folder: what is done to its files, who must notice, what may be made again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """One way to damage a finished run.

    Attributes:
        apply: does it to a run folder.
        part: the part that `lrd verify` must call damaged.
        again: glob patterns of the files that the same command may write anew.
    """

    apply: Callable[[Path, random.Random], None]
    part: str
    again: tuple[str, ...]


# Written by every command, and markers and tables of the phases that ran again.
ALWAYS = ("config.yaml", "log.jsonl", "held_by.json", "record.json", "files.json")
_EVALUATION = ("evaluation.json", "evaluation.done.json")


def flip(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def truncate(path: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def change_digit(path: Path, draw: random.Random) -> None:
    """Change one digit of a text: it stays valid, and says something else."""
    data = bytearray(path.read_bytes())
    at = draw.choice([i for i, byte in enumerate(data) if chr(byte) in "123456789"])
    data[at] = ord(draw.choice([digit for digit in "123456789" if ord(digit) != data[at]]))
    path.write_bytes(data)


def _on(pattern: str, how: Callable[[Path, random.Random], None]) -> Callable[[Path, random.Random], None]:
    return lambda folder, draw: how(draw.choice(sorted(folder.glob(pattern))), draw)


def _delete(path: Path, draw: random.Random) -> None:
    path.unlink()


_STORE = ("store/*", "store.done.json")
_LATENT = ("teacher/latent/*", "teacher.done.json")
FAULTS: dict[str, Fault] = {
    "shard truncated": Fault(_on("store/*.safetensors", truncate), "store", _STORE),
    "bit flipped in a shard": Fault(_on("store/*.safetensors", flip), "store", _STORE),
    "bit flipped in a shard's rows": Fault(_on("store/shard-*.jsonl", flip), "store", _STORE),
    "shard deleted": Fault(_on("store/*.safetensors", _delete), "store", _STORE),
    "manifest damaged": Fault(_on("store/manifest.json", flip), "store", _STORE),
    "journal line damaged": Fault(_on("store/journal.jsonl", flip), "store", _STORE),
    "journal torn": Fault(_on("store/journal.jsonl", truncate), "store", _STORE),
    "bit flipped in the latent teacher": Fault(_on("teacher/latent/*", flip), "teacher", _LATENT),
    "latent teacher's weights truncated": Fault(_on("teacher/latent/*.safetensors", truncate), "teacher", _LATENT),
    "bit flipped in the writing teacher": Fault(
        _on("teacher/cot/*", flip), "teacher", ("teacher/cot/*", "teacher.done.json")
    ),
    "bit flipped in the student": Fault(_on("student/*", flip), "student", ("student/*", "student.done.json")),
    "adapter deleted": Fault(
        _on("student/adapter_model.safetensors", _delete), "student", ("student/*", "student.done.json")
    ),
    "digit changed in a marker": Fault(
        _on("student.done.json", change_digit), "student", ("student/*", "student.done.json")
    ),
    "digit changed in graded problems": Fault(
        _on("evaluation/*.json", change_digit), "evaluation", ("evaluation/*", *_EVALUATION)
    ),
    "digit changed in evaluation.json": Fault(_on("evaluation.json", change_digit), "evaluation", _EVALUATION),
    "digit changed in record.json": Fault(_on("record.json", change_digit), "record.json", ()),
    "record.json truncated": Fault(_on("record.json", truncate), "record.json", ()),
}


def written(folder: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of writing of every file, to see which ones were written anew."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def written_again(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]], fault: Fault) -> list[str]:
    """Return the files that were written anew without need."""
    changed = [name for name, stamp in after.items() if before.get(name) != stamp]
    allowed = (*ALWAYS, *fault.again)
    return [name for name in changed if not any(Path(name).match(pattern) for pattern in allowed)]
