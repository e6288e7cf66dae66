"""The writer of a store: resumable and crash-safe.

A shard is finished when its rows and states are written atomically and its journal line is on the disk. At most two
shards are written in the background while the next is filled, so a crash loses at most those and the one being
filled; what the journal names is safe.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.files import LOCK, locked
from lrd_peft.runtime.json_files import seal
from lrd_peft.store.buffer import ShardBuffer
from lrd_peft.store.disk import disk_errors, shard_damage, write_hashed
from lrd_peft.store.format import (
    JOURNAL,
    MANIFEST,
    Manifest,
    ShardEntry,
    StoreSpec,
    moments,
    problems_per_shard,
    shard_names,
    shard_ranges,
)
from lrd_peft.store.journal import (
    Entries,
    append_shard,
    journal_name,
    read_journals,
    replace_file,
    rewrite_journal,
)

DEFAULT_SHARD_BYTES = 64 << 20
SHARDS_UNDER_WAY = 2


class StoreWriter:
    """Writes the states of problems in the order of `missing`; `StoreWriter.open` makes one.

    Several processes may write one store: give each `part=(rank, num_ranks)`, let it write its own `missing` and call
    `finish`, rank 0 last (after a barrier), which writes the manifest. The bytes are those of one process.
    """

    def __init__(self, folder: Path, spec: StoreSpec, plan: int, part: tuple[int, int], lock: ExitStack) -> None:
        self.folder, self.spec = folder, spec
        self.damages: list[str] = []  # what was found damaged when the store was opened, and will be rebuilt
        self._plan, self._part, self._lock = plan, part, lock
        self._journal = folder / journal_name(*part)
        self._entries: Entries = {}
        self._todo: deque[tuple[int, int]] = deque()
        self._next = -1
        self._filling: ShardBuffer | None = None
        self._free: list[ShardBuffer] = []
        self._under_way: deque[Future[None]] = deque()
        self._pool = ThreadPoolExecutor(SHARDS_UNDER_WAY, thread_name_prefix="store")

    @classmethod
    def open(
        cls,
        folder: str | Path,
        spec: StoreSpec,
        *,
        shard_bytes: int = DEFAULT_SHARD_BYTES,
        part: tuple[int, int] = (0, 1),
    ) -> StoreWriter:
        """Begin a store or resume one: check every shard that the journal names and plan what is missing.

        Args:
            folder: the store, made if it does not exist.
            spec: what it shall hold.
            shard_bytes: size of a shard, in bytes; a resumed store keeps the size that it was begun with.
            part: rank and number of the processes that write it together.

        Raises:
            UserError: if the folder holds another store, another process writes it, or it cannot be written.
        """
        folder = Path(folder)
        plan = problems_per_shard(spec, shard_bytes)
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder, part)
        try:
            journals = read_journals(folder)
            header = journals.header
            if header is not None and (differences := header.spec.differences(spec)):
                raise UserError(
                    f"{folder} holds another store: {'; '.join(differences)}. "
                    "Give another folder, or delete this one to extract again"
                )
            if header is not None:
                spec, plan = header.spec, header.problems_per_shard
            entries = journals.entries(spec, plan)
            if header is None and journals.lines and not entries:
                raise UserError(
                    f"{folder}: the first line of the journal is damaged and its shards are not of this "
                    "teacher, tokenizer, data and layers. Give another folder, or delete this one"
                )
            writer = cls(folder, spec, plan, part, lock)
            writer._begin(entries, journals.damages)
        except BaseException:
            lock.close()
            raise
        return writer

    def _begin(self, entries: Entries, damages: list[str]) -> None:
        self.damages += damages
        mine = [entry for first, entry in sorted(entries.items()) if self._is_mine(first)]
        for entry, found in zip(mine, self._pool.map(partial(shard_damage, self.folder), mine), strict=True):
            self.damages += found
            if not found:
                self._entries[entry.first] = entry
        for first, stop in shard_ranges(self.spec, self._plan):
            if self._is_mine(first) and first not in self._entries:
                self._todo.append((first, stop))
        if self._todo:
            self._next = self._todo[0][0]
            with disk_errors(self.folder / MANIFEST):
                # its existence means that nothing is missing
                (self.folder / MANIFEST).unlink(missing_ok=True)
        rewrite_journal(self._journal, self.spec, self._plan, self._entries)

    def _is_mine(self, first: int) -> bool:
        rank, num_ranks = self._part
        # Neighbouring shards stay together: they share batches where a shard ends.
        num_shards = -(-self.spec.num_problems // self._plan)
        return first // self._plan * num_ranks // num_shards == rank

    @property
    def done(self) -> int:
        """Number of problems of this writer's part that are in finished shards."""
        return sum(entry.stop - entry.first for entry in list(self._entries.values()))

    @property
    def missing(self) -> list[tuple[int, int]]:
        """Ranges [first, stop) of problems that no finished shard holds, in the order that `add` expects."""
        ranges: list[tuple[int, int]] = []
        for first, stop in shard_ranges(self.spec, self._plan):
            if self._is_mine(first) and first not in self._entries:
                if ranges and ranges[-1][1] == first:
                    first = ranges.pop()[0]
                ranges.append((first, stop))
        return ranges

    def add(self, index: int, states: Tensor, row: Mapping[str, Any]) -> None:
        """Add a problem.

        Args:
            index: the next one in the order of `missing`.
            states: [L, P, H] at the layers of the specification, in any float dtype.
            row: question, steps, answer and whatever else belongs to it, as JSON values.

        Raises:
            UserError: if it is not its turn, or the states or the row do not fit.
        """
        if not self._todo or index != self._next:
            expected = f"problem {self._next} is next" if self._todo else "no problem is missing"
            raise UserError(f"problem {index} cannot be added to the store: {expected}")
        if self._filling is None:
            self._filling = self._free.pop() if self._free else self._new_buffer()
        self._filling.add(index, states, row)
        self._next += 1
        first, stop = self._todo[0]
        if self._next == stop:
            self._todo.popleft()
            self._next = self._todo[0][0] if self._todo else -1
            self._submit(first, stop, self._filling)
            self._filling = None

    @property
    def at_shard_end(self) -> bool:
        """Whether no shard is partly filled, so that closing the writer now loses nothing."""
        return self._filling is None

    def _new_buffer(self) -> ShardBuffer:
        positions = max(1, self.spec.num_thoughts + (self.spec.positions != "thoughts"))
        rows = min(self._plan, self.spec.num_problems) * positions * len(self.spec.layers)
        return ShardBuffer(self.spec, capacity_rows=rows)

    def _submit(self, first: int, stop: int, buffer: ShardBuffer) -> None:
        while len(self._under_way) >= SHARDS_UNDER_WAY:
            self._under_way.popleft().result()
        before = self._under_way[-1] if self._under_way else None
        self._under_way.append(self._pool.submit(self._write_shard, first, stop, buffer, before))

    def _write_shard(self, first: int, stop: int, buffer: ShardBuffer, before: Future[None] | None) -> None:
        states_path, rows_path = (self.folder / name for name in shard_names(first))
        with disk_errors(states_path):
            rows_bytes, rows_checksum = write_hashed(rows_path, [b"".join(buffer.rows)])
            metadata = {"format": "pt", "problems": f"{first}..{stop - 1}"}
            num_bytes, checksum = write_hashed(states_path, buffer.file_parts(metadata))
            sums, squares = buffer.sums.tolist()
            entry = ShardEntry(
                first=first,
                stop=stop,
                num_positions=buffer.num_positions,
                num_bytes=num_bytes,
                checksum=checksum,
                rows_bytes=rows_bytes,
                rows_checksum=rows_checksum,
                count=buffer.count,
                sums=tuple(sums),
                squares=tuple(squares),
            )
            buffer.clear()
            self._free.append(buffer)
            if before is not None:
                before.result()  # lines are in order, and none follows a failed one
            append_shard(self._journal, entry, self.spec.digest(self._plan))
        self._entries[first] = entry

    def finish(self) -> Path | None:
        """Wait for the last shard and write the manifest.

        Returns:
            The path of the manifest; None for ranks other than 0.

        Raises:
            UserError: if a problem is missing, or a shard could not be written.
        """
        self._drain()
        rank, num_ranks = self._part
        if rank > 0:
            self.close()
            return None
        entries = self._entries
        if num_ranks > 1:
            names = [journal_name(other, num_ranks) for other in range(num_ranks)]
            entries = read_journals(self.folder, names).entries(self.spec, self._plan)
        starts = [first for first, _ in shard_ranges(self.spec, self._plan)]
        if lacking := [first for first in starts if first not in entries]:
            raise UserError(f"the store {self.folder} is not complete: problem {lacking[0]} is missing")
        rewrite_journal(self.folder / JOURNAL, self.spec, self._plan, entries)
        self._write_manifest([entries[first] for first in starts])
        self.close()
        return self.folder / MANIFEST

    def _write_manifest(self, entries: list[ShardEntry]) -> None:
        manifest = Manifest(
            spec=self.spec,
            problems_per_shard=self._plan,
            num_positions=sum(entry.num_positions for entry in entries),
            layers=moments(self.spec, entries),
            shards=tuple(entries),
        )
        path = self.folder / MANIFEST
        with disk_errors(path):
            for pattern in ("journal-*.jsonl", "*.tmp", f"{LOCK}-*"):
                for leftover in self.folder.glob(pattern):
                    leftover.unlink()
        replace_file(path, seal(manifest))

    def _drain(self) -> None:
        while self._under_way:
            self._under_way.popleft().result()

    def close(self) -> None:
        """Finish the shards being written and release the folder; a partly filled shard is dropped."""
        self._pool.shutdown(wait=True)
        self._lock.close()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._drain()
        finally:
            self.close()


def _lock(folder: Path, part: tuple[int, int]) -> ExitStack:
    """Lock a store against a second writer until the returned stack is closed or the process ends.

    Each of several writers locks a file of its own part. A single writer locks every such file, so that it runs
    neither with another single writer nor with several.
    """
    rank, num_ranks = part
    paths = [folder / (LOCK if rank == 0 else f"{LOCK}-{rank}")]
    if num_ranks == 1:
        paths += sorted(folder.glob(f"{LOCK}-*"))
    with ExitStack() as stack:
        for path in paths:
            with disk_errors(folder):
                has_lock = stack.enter_context(locked(path))
            if not has_lock:
                raise UserError(f"another process is writing the store {folder}: wait for it or stop it")
        return stack.pop_all()
