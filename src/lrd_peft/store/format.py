"""The contents of a store's files: specification, manifest, journal lines, file names.

A store is a folder:

    manifest.json            written last: it exists only if the store is complete
    journal.jsonl            a header line, then one line per finished shard
    shard-000000000.safetensors, shard-000000000.jsonl   states and rows of problems 0, 1, ...
    .lock                    locked by its writer

The manifest and every journal line are sealed JSON, so a torn or damaged line shows. Shard k holds the problems from
k * problems_per_shard on. That plan is fixed when the store is begun and does not depend on the states, so any shard
can be rebuilt alone, in any process, to the same bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import NonNegativeInt, PositiveInt, model_validator
from typing_extensions import Self

from lrd_peft.config.choices import AlignTo, Dtype, Positions, check_choice
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.json_files import FileModel

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
JOURNAL = "journal.jsonl"
HIDDEN_STATES_CONVENTION = "0 = embeddings, l = output of block l, the last one after the final norm"

ITEM_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
TYPICAL_TEXT_POSITIONS = 256  # only sizes the shards of positions="all"


@dataclass(frozen=True, slots=True)
class StoreSpec:
    """What a store holds. Two stores whose specifications differ only in `teacher_name` are interchangeable.

    Attributes:
        fingerprints: of teacher (weights), tokenizer and data (problems).
        teacher_name: for people; the fingerprint identifies the teacher.
        layers: layer indices whose states are stored, rising.
        num_thoughts: slots of each problem.
        hidden_size: of the teacher.
        num_blocks: of the teacher; tells which layer is the last, and how deep the others are.
        num_problems: problems in the store.
        positions: positions whose states are stored: "thoughts+answer", "thoughts" or "all".
        dtype: data type of the states: "float32", "bfloat16" or "float16".
        index_convention: what a layer index means.
        align_to: "thoughts" if the slots hold thoughts, "steps" if they hold the states at the ends of written steps.
        thoughts_per_step: for the ends of steps: slots per step, the last of which holds its end.

    Raises:
        UserError: if a value is unknown or out of range.
    """

    fingerprints: Mapping[str, str]
    teacher_name: str
    layers: tuple[int, ...]
    num_thoughts: int
    hidden_size: int
    num_blocks: int
    num_problems: int
    positions: str = "thoughts+answer"
    dtype: str = "bfloat16"
    index_convention: str = HIDDEN_STATES_CONVENTION
    align_to: str = "thoughts"
    thoughts_per_step: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "fingerprints", dict(self.fingerprints))
        check_choice("positions", self.positions, Positions)
        check_choice("dtype", self.dtype, Dtype)
        check_choice("align_to", self.align_to, AlignTo)
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
        """Return the slots, counted from 0, whose states a student can be aligned to.

        With align_to "steps" these are the last slot of each step, as far as there are slots; the other slots hold
        filler.

        Args:
            num_steps: steps of the problem.
        """
        if self.align_to == "thoughts":
            return range(self.num_thoughts)
        each = self.thoughts_per_step
        return range(each - 1, min(num_steps * each, self.num_thoughts), each)

    def targets(self, num_steps: int) -> tuple[int, ...]:
        """Return the stored positions to align to: the slots, and the answer position where it is stored."""
        answer = (self.num_thoughts,) if self.positions == "thoughts+answer" else ()
        return (*self.aligned_slots(num_steps), *answer)

    def differences(self, asked: StoreSpec) -> list[str]:
        """Describe each field in which this store is not what was asked for, with both values."""
        ours, theirs = self._identity(), asked._identity()
        names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
        lines = [f"{name}: the store has {ours.get(name)!r}, asked for {theirs.get(name)!r}" for name in names]
        if "teacher" in names:
            lines.append(f"(teacher of the store: {self.teacher_name!r}; asked for: {asked.teacher_name!r})")
        return lines

    def digest(self, problems_per_shard: int) -> str:
        """Return a short name of this identity and shard plan; journal lines of another one do not count."""
        text = json.dumps([self._identity(), problems_per_shard], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _identity(self) -> dict[str, Any]:
        flat = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del flat["teacher_name"]  # the same weights in another folder are the same teacher
        return {**flat.pop("fingerprints"), **flat, "layers": list(self.layers)}


class ShardEntry(FileModel):
    """One finished shard.

    Attributes:
        first: its first problem.
        stop: the problem after its last.
        num_positions: stored positions of all its problems.
        num_bytes: size of the states file.
        checksum: of the states file.
        rows_bytes: size of the rows file.
        rows_checksum: of the rows file.
        count: values per layer that entered the sums.
        sums: per layer, the sum of the values.
        squares: per layer, the sum of their squares.
    """

    first: NonNegativeInt
    stop: NonNegativeInt
    num_positions: NonNegativeInt
    num_bytes: NonNegativeInt
    checksum: str
    rows_bytes: NonNegativeInt
    rows_checksum: str
    count: NonNegativeInt
    sums: tuple[float, ...]
    squares: tuple[float, ...]

    @property
    def name(self) -> str:
        return shard_names(self.first)[0]

    @property
    def rows_name(self) -> str:
        return shard_names(self.first)[1]

    def fits(self, spec: StoreSpec, problems_per_shard: int) -> bool:
        """Return whether it is a shard of this specification and plan."""
        stop = min(self.first + problems_per_shard, spec.num_problems)
        has_layers = len(self.sums) == len(self.squares) == len(spec.layers)
        return self.first % problems_per_shard == 0 and self.stop == stop and has_layers


class JournalLine(ShardEntry):
    """A line of a journal: a finished shard, and the digest of the specification and plan that it belongs to."""

    kind: Literal["shard"] = "shard"
    spec: str

    @classmethod
    def of(cls, entry: ShardEntry, digest: str) -> JournalLine:
        return cls(spec=digest, **entry.model_dump())

    def entry(self) -> ShardEntry:
        return ShardEntry(**self.model_dump(exclude={"kind", "spec"}))


class JournalHeader(FileModel):
    """The first line of a journal.

    Attributes:
        version: of the store's format.
        spec: what the store holds.
        problems_per_shard: the shard plan.
    """

    kind: Literal["store"] = "store"
    version: int = FORMAT_VERSION
    spec: StoreSpec
    problems_per_shard: PositiveInt


class Moments(FileModel):
    """Mean and population variance of the values of a layer."""

    mean: float
    variance: float


class Manifest(FileModel):
    """Contents of manifest.json.

    Attributes:
        version: of the store's format.
        spec: what the store holds.
        problems_per_shard: the shard plan.
        num_positions: stored positions of all problems.
        layers: by layer index, the moments of its values.
        shards: every shard, in order.
    """

    kind: Literal["manifest"] = "manifest"
    version: int = FORMAT_VERSION
    spec: StoreSpec
    problems_per_shard: PositiveInt
    num_positions: NonNegativeInt
    layers: dict[str, Moments]
    shards: tuple[ShardEntry, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        spec, plan = self.spec, self.problems_per_shard
        if [(shard.first, shard.stop) for shard in self.shards] != shard_ranges(spec, plan):
            raise ValueError("its shards do not hold each problem once")
        if set(self.layers) != set(map(str, spec.layers)) or not all(shard.fits(spec, plan) for shard in self.shards):
            raise ValueError("its layers are not those of its specification")
        return self


_Versioned = TypeVar("_Versioned", JournalHeader, Manifest)


def parse_versioned(kind: type[_Versioned], body: Mapping[str, Any], path: Path) -> _Versioned:
    """Return a manifest or the header of a journal.

    Raises:
        UserError: if the store's format is another one, or the contents are not as they should be.
    """
    if body.get("version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has store format {body.get('version')}, this version of lrd_peft reads {FORMAT_VERSION}"
        )
    try:
        return kind.from_json(body)
    except UserError as error:
        raise UserError(f"{path} is damaged ({error})") from error


def shard_names(first: int) -> tuple[str, str]:
    """Return the file names of the states and the rows of the shard that begins with problem `first`."""
    return f"shard-{first:09d}.safetensors", f"shard-{first:09d}.jsonl"


def shard_ranges(spec: StoreSpec, plan: int) -> list[tuple[int, int]]:
    """Return the problems [first, stop) of each shard of a plan of so many problems per shard."""
    return [(first, min(first + plan, spec.num_problems)) for first in range(0, spec.num_problems, plan)]


def problems_per_shard(spec: StoreSpec, shard_bytes: int) -> int:
    """Return how many problems make a shard of about `shard_bytes` bytes.

    Raises:
        UserError: if `shard_bytes` is below 1.
    """
    if shard_bytes < 1:
        raise UserError(f"shard_bytes is {shard_bytes}: a shard needs at least 1 byte")
    per_position = len(spec.layers) * spec.hidden_size * ITEM_BYTES[spec.dtype]
    positions = spec.num_thoughts + {"thoughts": 0, "thoughts+answer": 1, "all": TYPICAL_TEXT_POSITIONS}[spec.positions]
    return max(1, shard_bytes // (per_position * max(1, positions)))


def moments(spec: StoreSpec, entries: Iterable[ShardEntry]) -> dict[str, Moments]:
    """Return by layer the mean and population variance over positions and hidden units, adding shards in order."""
    ordered = sorted(entries, key=lambda entry: entry.first)
    count = sum(entry.count for entry in ordered)
    result: dict[str, Moments] = {}
    for place, layer in enumerate(spec.layers):
        mean = sum(entry.sums[place] for entry in ordered) / max(1, count)
        square = sum(entry.squares[place] for entry in ordered) / max(1, count)
        result[str(layer)] = Moments(mean=mean, variance=max(0.0, square - mean * mean))
    return result
