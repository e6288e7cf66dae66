"""What the records of a study are about: study.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lrd_peft.runtime.json_files import FileData


@dataclass(frozen=True, slots=True)
class StudyAxis(FileData):
    """A configuration field that a study varies, and its values."""

    field: str
    values: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class StudyCell(FileData):
    """A cell of a study: its label, and the fields in which it differs from the base."""

    cell: str
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Trial(FileData):
    """Values that were tried for a cell.

    Attributes:
        values: Field -> value.
        accuracy: On validation problems, from 0 to 1; the mean over the data sets.
        fingerprint: Of the configuration that was tried.
    """

    values: dict[str, Any]
    accuracy: float
    fingerprint: str


@dataclass(frozen=True, slots=True)
class TunedCell(FileData):
    """Values that were chosen for a cell, and all that were tried."""

    cell: str
    values: dict[str, Any]
    trials: tuple[Trial, ...]


@dataclass(frozen=True, slots=True)
class StudyDescription(FileData):
    """Contents of study.json. A folder of records may have a partial one, or none.

    Attributes:
        name: of the study.
        title: for headings.
        axes: the fields that it varies; None where the file does not say.
        seeds: seeds of its records.
        base: configuration that all cells share.
        cells: every cell.
        tuned: what was chosen on validation problems before the cells ran.
        command: the command that makes the records, if it is not `lrd study NAME`.
    """

    name: str = ""
    title: str = ""
    axes: tuple[StudyAxis, ...] | None = None
    seeds: tuple[int, ...] = ()
    base: dict[str, Any] = field(default_factory=dict)
    cells: tuple[StudyCell, ...] = ()
    tuned: tuple[TunedCell, ...] = ()
    command: str | None = None
