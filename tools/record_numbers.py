"""The numbers of records and studies by name, for `tools.claims`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lrd_peft.evaluation.metrics import mcnemar, pair_by_id
from lrd_peft.evaluation.outcomes import unpack_outcomes
from lrd_peft.evaluation.records import Record, read_record
from lrd_peft.report.cells import CellRecords, against_ours, cells_of
from lrd_peft.report.estimates import paired_test
from lrd_peft.report.run_summary import render_dataset
from lrd_peft.report.study_records import StudyRecords, read_study_records
from lrd_peft.report.tables import detail_table, main_table, run_table, sweep_table, tuning_table, value_label
from lrd_peft.report.thought_tables import ablation_summary
from lrd_peft.runtime.errors import nearest


class Uncheckable(Exception):
    """A claim that cannot be checked, such as one on a record that does not exist; the message is the line to print."""


def study_facts(study: StudyRecords) -> dict[str, Any]:
    """Return the numbers of a study by name.

        accuracy.<data set>.<method>.mean (also low, high, num_seeds, num_problems)
        passes.<data set>.<method>, seconds_per_problem.<data set>.<method>
        against_ours.<data set>.<method>.difference (also p_problems, p_seeds): latent-lora minus that method
        against_first.<data set>.<method>@<value>.difference (also p_problems, p_seeds): that value of the axis minus
            the first one; if the study varies several fields, minus the first value of the last field, the others equal
        parameters.<data set>.<method>: of the model that answers
        seconds.<phase>.total, seconds.<phase>.longest: over all records; a shared teacher or store counts in each
        num_records, num_seeds

    If the study varies a field, "@" and its value follow the method: latent-lora@16.
    """
    facts: dict[str, Any] = {"num_records": len(study.records), "num_seeds": study.num_seeds}
    for phase in sorted({phase for record in study.records for phase in record.costs.wall_seconds}):
        times = [record.costs.wall_seconds.get(phase, 0.0) for record in study.records]
        facts.setdefault("seconds", {})[phase] = {"total": sum(times), "longest": max(times)}
    found = cells_of(study.records, by=study.axis, own=study.axis is not None)
    first: dict[tuple[Any, ...], CellRecords] = {}
    for cell in found:
        name = cell.method if study.axis is None else f"{cell.method}@{value_label(cell.value)}"
        _put(facts, ("accuracy", cell.dataset, name), asdict(cell.accuracy))
        _put(facts, ("parameters", cell.dataset, name), cell.total_parameters)
        _put(facts, ("passes", cell.dataset, name), cell.mean("mean_passes").mean)
        _put(facts, ("seconds_per_problem", cell.dataset, name), cell.mean("seconds_per_problem").mean)
        others = cell.value[:-1] if isinstance(cell.value, tuple) else ()
        other = first.setdefault((cell.method, cell.dataset, *map(value_label, others)), cell)
        if other is not cell:
            _put(facts, ("against_first", cell.dataset, name), asdict(paired_test(cell.outcomes, other.outcomes)))
    for (method, dataset), test in (against_ours(found) if study.axis is None else {}).items():
        _put(facts, ("against_ours", dataset, method), asdict(test))
    return facts


def paired_facts(first: Record, second: Record) -> dict[str, Any]:
    """Return the paired comparison of two runs' own methods: <data set>.only_a, .only_b, .p_value, .difference."""
    facts = {}
    for dataset in (name for name in first.datasets if name in second.datasets):
        entries = [record.metrics[dataset][record.method] for record in (first, second)]
        test = mcnemar(*pair_by_id(*(unpack_outcomes(entry["outcomes"]) for entry in entries)))
        a, b = (entry["summary"]["accuracy"] for entry in entries)
        facts[dataset] = {**asdict(test), "difference": a - b}
    return facts


def _put(facts: dict[str, Any], keys: tuple[str, str, str], value: Any) -> None:
    facts.setdefault(keys[0], {}).setdefault(keys[1], {})[keys[2]] = value


class Numbers:
    """The numbers and tables of the records in a checkout; each file and study is read once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._values: dict[str, Any] = {}

    def number(self, source: str, key: str) -> float:
        """Return the number that a record has under a dotted key.

        Raises:
            Uncheckable: if there is no such record, key or number.
        """
        value = self._values.get(source)
        if value is None:
            path = self.root / source
            first, _, second = source.partition(" against ")
            for name in filter(None, (first, second)):
                if not (self.root / name).exists():
                    raise Uncheckable(f"there is no record {name}")
            if second:
                value = paired_facts(read_record(self.root / first), read_record(self.root / second))
            elif path.is_dir():
                value = study_facts(read_study_records(path))
            else:
                value = json.loads(path.read_text(encoding="utf-8"))
                if "costs" in value:
                    value["total_seconds"] = sum(value["costs"]["wall_seconds"].values())
            self._values[source] = value
        names = key.split(".")
        while names:
            # A value of an axis may contain a point: the longest name that exists counts.
            known = value if isinstance(value, Mapping) else {}
            if isinstance(value, list):
                known = {str(index): item for index, item in enumerate(value)}
            taken = next((n for n in range(len(names), 0, -1) if ".".join(names[:n]) in known), 0)
            if not taken:
                raise Uncheckable(f"{source} has no {key}: {names[0]} does not exist.{nearest(names[0], known)}")
            value, names = known[".".join(names[:taken])], names[taken:]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Uncheckable(f"{key} in {source} is not a number but {type(value).__name__}")
        return value

    def table(self, source: str, *, part: str = "") -> str:
        """Return the Markdown table of a record or study.

        Args:
            source: Record or folder of a study.
            part: "printed" for what `lrd show` prints of a record's first data set, "details" for the table of
                tests, sizes and times of a study of methods, "thoughts" for what its cells' thoughts are worth,
                "tuned" for what was chosen on validation problems.

        Raises:
            Uncheckable: if there is no such record.
        """
        path = self.root / source
        if path.is_file():
            record = read_record(path)
            if part == "printed":
                return f"```text\n{render_dataset(record, record.datasets[0])}\n```\n"
            return run_table(record).markdown()
        if not path.is_dir():
            raise Uncheckable(f"there is no record {source}")
        study = read_study_records(path)
        if part == "thoughts":
            return ablation_summary(study.looks).markdown()
        if part == "tuned":
            return tuning_table(study.tuned).markdown()
        if study.axis is not None:
            return sweep_table(study.records, study.axis).markdown()
        return (detail_table if part == "details" else main_table)(study.records).markdown()
