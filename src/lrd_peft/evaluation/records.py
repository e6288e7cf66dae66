"""The record of a run: one JSON file.

Equal records are equal byte for byte: keys are sorted, numbers that are not finite become null (which always means
"undefined"), and a file appears under its name only when it is complete on disk.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lrd_peft.evaluation.metrics import Summary
from lrd_peft.runtime.environment import portable
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.json_files import FileData, dump_json, read_json, write_json_atomic

# What differs between two runs of the same command, in addition to keys that name a time.
_CLOCK_KEYS = frozenset({"finished_at", "peak_memory_bytes", "seconds"})
_CLOCK_ENDS = ("_seconds", "_per_second", "seconds_per_problem")


@dataclass(frozen=True, slots=True)
class Costs(FileData):
    """What a run used.

    Attributes:
        wall_seconds: duration by phase, in seconds.
        peak_memory_bytes: largest resident memory of the processes that trained and evaluated the method's model;
            None where one is unknown.
        trainable_parameters: numbers that the method trains.
        total_parameters: numbers of its model.
    """

    wall_seconds: dict[str, float]
    peak_memory_bytes: int | None
    trainable_parameters: int
    total_parameters: int


@dataclass(frozen=True, slots=True)
class Record(FileData):
    """A finished run.

    Attributes:
        method: name of the method.
        datasets: names of the data sets that it was evaluated on.
        seed: seed of the run.
        config: resolved configuration, without this machine's folders.
        environment: `environment()` at the time of the run.
        metrics: by data set and method, `{"summary": Summary.to_json(), "outcomes": pack_outcomes(...)}`.
        costs: what it used.
        answers_version: `answers.VERSION` of the rules that graded it; records from before the field are of version 1.
        curves: the training log, a mapping of step, loss terms and so on per line.
        finished_at: UTC time, ISO 8601.
    """

    method: str
    datasets: tuple[str, ...]
    seed: int
    config: dict[str, Any]
    environment: dict[str, Any]
    metrics: dict[str, dict[str, Any]]
    costs: Costs
    answers_version: int = 1
    curves: tuple[dict[str, Any], ...] = ()
    finished_at: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))

    def own_accuracies(self) -> dict[str, float]:
        """Return the accuracy of the record's own method, from 0 to 1, on each data set that graded it."""
        entries = {name: self.metrics[name].get(self.method) for name in self.datasets}
        return {name: Summary.from_json(entry["summary"]).accuracy for name, entry in entries.items() if entry}

    def to_json(self) -> dict[str, Any]:
        """Return JSON types only; `config` without absolute paths."""
        return dump_json(replace(self, config=portable(self.config)))


def write_record(path: str | Path, record: Record) -> None:
    """Write a record; the file appears completely or not at all.

    Raises:
        UserError: if it cannot be written.
    """
    write_json_atomic(path, record.to_json())


def read_record(path: str | Path) -> Record:
    """Read a record, or the record of a run folder.

    Raises:
        UserError: If the file does not exist, is damaged, or holds something else.
    """
    path = Path(path)
    if path.is_dir():
        path /= "record.json"
    if not path.exists():
        raise UserError(f"there is no record {path}; if the run is not finished, the same `lrd run` command resumes it")
    row = read_json(path)
    if not isinstance(row, dict):
        raise UserError(f"{path} is not a record but a JSON {type(row).__name__}; delete it and run again")
    try:
        return Record.from_json(row)
    except UserError as error:
        raise UserError(f"{path} is not a record of this version: {error}; delete it and run again") from error


def comparable(record: Record) -> dict[str, Any]:
    """Return the record without what depends on clock or memory: equal for a run and its resumed twin.

    Everywhere but in `config`, `finished_at`, `peak_memory_bytes` and every key that names seconds are left out.
    """
    row = record.to_json()
    return {
        key: value if key == "config" else _without_clock(value) for key, value in row.items() if not _is_clock(key)
    }


def _is_clock(key: str) -> bool:
    return key in _CLOCK_KEYS or key.endswith(_CLOCK_ENDS)


def _without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_clock(item) for key, item in value.items() if not _is_clock(key)}
    if isinstance(value, list):
        return [_without_clock(item) for item in value]
    return value
