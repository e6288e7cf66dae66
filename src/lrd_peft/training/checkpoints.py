"""Checkpoints of a training on disk, and which of them are complete.

checkpoint-UPDATE/    weights, optimizer, schedule, random states, log
    complete.json     written last: the files' checksums, and the log line in progress
"""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path

from lrd_peft.runtime.checksums import Checksums, checksums, damages
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.files import sync_folder
from lrd_peft.runtime.json_files import FileModel, read_sealed, write_sealed

logger = logging.getLogger(__name__)

MARKER = "complete.json"


class LogPart(FileModel):
    """One process's part of a log line in progress.

    Attributes:
        sums: by term of the loss, its running sum and dtype.
        loss: transformers' running sum of the loss.
    """

    sums: dict[str, tuple[float, str]]
    loss: float


class LogLine(FileModel):
    """A log line in progress, so that a resumed training continues its averages.

    Attributes:
        parts: one per process, in the order of their ranks.
        first_update: updates that were finished when it began.
        last_logged: the update of the log line before.
    """

    parts: tuple[LogPart, ...]
    first_update: int
    last_logged: int


class CheckpointMarker(FileModel):
    """Contents of complete.json.

    Attributes:
        step: the update after which the checkpoint was written.
        files: checksums of its files.
        problems_per_update: problems per update of the training that wrote it.
        log_line: None where no line was in progress.
    """

    step: int
    files: Checksums
    problems_per_update: int | None = None
    log_line: LogLine | None = None


def mark_complete(
    folder: Path, *, step: int, problems_per_update: int | None = None, log_line: LogLine | None = None
) -> None:
    """Mark a checkpoint as complete and remove earlier ones.

    Args:
        folder: the checkpoint.
        step: the update after which it was written.
        problems_per_update: problems per update.
        log_line: the log line in progress.
    """
    sync_folder(folder)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    marker = CheckpointMarker(
        step=step, files=checksums(folder, names), problems_per_update=problems_per_update, log_line=log_line
    )
    write_sealed(folder / MARKER, marker)
    for other, old in _checkpoints(folder.parent):
        if other < step:
            shutil.rmtree(old)


def read_marker(folder: str | Path) -> CheckpointMarker | None:
    """Return what `mark_complete` wrote; None for a folder without a marker, or with a damaged one."""
    body = read_sealed(Path(folder) / MARKER)
    try:
        return None if body is None else CheckpointMarker.from_json(body)
    except UserError:
        return None


def last_checkpoint(root: Path, *, remove: bool = True) -> str | None:
    """Return the newest complete and undamaged checkpoint below a folder, or None.

    Args:
        root: the folder.
        remove: remove newer ones that are incomplete or damaged.
    """
    for _, folder in reversed(_checkpoints(root)):
        marker = read_marker(folder)
        found = ["it was not finished"] if marker is None else damages(folder, marker.files)
        if not found:
            return str(folder)
        if remove:
            logger.warning("%s does not count and is removed: %s", folder, found[0])
            shutil.rmtree(folder)
    return None


def _checkpoints(root: Path) -> list[tuple[int, Path]]:
    found = []
    for folder in root.glob("checkpoint-*") if root.is_dir() else ():
        match = re.fullmatch(r"checkpoint-(\d+)", folder.name)
        if match and folder.is_dir():
            found.append((int(match[1]), folder))
    return sorted(found)
