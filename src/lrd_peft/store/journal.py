"""The journal of finished shards: what a resumed writer trusts. Knows lines, not tensors."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lrd_peft.files import sync_path
from lrd_peft.store.disk import disk_errors, write_atomic
from lrd_peft.store.format import (
    FORMAT_VERSION,
    JOURNAL,
    MANIFEST,
    ShardEntry,
    StoreSpec,
    check_version,
    seal,
    unseal,
)

Entries = dict[int, ShardEntry]  # first problem -> finished shard


@dataclass(slots=True)
class Journals:
    """What the journals of a folder say, together."""

    spec: StoreSpec | None = None  # of the first header that can be read
    problems_per_shard: int | None = None
    lines: list[dict[str, Any]] = field(default_factory=list)  # undamaged shard lines
    damages: list[str] = field(default_factory=list)

    def entries(self, spec: StoreSpec, problems_per_shard: int) -> Entries:
        """The lines that belong to this specification and plan."""
        found: Entries = {}
        digest = spec.digest(problems_per_shard)
        for line in self.lines:
            if line.get("spec") != digest:
                continue
            try:
                entry = ShardEntry.from_json(line, num_layers=len(spec.layers))
            except (KeyError, TypeError, ValueError):
                continue
            stop = min(entry.first + problems_per_shard, spec.num_problems)
            if entry.first % problems_per_shard == 0 and entry.stop == stop:
                found[entry.first] = entry
        return found


def journal_name(rank: int, num_ranks: int) -> str:
    """Each of several processes has its own journal until the store is finished."""
    return JOURNAL if num_ranks == 1 else f"journal-{rank}-of-{num_ranks}.jsonl"


def read_journals(folder: Path, names: list[str] | None = None) -> Journals:
    """Read the named journals (default: every one, and the manifest). Damaged and torn lines do not count."""
    result = Journals()
    if names is None:
        _read_manifest(result, folder / MANIFEST)
        names = sorted(path.name for path in folder.glob("journal*.jsonl"))
    for path in (folder / name for name in names):
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            result.damages.append(f"{path.name} cannot be read: {error.strerror or error}")
            continue
        if torn := lines.pop():
            result.damages.append(f"{path.name} ends in a torn line of {len(torn)} bytes")
        for number, line in enumerate(lines, start=1):
            body = unseal(line)
            if body is None:
                result.damages.append(f"{path.name}: line {number} is damaged")
            elif body.get("kind") == "store":
                _read_header(result, path, body)
            else:
                result.lines.append(body)
    return result


def _read_manifest(result: Journals, path: Path) -> None:
    """The manifest repeats the lines of all shards: with it, a lost journal costs nothing."""
    try:
        body = read_sealed(path)
    except OSError:
        return
    if body is not None and body.get("kind") == "manifest":
        _read_header(result, path, body)
        if result.spec is not None and result.problems_per_shard is not None:
            digest = result.spec.digest(result.problems_per_shard)
            result.lines += [{**shard, "spec": digest} for shard in body["shards"]]


def read_sealed(path: Path) -> dict[str, Any] | None:
    """The body of a file of one sealed line, or None when it is damaged."""
    text = path.read_bytes()
    return unseal(text[:-1]) if text.endswith(b"\n") else None


def _read_header(result: Journals, path: Path, body: dict[str, Any]) -> None:
    check_version(path, body)
    try:
        spec, plan = StoreSpec.from_json(body["spec"]), int(body["problems_per_shard"])
    except (KeyError, TypeError, ValueError) as error:
        result.damages.append(f"{path.name}: the first line is no store's: {error}")
        return
    if result.spec is None:
        result.spec, result.problems_per_shard = spec, plan


def shard_line(entry: ShardEntry, digest: str) -> bytes:
    return (seal({"kind": "shard", "spec": digest, **entry.to_json()}) + "\n").encode()


def rewrite_journal(path: Path, spec: StoreSpec, problems_per_shard: int, entries: dict[int, ShardEntry]) -> None:
    """Replace a journal by its header and these shards in order."""
    header = {
        "kind": "store",
        "version": FORMAT_VERSION,
        "spec": spec.to_json(),
        "problems_per_shard": problems_per_shard,
    }
    digest = spec.digest(problems_per_shard)
    lines = [
        (seal(header) + "\n").encode(),
        *(shard_line(entries[first], digest) for first in sorted(entries)),
    ]
    text = b"".join(lines)
    with disk_errors(path):
        if not (path.exists() and path.read_bytes() == text):
            write_atomic(path, [text])
            sync_path(path.parent)


def append_line(path: Path, line: bytes) -> None:
    """Add one line; it counts once it is on the disk."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        written = os.write(handle, line)
        if written != len(line):
            raise OSError(f"only {written} of {len(line)} bytes of a journal line were written")
        os.fsync(handle)
    finally:
        os.close(handle)
