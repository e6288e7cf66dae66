"""Where the numbers of a report come from: the commands and the environment of its records."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from lrd_peft.config import RunConfig
from lrd_peft.evaluation.records import Record
from lrd_peft.report.study_records import QUICK, StudyRecords


def environment_lines(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Return (name, value) of what the numbers may depend on, with all values that occur."""
    values: dict[str, list[str]] = {}
    for record in records:
        for name, value in _flat(record.environment).items():
            if value not in values.setdefault(name, []):
                values[name].append(value)
    return [(name, "; ".join(found)) for name, found in sorted(values.items()) if found != ["None"]]


def commands(study: StudyRecords) -> list[str]:
    """Return the commands that reproduce a study: its own, or one `lrd run` per record."""
    if study.command is not None:
        return [study.command]
    if len(study.records) > 1:
        quick = " --quick" if study.name.endswith(QUICK) else ""
        return [f"lrd study {study.name.removesuffix(QUICK)}{quick}"]
    return [run_command(record.config) for record in study.records]


def run_command(config: Mapping[str, Any]) -> str:
    """Return the `lrd run` of a resolved configuration, with every field that is not at its default."""
    words = ["lrd", "run"]
    for name, default in RunConfig().flat().items():
        value = config.get(name)
        if name not in config or value == default:
            continue
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no_{name}")
        else:
            words += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return shlex.join(words)


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in row.items():
        flat.update(_flat(value, f"{name} ") if isinstance(value, Mapping) else {f"{prefix}{name}": str(value)})
    return flat
