"""Checksums of the files of a folder, and what differs from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

import xxhash

from lrd_peft.runtime.errors import UserError, explain_os_error
from lrd_peft.runtime.json_files import FileModel, read_sealed, write_sealed
from lrd_peft.runtime.progress import Progress

FILES = "files.json"
_CHUNK_BYTES = 1 << 20

# File name -> size in bytes and checksum.
Checksums: TypeAlias = dict[str, tuple[int, str]]


class FileList(FileModel):
    """Contents of files.json: the files of a folder."""

    files: Checksums


def write_checksums(folder: Path, names: Iterable[str] | None = None) -> None:
    """Write files.json with size and checksum of files of a folder.

    Args:
        folder: the folder.
        names: files relative to it; None means every file below it.
    """
    if names is None:
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in paths]
    write_sealed(folder / FILES, FileList(files=checksums(folder, (name for name in names if name != FILES))))


def checksums(folder: Path, names: Iterable[str]) -> Checksums:
    """Return size and checksum of files of a folder by name."""
    return {name: ((folder / name).stat().st_size, _file_digest(folder / name)) for name in names}


def read_checksums(folder: Path) -> Checksums | None:
    """Return what files.json holds, or None if it is missing or damaged."""
    body = read_sealed(folder / FILES)
    try:
        return None if body is None else FileList.from_json(body).files
    except UserError:
        return None


def folder_damages(folder: Path) -> list[str]:
    """Read every file that files.json names and describe what differs; an empty list means nothing does."""
    if not folder.is_dir():
        return [f"{folder.name} is missing"]
    files = read_checksums(folder)
    if files is None:
        state = "damaged" if (folder / FILES).exists() else "missing"
        return [f"{folder.name}/{FILES} is {state}"]
    return [f"{folder.name}/{damage}" for damage in damages(folder, files)]


def damages(folder: Path, files: Mapping[str, tuple[int, str]]) -> list[str]:
    """Describe what differs between the files of a folder and their `checksums`."""
    found = []
    with Progress(f"checking {folder}", total=len(files), unit="files") as progress:
        for number, (name, (num_bytes, checksum)) in enumerate(files.items(), start=1):
            damage = file_damage(folder / name, num_bytes=num_bytes, checksum=checksum)
            found += [damage] if damage else []
            progress.update(number)
    return found


def file_damage(path: Path, *, num_bytes: int, checksum: str) -> str | None:
    """Return what is wrong with a file, or None."""
    try:
        size = path.stat().st_size
        if size != num_bytes:
            return f"{path.name} has {size} bytes, not {num_bytes}"
        found = _file_digest(path)
    except OSError as error:
        return f"{path.name} cannot be read: {explain_os_error(error)}"
    return None if found == checksum else f"{path.name} is damaged: checksum {found[:12]}, not {checksum[:12]}"


def new_digest() -> xxhash.xxh3_128:
    """Return a new file hash: XXH3, which detects damage (not forgery) much faster than SHA-256."""
    return xxhash.xxh3_128()


def _file_digest(path: Path) -> str:
    digest = new_digest()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
