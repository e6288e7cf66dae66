"""The journal of finished shards, which a resumed writer trusts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lrd_peft.runtime.errors import UserError, explain_os_error
from lrd_peft.runtime.files import append_line, atomic
from lrd_peft.runtime.json_files import read_sealed, seal, unseal
from lrd_peft.store.disk import disk_errors
from lrd_peft.store.format import (
    JOURNAL,
    MANIFEST,
    JournalHeader,
    JournalLine,
    Manifest,
    ShardEntry,
    StoreSpec,
    parse_versioned,
)

Entries = dict[int, ShardEntry]  # first problem -> finished shard


@dataclass(slots=True)
class Journals:
    """What the journals of a folder say together.

    Attributes:
        header: the first that could be read.
        lines: undamaged shard lines.
        damages: descriptions of the others.
    """

    header: JournalHeader | None = None
    lines: list[JournalLine] = field(default_factory=list)
    damages: list[str] = field(default_factory=list)

    def entries(self, spec: StoreSpec, problems_per_shard: int) -> Entries:
        """Return the shards that belong to this specification and plan."""
        digest = spec.digest(problems_per_shard)
        return {
            line.first: line.entry()
            for line in self.lines
            if line.spec == digest and line.fits(spec, problems_per_shard)
        }


def journal_name(rank: int, num_ranks: int) -> str:
    """Return the journal of one of several processes; each has its own until the store is finished."""
    return JOURNAL if num_ranks == 1 else f"journal-{rank}-of-{num_ranks}.jsonl"


def read_journals(folder: Path, names: list[str] | None = None) -> Journals:
    """Read journals; damaged and torn lines do not count.

    Args:
        folder: the store.
        names: file names; None means every journal and the manifest.

    Raises:
        UserError: if one is of another format version.
    """
    result = Journals()
    if names is None:
        _read_manifest(result, folder / MANIFEST)
        names = sorted(path.name for path in folder.glob("journal*.jsonl"))
    for path in (folder / name for name in names):
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            result.damages.append(f"{path.name} cannot be read: {explain_os_error(error)}")
            continue
        if torn := lines.pop():
            result.damages.append(f"{path.name} ends in a torn line of {len(torn)} bytes")
        for number, line in enumerate(lines, start=1):
            _read_line(result, path, number, line)
    return result


def _read_line(result: Journals, path: Path, number: int, line: bytes) -> None:
    body = unseal(line + b"\n")
    try:
        if body is None:
            result.damages.append(f"{path.name}: line {number} is damaged")
        elif body.get("kind") == "store":
            header = parse_versioned(JournalHeader, body, path)
            result.header = result.header or header
        else:
            result.lines.append(JournalLine.from_json(body))
    except UserError as error:
        if body is not None and body.get("kind") == "store" and "store format" in str(error):
            raise
        result.damages.append(f"{path.name}: line {number} is damaged: {error}")


def _read_manifest(result: Journals, path: Path) -> None:
    """Take every shard from the manifest, so that a lost journal costs nothing."""
    body = read_sealed(path)
    if body is None:
        return
    manifest = parse_versioned(Manifest, body, path)
    result.header = JournalHeader(spec=manifest.spec, problems_per_shard=manifest.problems_per_shard)
    digest = manifest.spec.digest(manifest.problems_per_shard)
    result.lines += [JournalLine.of(shard, digest) for shard in manifest.shards]


def rewrite_journal(path: Path, spec: StoreSpec, problems_per_shard: int, entries: Entries) -> None:
    """Replace a journal with its header and these shards in order; leave it alone if it is that already."""
    digest = spec.digest(problems_per_shard)
    header = JournalHeader(spec=spec, problems_per_shard=problems_per_shard)
    lines = [header, *(JournalLine.of(entries[first], digest) for first in sorted(entries))]
    replace_file(path, b"".join(seal(line, line=True) for line in lines))


def replace_file(path: Path, data: bytes) -> None:
    """Write a file atomically unless it already holds this."""
    with disk_errors(path):
        if not (path.exists() and path.read_bytes() == data):
            with atomic(path) as file:
                file.write(data)


def append_shard(path: Path, entry: ShardEntry, digest: str) -> None:
    """Add one finished shard to a journal; it counts once it is on the disk."""
    append_line(path, seal(JournalLine.of(entry, digest), line=True))
