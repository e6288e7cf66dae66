"""What a store's files say: specification, sealed JSON lines, names. Knows no tensors, opens no files.

A store is a folder:

    manifest.json            written last: its existence means that the store is complete
    journal.jsonl            a header line, then one line per finished shard
    shard-000000000.safetensors, shard-000000000.jsonl   states and rows of problems 0, 1, ...

Every JSON line is sealed: its last key is a CRC of the rest, so a torn or damaged line is known by itself.
Shard k holds problems k * problems_per_shard and on. That plan is fixed when the store is begun and does not
depend on the states, so any shard can be rebuilt alone, in any process, to the same bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrd_peft.errors import UserError, nearest

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)  # 1: checksums of shards are SHA-256, under that name
MANIFEST = "manifest.json"
JOURNAL = "journal.jsonl"
HIDDEN_STATES_CONVENTION = "0 = embeddings, l = output of block l, the last one after the final norm"

POSITIONS = ("thoughts+answer", "thoughts", "all")
ALIGN_TO = ("thoughts", "steps")
ITEM_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
TYPICAL_TEXT_POSITIONS = 256  # only sizes the shards of positions="all"


@dataclass(frozen=True, slots=True)
class StoreSpec:
    """What a store holds. Two stores with the same identity are interchangeable."""

    fingerprints: Mapping[str, str]  # teacher (weights), tokenizer, data (problems)
    teacher_name: str  # for people; the teacher is told apart by its fingerprint
    layers: tuple[int, ...]
    num_thoughts: int
    hidden_size: int
    num_blocks: int  # of the teacher: says which layer is the last, and how deep the others are
    num_problems: int
    positions: str = "thoughts+answer"  # of POSITIONS
    dtype: str = "bfloat16"  # of ITEM_BYTES
    index_convention: str = HIDDEN_STATES_CONVENTION
    align_to: str = "thoughts"  # of ALIGN_TO: what stands at the slots, thoughts or the ends of written steps
    thoughts_per_step: int = 1  # with the ends of steps: slots for each step, the last of them holds its end

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "fingerprints", dict(self.fingerprints))
        for field, known in (("positions", POSITIONS), ("dtype", ITEM_BYTES), ("align_to", ALIGN_TO)):
            value = getattr(self, field)
            if value not in known:
                choices = ", ".join(known)
                hint = nearest(value, known)
                raise UserError(f'{field} "{value}" is unknown: use one of {choices}.{hint}')
        if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise UserError(f"layers {list(self.layers)}: give at least one, each once, rising, none below 0")
        counts = {"num_thoughts": 0, "hidden_size": 1, "num_blocks": 1, "num_problems": 1, "thoughts_per_step": 1}
        for field, least in counts.items():
            value = getattr(self, field)
            if value < least:
                raise UserError(f"{field} is {value}: a store needs at least {least}")
        if self.layers[-1] > self.num_blocks:
            raise UserError(f"layer {self.layers[-1]} is out of range: the teacher has {self.num_blocks} blocks")
        if self.align_to == "thoughts":
            object.__setattr__(self, "thoughts_per_step", 1)
        elif self.positions == "all":
            raise UserError('align_to "steps" has no positions "all": use "thoughts+answer" or "thoughts"')
        elif self.num_thoughts % self.thoughts_per_step:
            raise UserError(
                f"{self.num_thoughts} thoughts are no multiple of thoughts_per_step {self.thoughts_per_step}"
            )

    def aligned_slots(self, num_steps: int) -> range:
        """The slots, counted from 0, whose states a student can be aligned to, for a problem of so many steps.

        With align_to "steps" that is the last slot of each step, as far as there are slots; what the others hold is
        filler. A step beyond the slots has none.
        """
        if self.align_to == "thoughts":
            return range(self.num_thoughts)
        each = self.thoughts_per_step
        return range(each - 1, min(num_steps * each, self.num_thoughts), each)

    def targets(self, num_steps: int) -> tuple[int, ...]:
        """The stored positions of which the same is true; none of `all` is told here."""
        answer = (self.num_thoughts,) if self.positions == "thoughts+answer" else ()
        return (*self.aligned_slots(num_steps), *answer)

    def to_json(self) -> dict[str, Any]:
        row = {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}
        if self.align_to == "thoughts":  # as it was before there was another
            del row["align_to"], row["thoughts_per_step"]
        return row

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StoreSpec:
        return cls(**{**data, "layers": tuple(data["layers"])})

    def differences(self, asked: StoreSpec) -> list[str]:
        """Each field in which this store is not what was asked for, with both values."""
        ours, theirs = (
            {"align_to": spec.align_to, "thoughts_per_step": spec.thoughts_per_step, **spec._identity()}
            for spec in (self, asked)
        )
        names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
        lines = [f"{name}: the store has {ours.get(name)!r}, asked for {theirs.get(name)!r}" for name in names]
        if "teacher" in names:
            lines.append(f"(teacher of the store: {self.teacher_name!r}; asked for: {asked.teacher_name!r})")
        return lines

    def digest(self, problems_per_shard: int) -> str:
        """A short name of this identity and shard plan; journal lines of another one do not count."""
        text = json.dumps([self._identity(), problems_per_shard], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _identity(self) -> dict[str, Any]:
        flat = self.to_json()
        del flat["teacher_name"]  # the same weights in another folder are the same teacher
        return {**flat.pop("fingerprints"), **flat}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One finished shard, as its journal line tells it: where, how large, which bytes, which sums."""

    first: int  # problems first .. stop - 1
    stop: int
    num_positions: int
    num_bytes: int
    checksum: str
    rows_bytes: int
    rows_checksum: str
    count: int  # values per layer that entered the sums
    sums: tuple[float, ...]  # per layer
    squares: tuple[float, ...]

    @property
    def name(self) -> str:
        return shard_names(self.first)[0]

    @property
    def rows_name(self) -> str:
        return shard_names(self.first)[1]

    def to_json(self) -> dict[str, Any]:
        fields = {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return {"shard": self.name, **fields}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, num_layers: int) -> ShardEntry:
        """Raise ValueError, KeyError or TypeError when the line is not a shard's."""
        older = {"checksum": "sha256", "rows_checksum": "rows_sha256"}
        names = [field.name for field in dataclasses.fields(cls)]
        values: dict[str, Any] = {name: data[name if name in data else older.get(name, name)] for name in names}
        for name in ("first", "stop", "num_positions", "num_bytes", "rows_bytes", "count"):
            if type(values[name]) is not int or values[name] < 0:
                raise ValueError(f"{name} is {values[name]!r}")
        for name in ("sums", "squares"):
            values[name] = tuple(float(value) for value in values[name])
            if len(values[name]) != num_layers:
                raise ValueError(f"{name} has {len(values[name])} layers, not {num_layers}")
        entry = cls(**values)
        if data["shard"] != entry.name:
            raise ValueError(f"shard is {data['shard']!r}, not {entry.name!r}")
        return entry


def shard_names(first: int) -> tuple[str, str]:
    """Files of the states and of the rows of the shard that begins with problem `first`."""
    return f"shard-{first:09d}.safetensors", f"shard-{first:09d}.jsonl"


def problems_per_shard(spec: StoreSpec, shard_bytes: int) -> int:
    """How many problems make a shard of about `shard_bytes`."""
    if shard_bytes < 1:
        raise UserError(f"shard_bytes is {shard_bytes}: a shard needs at least 1 byte")
    per_position = len(spec.layers) * spec.hidden_size * ITEM_BYTES[spec.dtype]
    positions = spec.num_thoughts + {"thoughts": 0, "thoughts+answer": 1, "all": TYPICAL_TEXT_POSITIONS}[spec.positions]
    return max(1, shard_bytes // (per_position * max(1, positions)))


def moments(spec: StoreSpec, entries: Iterable[ShardEntry]) -> dict[int, tuple[float, float]]:
    """Layer -> mean and population variance over positions and hidden units, the shards added in order."""
    ordered = sorted(entries, key=lambda entry: entry.first)
    count = sum(entry.count for entry in ordered)
    result: dict[int, tuple[float, float]] = {}
    for place, layer in enumerate(spec.layers):
        mean = sum(entry.sums[place] for entry in ordered) / max(1, count)
        square = sum(entry.squares[place] for entry in ordered) / max(1, count)
        result[layer] = (mean, max(0.0, square - mean * mean))
    return result


def check_version(path: Path, body: Mapping[str, Any]) -> None:
    """Refuse a manifest or a journal's header of a format that this version does not know."""
    if body.get("version") not in READABLE_VERSIONS:
        known = " and ".join(map(str, READABLE_VERSIONS))
        raise UserError(f"{path} has store format {body.get('version')}, this version knows {known}")


def seal(body: Mapping[str, Any]) -> str:
    """One JSON line (without the newline) that ends with a CRC of the rest."""
    text = json.dumps(body, separators=(",", ":"))
    return json.dumps({**body, "crc": f"{zlib.crc32(text.encode()):08x}"}, separators=(",", ":"))


def unseal(line: bytes) -> dict[str, Any] | None:
    """The body of a sealed line, or None when any byte of it is not what `seal` wrote."""
    try:
        data = json.loads(line)
        if not isinstance(data, dict):
            return None
        data.pop("crc", None)
        return data if seal(data).encode() == line else None
    except (ValueError, RecursionError):
        return None
