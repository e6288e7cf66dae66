"""Checkpoints of a training on disk: which ones count. Knows files and their checksums, not models.

checkpoint-STEP/    weights, optimizer, schedule, random states, log
    complete.json   written last: the step, the files' checksums, the log line that was under way
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrd_peft.checksums import checksums, damages, read_sealed, write_sealed
from lrd_peft.files import sync_folder, sync_parent

MARKER = "complete.json"


def mark_complete(folder: Path, *, step: int, **note: Any) -> None:
    """Make a checkpoint count, and remove those before it."""
    sync_folder(folder)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    write_sealed(folder / MARKER, {"step": step, "files": checksums(folder, names), **note})
    sync_parent(folder)
    for other, old in _checkpoints(folder.parent):
        if other < step:
            shutil.rmtree(old)


def read_marker(folder: str | Path) -> Mapping[str, Any]:
    """Return what `mark_complete` noted; nothing for a folder that it never saw."""
    return read_sealed(Path(folder) / MARKER) or {}


def last_checkpoint(root: Path, *, remove: bool = True) -> str | None:
    """Return the newest complete checkpoint below a folder.

    Args:
        remove: newer ones that are half-written or damaged.
    """
    for _, folder in reversed(_checkpoints(root)):
        marker = read_sealed(folder / MARKER)
        found = ["it was not finished"] if marker is None else damages(folder, marker.get("files", {}))
        if not found:
            return str(folder)
        if remove:
            print(f"{folder} does not count and is removed: {found[0]}", file=sys.stderr)
            shutil.rmtree(folder)
    return None


def _checkpoints(root: Path) -> list[tuple[int, Path]]:
    found = []
    for folder in root.glob("checkpoint-*") if root.is_dir() else ():
        match = re.fullmatch(r"checkpoint-(\d+)", folder.name)
        if match and folder.is_dir():
            found.append((int(match[1]), folder))
    return sorted(found)
