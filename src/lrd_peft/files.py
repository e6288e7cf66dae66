"""Folders that appear whole or not at all. Knows names on disk, not what is in them."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Flush every file below a folder, and the folder's own entries, to disk."""
    for root, _, names in os.walk(folder):
        for name in (*names, "."):
            sync_path(os.path.join(root, name))


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of `folder` when the block ends without an error.

    A crash leaves the old folder or the new one. Killed in the instant between the two renames it leaves both beside
    the name; the next call then puts the new one, which is whole by then, in its place. Left-overs are removed.
    """
    temporary, old = folder.with_name(folder.name + ".tmp"), folder.with_name(folder.name + ".old")
    if old.exists() and not folder.exists():
        (temporary if temporary.exists() else old).rename(folder)
    for leftover in (temporary, old):
        if leftover.exists():
            shutil.rmtree(leftover)
    temporary.mkdir(parents=True)
    yield temporary
    sync_folder(temporary)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    sync_parent(folder)
    if old.exists():
        shutil.rmtree(old)


def sync_parent(path: Path) -> None:
    """Flush the folder entry of `path` to disk, so that a rename survives a power cut."""
    sync_path(path.parent)


def sync_path(path: str | Path) -> None:
    """Flush one file, or a folder's own entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_folder(folder: Path, *, shared: bool = False) -> int | None:
    """Lock a folder for this process and return a descriptor, or None where another process holds it.

    Closing the descriptor lets go; so does the system, when the process ends in whatever way.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EBADF):  # a file system without locks
            os.close(handle)
            raise
    return handle
