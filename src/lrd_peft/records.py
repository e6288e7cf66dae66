"""What a run leaves: one JSON record. Knows files and plain values, not models or metrics.

Two equal records are equal byte for byte: keys are sorted, numbers that are not finite become null (null says
"undefined" everywhere), and a file appears under its name only when it is complete on disk.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from lrd_peft.errors import UserError
from lrd_peft.files import sync_parent

SCHEMA_VERSION = 1

_PACKAGES = (
    "lrd-peft",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "safetensors",
    "tokenizers",
    "numpy",
    "math-verify",
)
# What differs between two runs of the same command, besides keys that name a time.
_CLOCK_KEYS = frozenset({"finished_at", "peak_memory_bytes", "seconds"})
_CLOCK_ENDS = ("_seconds", "_per_second", "seconds_per_problem")


@dataclass(frozen=True, slots=True)
class Costs:
    """What a run used.

    Attributes:
        wall_seconds: by phase.
        peak_memory_bytes: of the processes that trained what the method makes and that evaluated it, the larger; None
            where one is not known.
        trainable_parameters: numbers that the method trains.
        total_parameters: all numbers of the model it makes.
    """

    wall_seconds: dict[str, float]
    peak_memory_bytes: int | None
    trainable_parameters: int
    total_parameters: int


@dataclass(frozen=True, slots=True)
class Record:
    """A finished run.

    Attributes:
        method: the method's name.
        datasets: the names of the data sets it was evaluated on.
        seed: the seed of the run.
        config: the resolved configuration, as `portable` leaves it.
        environment: `environment()` at the time of the run.
        metrics: by data set, `{"summary": Summary.to_dict(), "outcomes": pack_outcomes(...)}`.
        costs: what it used.
        curves: the training log, one mapping of step, total, task, distill and so on a line.
        finished_at: UTC time, ISO 8601.
        schema_version: of the record's format.
    """

    method: str
    datasets: tuple[str, ...]
    seed: int
    config: dict[str, Any]
    environment: dict[str, Any]
    metrics: dict[str, dict[str, Any]]
    costs: Costs
    curves: tuple[dict[str, Any], ...] = ()
    finished_at: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types only; `config` without absolute paths."""
        return _plain(asdict(self) | {"config": portable(self.config)}, "record")

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Record:
        """Make a record from `to_dict`'s mapping.

        Raises:
            UserError: if the schema is unknown or a field is missing, unknown or of another type.
        """
        version = row.get("schema_version")
        if version != SCHEMA_VERSION or isinstance(version, bool):
            raise UserError(
                f"schema_version is {version!r}, this program reads {SCHEMA_VERSION}; "
                f"read the record with the version of lrd_peft that wrote it, or run again"
            )
        _check_fields(row, _RECORD_TYPES, "record")
        _check_fields(row["costs"], _COST_TYPES, "costs")
        values = dict(row)
        values["datasets"] = tuple(row["datasets"])
        values["curves"] = tuple(row["curves"])
        values["costs"] = Costs(**row["costs"])
        return cls(**values)


_RECORD_TYPES: dict[str, tuple[type, ...]] = {
    "method": (str,),
    "datasets": (list,),
    "seed": (int,),
    "config": (dict,),
    "environment": (dict,),
    "metrics": (dict,),
    "costs": (dict,),
    "curves": (list,),
    "finished_at": (str,),
    "schema_version": (int,),
}
_COST_TYPES: dict[str, tuple[type, ...]] = {
    "wall_seconds": (dict,),
    "peak_memory_bytes": (int, type(None)),
    "trainable_parameters": (int,),
    "total_parameters": (int,),
}
assert set(_RECORD_TYPES) == {each.name for each in fields(Record)}
assert set(_COST_TYPES) == {each.name for each in fields(Costs)}


def write_record(path: str | Path, record: Record) -> None:
    """Write a record so that the file is there completely or not at all."""
    write_json_atomic(path, record.to_dict())


def read_record(path: str | Path) -> Record:
    """Read a record.

    Raises:
        UserError: if there is no such file, it is damaged, or its schema is unknown.
    """
    path = Path(path)
    try:
        row = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise UserError(f"there is no record {path}; the run has not finished") from None
    except OSError as error:
        raise UserError(f"cannot read the record {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"the record {path} is damaged ({error}); remove it and run again") from error
    if not isinstance(row, dict):
        raise UserError(f"the record {path} is damaged (no JSON object); remove it and run again")
    try:
        return Record.from_dict(row)
    except UserError as error:
        raise UserError(f"the record {path} cannot be used: {error}") from error


def write_json_atomic(path: str | Path, obj: Any) -> None:
    """Write canonical JSON under a temporary name, flush it to the disk, and rename it.

    There is one writer for a path, so the temporary name is fixed: what a killed process left is overwritten
    by the next. Numbers that are not finite are written as null.

    Raises:
        UserError: if the folder does not exist or cannot be written to, or the disk is full.
        TypeError: if a value is not a JSON type; the message names its place.
    """
    path = Path(path)
    data = canonical_json(obj).encode()
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_parent(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def canonical_json(obj: Any) -> str:
    """Return JSON with sorted keys; equal values give equal text."""
    text = json.dumps(_plain(obj, "value"), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    # A lone surrogate cannot be written as UTF-8.
    return text.encode(errors="backslashreplace").decode() + "\n"


def comparable(record: Record) -> dict[str, Any]:
    """Return the record without what the clock or the memory decides: equal for a run and its resumed twin.

    Left out everywhere but in `config`: `finished_at`, `peak_memory_bytes` and every key that names seconds.
    """
    row = record.to_dict()
    return {
        key: value if key == "config" else _without_clock(value) for key, value in row.items() if not _is_clock(key)
    }


def pack_outcomes(outcomes: Mapping[str, bool]) -> dict[str, Any]:
    """Return who was right in a few bytes: the ids, and one bit each, in the mapping's order.

    A run of numbered ids is `[prefix, first, count]`. The first problem is the highest bit of the first
    hexadecimal digit.
    """
    ids: list[Any] = []
    for problem_id in outcomes:
        head, digits = _split_number(problem_id)
        last = ids[-1] if ids else None
        if digits is None:
            ids.append(problem_id)
        elif isinstance(last, list) and last[0] == head and last[1] + last[2] == digits:
            last[2] += 1
        else:
            ids.append([head, digits, 1])
    bits = "".join("1" if right else "0" for right in outcomes.values())
    padded = bits + "0" * (-len(bits) % 4)
    return {
        "n": len(bits),
        "ids": ids,
        "right": "".join(f"{int(padded[at : at + 4], 2):x}" for at in range(0, len(padded), 4)),
    }


def unpack_outcomes(packed: Mapping[str, Any]) -> dict[str, bool]:
    """Return `pack_outcomes`' mapping, in its order.

    Raises:
        UserError: if the parts do not fit together.
    """
    ids = [
        problem_id
        for entry in packed["ids"]
        for problem_id in (
            [entry] if isinstance(entry, str) else (f"{entry[0]}{entry[1] + k}" for k in range(entry[2]))
        )
    ]
    bits = "".join(f"{int(digit, 16):04b}" for digit in packed["right"])
    n = packed["n"]
    if len(ids) != n or len(set(ids)) != n or not n <= len(bits) < n + 4:
        raise UserError(f"damaged outcomes: {n} problems, {len(ids)} ids and {len(bits)} bits do not fit together")
    return {problem_id: bit == "1" for problem_id, bit in zip(ids, bits, strict=False)}


def portable(value: Any) -> Any:
    """Return a configuration without this machine's folders: an absolute path becomes its last part."""
    if isinstance(value, Mapping):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        if value.startswith(("/", "~")):
            return PurePosixPath(value).name
        if PureWindowsPath(value).drive:
            return PureWindowsPath(value).name
    return value


def environment() -> dict[str, Any]:
    """Return what a run's numbers may depend on. No names of hosts, users or folders."""
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": versions,
        "processor": _processor(),
        "num_cores": os.cpu_count(),
        "num_threads": os.environ.get("OMP_NUM_THREADS"),
        **_commit(),
    }


def peak_memory_bytes() -> int | None:
    """Return the largest resident memory of this process so far, or None where the system does not say."""
    try:
        # Linux: unlike getrusage, not inherited from the process that started this one.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _processor() -> str | None:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or None


def _commit() -> dict[str, Any]:
    """Return the commit of the checkout that this file belongs to, and whether its files differ from it."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=here.parent, capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    # An installed package may lie inside the checkout of another project.
    if git("ls-files", "--error-unmatch", here.name) is None or (commit := git("rev-parse", "HEAD")) is None:
        return {"commit": None, "modified": None}
    return {"commit": commit, "modified": bool(git("status", "--porcelain", "--untracked-files=no"))}


def _plain(value: Any, place: str) -> Any:
    """Return the value as JSON types: str keys, lists, null for numbers that are not finite."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str | int) or isinstance(key, bool):
                raise TypeError(f"{place}: the key {key!r} is neither a string nor an integer")
        return {str(key): _plain(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{place}[{index}]") for index, item in enumerate(value)]
    raise TypeError(f"{place}: {type(value).__name__} is not a JSON type")


def _is_clock(key: str) -> bool:
    return key in _CLOCK_KEYS or key.endswith(_CLOCK_ENDS)


def _without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_clock(item) for key, item in value.items() if not _is_clock(key)}
    if isinstance(value, list):
        return [_without_clock(item) for item in value]
    return value


def _check_fields(row: Mapping[str, Any], types: Mapping[str, tuple[type, ...]], place: str) -> None:
    missing, unknown = sorted(types.keys() - row.keys()), sorted(row.keys() - types.keys())
    if missing or unknown:
        raise UserError(f"{place} lacks the fields {missing} and has the unknown fields {unknown}")
    for name, allowed in types.items():
        if not isinstance(row[name], allowed) or isinstance(row[name], bool):
            raise UserError(f"{place}: {name} is {type(row[name]).__name__}, not {allowed[0].__name__}")


def _split_number(problem_id: str) -> tuple[str, int | None]:
    """Split "set/test/0/17" into "set/test/0/" and 17; None if the number cannot be put back the same."""
    head = problem_id.rstrip("0123456789")
    digits = problem_id[len(head) :]
    if not digits or len(digits) > 15 or str(int(digits)) != digits:
        return problem_id, None
    return head, int(digits)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
