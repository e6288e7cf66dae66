"""Read a folder of results: studies, their records and the files next to them.

results/
  methods/            a study: a folder with at least one record
    study.json        optional: name, title, axes [{field, values}], command
    *.json            records, one per cell and seed; or records/*.json, where `lrd study` writes them
    similarity.json   optional: see `evaluation.similarity.Similarity`
    answers.json      optional: see `evaluation.decoded_thoughts.Answers`
    ablation.json     optional: see `evaluation.ablation_results.Ablations`
    probe.json        optional: see `evaluation.probe_results.Probes`
    thoughts/         optional: CELL--seedK.ablation.json and CELL--seedK.probe.json, the same for single cells
  demo.json           a single record: a study named after its file
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from lrd_peft.config.identity import ADDED
from lrd_peft.evaluation.ablation_results import Ablations
from lrd_peft.evaluation.decoded_thoughts import Answers
from lrd_peft.evaluation.probe_results import Probes
from lrd_peft.evaluation.records import Record, read_record
from lrd_peft.evaluation.similarity import Similarity
from lrd_peft.evaluation.study_description import StudyAxis, StudyDescription, TunedCell
from lrd_peft.report.cells import Axis
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.json_files import FileData, read_optional

_Found = TypeVar("_Found", bound=FileData)

# The field that a study of this name varies, if it has no study.json.
AXES = {
    "alpha": "distill_alpha",
    "rank": "lora_r",
    "layers": "distill_layers",
    "size": "student",
    "positions": "positions",
    "normalize": "normalize",
    "thoughts_from": "thoughts_from",
    "thoughts": "max_stage",
}
# Suffix of the small variant of a study.
QUICK = "-quick"
BESIDE = ("study.json", "similarity.json", "answers.json", "ablation.json", "probe.json")
# Fields that do not distinguish cells.
_NO_AXIS = frozenset(
    {"seed", "output_dir", "run_name", "methods", "method", "num_threads", "device", "report_to", "save_steps"}
)


@dataclass(frozen=True, slots=True)
class CellLooks:
    """What a study's cells found about their thoughts: cell without its seed -> seed -> what was found.

    Attributes:
        ablations: What interventions on the thoughts did.
        probes: What can be read in the thoughts.
    """

    ablations: Mapping[str, Mapping[int, Ablations]]
    probes: Mapping[str, Mapping[int, Probes]]


@dataclass(frozen=True, slots=True)
class StudyRecords:
    """The records of one study.

    Attributes:
        name: the folder's name.
        title: for a heading.
        records: in the order of their file names.
        axis: the configuration field (or fields) that it varies; None for methods or a single run.
        baseline: value of the axis in the study's base configuration, if one field varies.
        tuned: what was chosen on validation problems before the cells ran.
        command: reproduces the records, or None.
        similarity: of the layers of teacher and student, if measured.
        answers: problems with decoded thoughts, if kept.
        ablations: what interventions on the thoughts did, if measured.
        probes: what can be read in the thoughts, if measured.
        looks: the same for its cells.
    """

    name: str
    title: str
    records: tuple[Record, ...]
    axis: Axis | None = None
    baseline: Any = None
    tuned: tuple[TunedCell, ...] = ()
    command: str | None = None
    similarity: Similarity | None = None
    answers: Answers | None = None
    ablations: Ablations | None = None
    probes: Probes | None = None
    looks: CellLooks = CellLooks({}, {})

    @property
    def num_seeds(self) -> int:
        """Number of different seeds."""
        return len({record.seed for record in self.records})


def read_results(place: Path) -> dict[str, StudyRecords]:
    """Return the studies below a results folder by name.

    A single record or run folder becomes the only study, named `methods`.

    Raises:
        UserError: if there is no such place or no record in it, or a file of results is damaged.
    """
    if place.is_file():
        return {"methods": _read_study(place.with_suffix(""), files=[place])}
    if not place.is_dir():
        raise UserError(
            f'there is no folder "{place}" here. Name a results folder, a run folder or a record: '
            "`lrd report runs/demo`; `lrd run` and `lrd study` write records"
        )
    if (place / "record.json").is_file():
        return {"methods": _read_study(place, files=[place / "record.json"])}
    studies = {}
    for path in sorted(place.iterdir()):
        if path.is_dir() and (records := _record_files(path)):
            studies[path.name] = _read_study(path, files=records)
        elif path.suffix == ".json" and path.name not in BESIDE and _holds_record(path):
            studies[path.stem] = _read_study(path.with_suffix(""), files=[path])
    if not studies:
        raise UserError(f"there is no record in {place}; `lrd run` and `lrd study` write records")
    return studies


def find_axis(name: str, records: Sequence[Record]) -> str | None:
    """Return the field that varies, or None if it cannot be told from the records and the name of the study."""
    known = AXES.get(name.removesuffix(QUICK))
    fields = sorted({field for record in records for field in record.config} - _NO_AXIS)
    varied = [field for field in fields if len({json.dumps(record.config.get(field)) for record in records}) > 1]
    if known in varied:
        return known
    # A study of several methods compares them with each other, not along a field.
    return varied[0] if len(varied) == 1 and len({record.method for record in records}) == 1 else None


def read_study_records(folder: Path) -> StudyRecords:
    """Return the study of one folder.

    Raises:
        UserError: if there is no record in it, or a file is damaged.
    """
    files = _record_files(folder)
    if not files:
        raise UserError(f"there is no record in {folder}; `lrd run` and `lrd study` write records")
    return _read_study(folder, files=files)


def _read_study(folder: Path, *, files: Sequence[Path]) -> StudyRecords:
    records = tuple(
        replace(record, config={**ADDED, **record.config}) for record in (read_record(path) for path in files)
    )
    about = read_optional(folder / "study.json", StudyDescription) or StudyDescription()
    axis = find_axis(folder.name, records) if about.axes is None else _told_axis(about, about.axes)
    return StudyRecords(
        name=folder.name,
        title=about.title or folder.name,
        records=records,
        axis=axis,
        baseline=about.base.get(axis) if isinstance(axis, str) else None,
        tuned=about.tuned,
        command=about.command,
        similarity=read_optional(folder / "similarity.json", Similarity),
        answers=read_optional(folder / "answers.json", Answers),
        ablations=read_optional(folder / "ablation.json", Ablations),
        probes=read_optional(folder / "probe.json", Probes),
        looks=CellLooks(
            ablations=_of_cells(folder / "thoughts", "ablation", Ablations),
            probes=_of_cells(folder / "thoughts", "probe", Probes),
        ),
    )


def _told_axis(about: StudyDescription, axes: Sequence[StudyAxis]) -> Axis | None:
    """Return the fields that study.json names, in axes or single cells, without `method`."""
    fields = [axis.field for axis in axes if axis.field != "method"]
    if not fields:
        return None
    fields += [field for cell in about.cells for field in cell.values if field != "method"]
    distinct = tuple(dict.fromkeys(fields))
    return distinct if len(distinct) > 1 else fields[0]


def _record_files(folder: Path) -> list[Path]:
    files = sorted([*folder.glob("*.json"), *(folder / "records").glob("*.json")])
    return [path for path in files if path.name not in BESIDE and _holds_record(path)]


def _holds_record(path: Path) -> bool:
    """Whether a JSON file is a record; a damaged file counts, so that reading it raises the error."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return True
    return isinstance(row, dict) and {"method", "metrics"} <= row.keys()


def _of_cells(folder: Path, what: str, kind: type[_Found]) -> dict[str, dict[int, _Found]]:
    """Return what the files CELL--seedK.WHAT.json of a folder hold."""
    cells: dict[str, dict[int, _Found]] = {}
    for path in sorted(folder.glob(f"*--seed*.{what}.json")):
        cell, _, seed = path.name.removesuffix(f".{what}.json").rpartition("--seed")
        found = read_optional(path, kind)
        if found is not None and seed.isdecimal():
            cells.setdefault(cell, {})[int(seed)] = found
    return cells
