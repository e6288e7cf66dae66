"""Write files and folders atomically, append durably, and lock folders between processes."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

LOCK = ".lock"
# What flock reports on a file system without locks, such as some network file systems.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EBADF)


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Yield a binary file that replaces `path` when the block ends without an error.

    The file is written under a temporary name, flushed to disk and renamed. A path has one writer at a time, so the
    temporary name is fixed: the next write overwrites what a killed process left. An error removes it.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # a full disk needs the space
            temporary.unlink()
        raise
    sync_path(path.parent)


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `folder` when the block ends without an error.

    A crash leaves the old folder or the new one. A process killed between the two renames leaves both under temporary
    names; the next call then moves the new one, which is complete, into place. Leftovers are removed.
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
    sync_path(folder.parent)
    if old.exists():
        shutil.rmtree(old)


def publish_folder(folder: Path, target: Path) -> None:
    """Flush a finished folder and rename it to `target`; if another process published first, keep that one.

    Raises:
        OSError: if it cannot be renamed and `target` does not exist.
    """
    sync_folder(folder)
    try:
        folder.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def append_line(path: Path, line: bytes) -> None:
    """Append one line to an existing file and flush it to disk.

    Raises:
        OSError: if the system wrote only a part of it.
    """
    handle = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        written = os.write(handle, line)
        if written != len(line):
            raise OSError(f"only {written} of {len(line)} bytes of a line were written")
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Flush every file below a folder, and the entries of its folders, to disk."""
    for root, _, names in os.walk(folder):
        for name in (*names, "."):
            sync_path(os.path.join(root, name))


def sync_path(path: str | Path) -> None:
    """Flush one file, or the entries of one folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold an exclusive lock on a lock file for the block; yield whether this process got it.

    The lock file stays. The system releases the lock when the process ends, even by `kill -9`. On a file system that
    does not support locks, the block runs unprotected.

    Args:
        path: the lock file, made if it does not exist; its folder must exist.
        wait: wait until another process releases it.

    Raises:
        OSError: if the file cannot be opened.
    """
    # Not thread-local: a lock may be released from another thread than took it.
    lock = FileLock(path, blocking=wait, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        yield True
    finally:
        lock.release()
