"""The reader of a finished store: memory-mapped, opened in the time of one small file."""

from __future__ import annotations

import contextlib
import json
import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lrd_peft.model.loading.hub import download_dataset
from lrd_peft.runtime.errors import UserError, os_errors
from lrd_peft.runtime.json_files import unseal
from lrd_peft.store.buffer import TORCH_DTYPE
from lrd_peft.store.disk import shard_damage
from lrd_peft.store.format import JOURNAL, MANIFEST, Manifest, ShardEntry, StoreSpec, parse_versioned
from lrd_peft.store.journal import read_journals

REBUILD = "run the extract phase again; it rebuilds only the damage"


class Store:
    """Teacher states and rows of `len(store)` problems; `Store.open` makes one.

    `store[i]` is a record of the data format. `store.states(i)` is faster: a view of the file, [L, P, H]. Shards are
    mapped when first asked for and stay mapped. Their sizes and headers are checked then; only `verify` reads every
    byte and compares checksums.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.spec = folder, manifest.spec
        self.num_positions = manifest.num_positions
        self.mean = {layer: manifest.layers[str(layer)].mean for layer in self.spec.layers}
        self.variance = {layer: manifest.layers[str(layer)].variance for layer in self.spec.layers}
        self._plan = manifest.problems_per_shard
        self._entries = manifest.shards
        self._shards: list[_Shard | None] = [None] * len(self._entries)

    @classmethod
    def open(cls, folder: str | Path, *, expect: StoreSpec | None = None) -> Store:
        """Open a finished store.

        Args:
            folder: the store.
            expect: what it must hold.

        Raises:
            UserError: if it is unfinished or damaged, or not what is expected (naming both values).
        """
        folder = Path(folder)
        path = folder / MANIFEST
        if not path.exists():
            state = "is not finished (it has no manifest)" if (folder / JOURNAL).exists() else "does not exist"
            raise UserError(f"the store {folder} {state}: run the extract phase again; it resumes where it stopped")
        with os_errors("read", path):
            manifest = unseal(path.read_bytes())
        if manifest is None:
            raise UserError(f"{path} is damaged: {REBUILD}")
        store = cls(folder, parse_versioned(Manifest, manifest, path))
        if expect is not None and (differences := store.spec.differences(expect)):
            raise UserError(
                f"the store {folder} is not the one asked for: {'; '.join(differences)}. "
                "Ask for what it holds, or extract into another folder"
            )
        return store

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None) -> Store:
        """Open a store in a folder, in a run folder, or in a dataset repository of the hub, which is downloaded.

        Args:
            name: Folder or hub id.
            revision: Branch, tag or commit of a hub id.

        Raises:
            UserError: If there is none, it is damaged, or the hub does not answer.
        """
        folder = Path(name)
        if not folder.is_dir():
            folder = download_dataset(str(name), revision=revision)
        elif not (folder / MANIFEST).exists() and (folder / "store").is_dir():
            folder = folder / "store"
        return cls.open(folder)

    def __len__(self) -> int:
        return self.spec.num_problems

    def __reduce__(self) -> tuple[Any, ...]:
        return Store.open, (self.folder,)  # a worker process maps the files itself

    @property
    def shard_ranges(self) -> list[tuple[int, int]]:
        """Problems [first, stop) of each shard; shuffling within a few shards at a time spares the disk."""
        return [(entry.first, entry.stop) for entry in self._entries]

    def states(self, index: int) -> Float[Tensor, "layer position hidden"]:
        """Return the states [L, P, H] of one problem, a view of the mapped file; writing to it changes no file."""
        shard, local = self._find(index)
        start, stop = shard.span(local)
        num_layers, num_positions, hidden_size = len(self.spec.layers), stop - start, self.spec.hidden_size
        return shard.states.as_strided(  # one call: half the time of a slice and a view
            (num_layers, num_positions, hidden_size),
            (num_positions * hidden_size, hidden_size, 1),
            shard.states.storage_offset() + start * num_layers * hidden_size,
        )

    def batch(self, indices: Iterable[int]) -> list[Float[Tensor, "layer _ hidden"]]:
        """Return the states of several problems; stack them if all have the same number of positions."""
        return [self.states(index) for index in indices]

    def target_mask(self, *, with_answer: bool) -> Bool[Tensor, "problem position"]:
        """Return which slots of each problem hold a state to align to.

        Args:
            with_answer: add a column for the answer position.

        Raises:
            UserError: if no problem has any.
        """
        slots = self.spec.num_thoughts
        mask = torch.zeros(len(self), slots + with_answer, dtype=torch.bool)
        mask[:, slots:] = True
        for index in range(len(self)):
            mask[index, list(self.spec.aligned_slots(len(self.row(index)["steps"])))] = True
        if not bool(mask.any()):
            raise UserError(
                f'no problem of the store {self.folder} has steps to align to; use positions "thoughts+answer"'
            )
        return mask

    def row(self, index: int) -> dict[str, Any]:
        """Return a problem's row (question, steps, answer, ...) without reading its states."""
        shard, local = self._find(index)
        return shard.row(local)

    def __getitem__(self, index: int) -> dict[str, Any]:
        states = self.states(index)
        hidden_states = {f"layer_{layer}": states[place] for place, layer in enumerate(self.spec.layers)}
        return {**self.row(index), "hidden_states": hidden_states}

    def verify(self) -> list[str]:
        """Read every byte and describe what is damaged; an empty list means nothing is."""
        found = [
            f"problems {entry.first}..{entry.stop - 1}: {damage}"
            for entry in self._entries
            for damage in shard_damage(self.folder, entry)
        ]
        return found + read_journals(self.folder, [JOURNAL]).damages

    def _find(self, index: int) -> tuple[_Shard, int]:
        if not 0 <= index < self.spec.num_problems:
            raise IndexError(f"problem {index} of a store of {self.spec.num_problems}")
        number, local = divmod(index, self._plan)
        shard = self._shards[number]
        if shard is None:
            shard = self._shards[number] = _Shard(self.folder, self._entries[number], self.spec)
        return shard, local


class _Shard:
    """One mapped shard, whose headers are checked against the manifest before use."""

    def __init__(self, folder: Path, entry: ShardEntry, spec: StoreSpec) -> None:
        self._path, self._rows_path = folder / entry.name, folder / entry.rows_name
        num_problems = entry.stop - entry.first
        with self._damage(self._path):
            self._check_size(self._path, entry.num_bytes)
            file = safe_open(self._path, framework="pt")
            self.states: Tensor = file.get_tensor("states")
            offsets, row_offsets = file.get_tensor("offsets"), file.get_tensor("row_offsets")
            wanted = (
                (
                    "states",
                    self.states,
                    (entry.num_positions * len(spec.layers), spec.hidden_size),
                    TORCH_DTYPE[spec.dtype],
                ),
                ("offsets", offsets, (num_problems + 1,), torch.int64),
                ("row_offsets", row_offsets, (num_problems + 1,), torch.int64),
            )
            for name, tensor, shape, dtype in wanted:
                if tuple(tensor.shape) != shape or tensor.dtype != dtype:
                    raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)}, not {dtype} {list(shape)}")
        self._num_positions = entry.num_positions
        self._offsets, self._row_offsets = memoryview(offsets.numpy()), memoryview(row_offsets.numpy())
        with self._damage(self._rows_path):
            self._check_size(self._rows_path, entry.rows_bytes)
            with open(self._rows_path, "rb") as rows:
                self._rows = mmap.mmap(rows.fileno(), 0, access=mmap.ACCESS_READ)

    def span(self, local: int) -> tuple[int, int]:
        """Return the positions [start, stop) of a problem of this shard."""
        start, stop = self._offsets[local], self._offsets[local + 1]
        if not 0 <= start <= stop <= self._num_positions:
            raise UserError(f"{self._path} is damaged (an offset points outside it): {REBUILD}")
        return start, stop

    def row(self, local: int) -> dict[str, Any]:
        start, stop = self._row_offsets[local], self._row_offsets[local + 1]
        if not 0 <= start <= stop <= len(self._rows):
            raise UserError(f"{self._path} is damaged (an offset points outside the rows): {REBUILD}")
        with self._damage(self._rows_path):
            row = json.loads(self._rows[start:stop])
            if not isinstance(row, dict):
                raise ValueError(f"row {local} is not a JSON object")
            return row

    @staticmethod
    def _check_size(path: Path, num_bytes: int) -> None:
        if (size := path.stat().st_size) != num_bytes:
            raise ValueError(f"it has {size} bytes, not {num_bytes}")

    @staticmethod
    @contextlib.contextmanager
    def _damage(path: Path) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise UserError(f"{path} is missing: {REBUILD}") from None
        except (SafetensorError, OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path} is damaged ({error}): {REBUILD}") from error
