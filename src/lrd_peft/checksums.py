"""What is still what was written: checksums of the files of a folder, sealed JSON. Knows bytes, not their meaning."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import xxhash

from lrd_peft.progress import Progress
from lrd_peft.records import canonical_json, write_json_atomic

FILES = "files.json"
_SEAL = "sha256"
_CHUNK_BYTES = 1 << 20
_SHA256_DIGITS = 64  # earlier versions wrote those


def write_checksums(folder: Path, names: Iterable[str] | None = None) -> None:
    """Write `files.json`: size and checksum of the named files of a folder, or of every file below it."""
    if names is None:
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in paths]
    write_sealed(folder / FILES, {"files": checksums(folder, (name for name in names if name != FILES))})


def checksums(folder: Path, names: Iterable[str]) -> dict[str, list[Any]]:
    """Return [size in bytes, checksum] of files by name."""
    return {name: [(folder / name).stat().st_size, _file_digest(folder / name, new_digest())] for name in names}


def read_checksums(folder: Path) -> dict[str, list[Any]] | None:
    """Return what `files.json` holds, or None if it is missing or damaged."""
    body = read_sealed(folder / FILES)
    files = None if body is None else body.get("files")
    return files if isinstance(files, dict) else None


def folder_damages(folder: Path) -> list[str]:
    """Read every file that `files.json` names and say what is wrong; an earlier version wrote no such list."""
    if not folder.is_dir():
        return [f"{folder.name} is missing"]
    files = read_checksums(folder)
    if files is None:
        return [f"{folder.name}/{FILES} is damaged"] if (folder / FILES).exists() else []
    return [f"{folder.name}/{damage}" for damage in damages(folder, files)]


def damages(folder: Path, files: Mapping[str, list[Any]]) -> list[str]:
    """Say what is wrong with the files of a folder, given their `checksums`."""
    found = []
    with Progress(f"checking {folder}", total=len(files), unit="files") as progress:
        for number, (name, (num_bytes, checksum)) in enumerate(files.items(), start=1):
            damage = file_damage(folder / name, num_bytes=num_bytes, checksum=checksum)
            found += [damage] if damage else []
            progress.update(number)
    return found


def file_damage(path: Path, *, num_bytes: int, checksum: str) -> str | None:
    """Return what is wrong with a file, or None; the checksum may be a SHA-256 of an earlier version."""
    try:
        size = path.stat().st_size
        if size != num_bytes:
            return f"{path.name} has {size} bytes, not {num_bytes}"
        found = _file_digest(path, new_digest() if len(checksum) != _SHA256_DIGITS else hashlib.sha256())
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror or error}"
    return None if found == checksum else f"{path.name} is damaged: checksum {found[:12]}, not {checksum[:12]}"


def new_digest() -> xxhash.xxh3_128:
    """Return the hash of files: not against forgers, who could write the checksum too, and far faster than SHA-256."""
    return xxhash.xxh3_128()


def _file_digest(path: Path, digest: Any) -> str:
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def write_sealed(path: Path, body: Mapping[str, Any]) -> None:
    """Write JSON that holds its own checksum, whole or not at all."""
    write_json_atomic(path, {**body, _SEAL: _digest(body)})


def read_sealed(path: Path) -> dict[str, Any] | None:
    """Return what `write_sealed` wrote, or None if the file is missing or any value in it has changed.

    JSON without a checksum, which earlier versions wrote, is believed.
    """
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(body, dict):
        return None
    seal = body.pop(_SEAL, None)
    return body if seal is None or seal == _digest(body) else None


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(body).encode()).hexdigest()
