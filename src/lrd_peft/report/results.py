"""Reads a folder of results: studies, their records and what lies beside them. Knows files, draws nothing.

results/
  methods/            a study: a folder with at least one record
    study.json        optional: name, title, axes [{field, values}], command
    *.json            records, one a cell and seed; or records/*.json, where `lrd study` leaves them
    similarity.json   optional: see `evaluation.similarity.Similarity`
    answers.json      optional: see `evaluation.decoded.Answers`
  demo.json           a record that stands alone: a study of its own, by its file's name
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lrd_peft.config.identity import LATER
from lrd_peft.errors import UserError
from lrd_peft.evaluation.decoded import Answers
from lrd_peft.evaluation.similarity import Similarity
from lrd_peft.records import Record, read_record
from lrd_peft.report.cells import Axis

# The field along which a study of this name varies, where no study.json says it.
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
# What the small variant of a study adds to its name.
QUICK = "-quick"
BESIDE = ("study.json", "similarity.json", "answers.json")
# These never make two runs of one cell differ in what was asked.
_NO_AXIS = frozenset(
    {"seed", "output_dir", "run_name", "methods", "method", "num_threads", "device", "report_to", "save_steps"}
)


@dataclass(frozen=True, slots=True)
class Study:
    """The records of one study.

    Attributes:
        name: the folder's name.
        title: for a heading.
        records: in the order of their file names.
        axis: the configuration field along which it varies, or several; None for methods or a single run.
        command: what makes the records again, or None.
        similarity: of the teacher's and the student's layers, if measured.
        answers: problems with the student's thoughts, if kept.
    """

    name: str
    title: str
    records: tuple[Record, ...]
    axis: Axis | None = None
    command: str | None = None
    similarity: Similarity | None = None
    answers: Answers | None = None

    @property
    def num_seeds(self) -> int:
        """How many different seeds there are."""
        return len({record.seed for record in self.records})


def read_results(place: Path) -> dict[str, Study]:
    """Return the studies below a results folder by name.

    A single record or run folder is the only study and stands for `methods`.

    Raises:
        UserError: if there is no such place or no record in it, or a file of results is damaged.
    """
    if place.is_file():
        return {"methods": _read_study(place.with_suffix(""), files=[place])}
    if not place.is_dir():
        raise UserError(f"there is no folder of results {place}; `lrd run` and `lrd study` make records")
    if (place / "record.json").is_file():
        return {"methods": _read_study(place, files=[place / "record.json"])}
    studies = {}
    for path in sorted(place.iterdir()):
        if path.is_dir() and (records := _record_files(path)):
            studies[path.name] = _read_study(path, files=records)
        elif path.suffix == ".json" and path.name not in BESIDE and _holds_record(path):
            studies[path.stem] = _read_study(path.with_suffix(""), files=[path])
    if not studies:
        raise UserError(f"there is no record in {place}; `lrd run` and `lrd study` make records")
    return studies


def find_axis(name: str, records: Sequence[Record]) -> str | None:
    """Return the field along which the records vary, or None if none or several do and the name does not tell."""
    known = AXES.get(name.removesuffix(QUICK))
    fields = sorted({field for record in records for field in record.config} - _NO_AXIS)
    varied = [field for field in fields if len({json.dumps(record.config.get(field)) for record in records}) > 1]
    if known in varied:
        return known
    # Several methods under another name are compared with each other, not along a field.
    return varied[0] if len(varied) == 1 and len({record.method for record in records}) == 1 else None


def read_study(folder: Path) -> Study:
    """Return the study of one folder.

    Raises:
        UserError: if there is no record in it, or a file is damaged.
    """
    files = _record_files(folder)
    if not files:
        raise UserError(f"there is no record in {folder}; `lrd run` and `lrd study` make records")
    return _read_study(folder, files=files)


def _read_study(folder: Path, *, files: Sequence[Path]) -> Study:
    records = tuple(
        replace(record, config={**LATER, **record.config}) for record in (read_record(path) for path in files)
    )
    about = _read_json(folder / "study.json", dict) or {}
    axis = _told_axis(about) if "axes" in about else find_axis(folder.name, records)
    similarity, answers = _read_json(folder / "similarity.json", dict), _read_json(folder / "answers.json", dict)
    try:
        return Study(
            name=folder.name,
            title=about.get("title") or folder.name,
            records=records,
            axis=axis,
            command=about.get("command"),
            similarity=None if similarity is None else Similarity.from_dict(similarity),
            answers=None if answers is None else Answers.from_dict(answers),
        )
    except (KeyError, TypeError) as error:
        raise UserError(
            f"similarity.json or answers.json in {folder} is of another form ({error!r}); "
            "make them again with `lrd inspect`"
        ) from error


def _told_axis(about: dict[str, Any]) -> Axis | None:
    """Return the fields that a study names, those of its single cells too; methods are compared with each other."""
    fields = [axis["field"] for axis in about["axes"] if axis["field"] != "method"]
    if not fields:
        return None
    fields += [field for cell in about.get("cells", ()) for field in cell["values"] if field != "method"]
    distinct = tuple(dict.fromkeys(fields))
    return distinct if len(distinct) > 1 else fields[0]


def _record_files(folder: Path) -> list[Path]:
    files = sorted([*folder.glob("*.json"), *(folder / "records").glob("*.json")])
    return [path for path in files if path.name not in BESIDE and _holds_record(path)]


def _holds_record(path: Path) -> bool:
    """Say whether a JSON file means to be a record; a damaged one does, so that reading it says so."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return True
    return isinstance(row, dict) and {"schema_version", "metrics"} <= row.keys()


def _read_json(path: Path, kind: type) -> Any:
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it or make it again") from error
    if not isinstance(value, kind):
        raise UserError(f"{path} holds {type(value).__name__}, not {kind.__name__}; remove it or make it again")
    return value
