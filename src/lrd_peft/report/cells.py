"""Group records into cells: one method on one data set in one configuration, over seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from lrd_peft.config.identity import NO_RESULT, has_use_for
from lrd_peft.config.methods import METHODS
from lrd_peft.evaluation.metrics import Summary
from lrd_peft.evaluation.outcomes import unpack_outcomes
from lrd_peft.evaluation.records import Costs, Record
from lrd_peft.report.estimates import Estimate, PairedTest, mean_estimate, paired_test, share_estimate
from lrd_peft.report.style import OURS, dataset_label, in_order, method_style
from lrd_peft.runtime.errors import UserError

# A configuration field, or several of which each combination is a value.
Axis: TypeAlias = str | tuple[str, ...]
# Another machine's rounding may turn an answer; two runs that differ by more of their problems had different models.
_SAME_SHARE = 0.01


class NothingToDraw(UserError):
    """The records lack what a figure or table needs; the message says what is missing."""


@dataclass(slots=True)
class CellRecords:
    """One method on one data set in one configuration.

    Attributes:
        method: Name; `latent-lora-alpha0` for latent-lora without alignment.
        dataset: Name of the data set.
        value: JSON value of the field that separates the cells, a tuple for several fields; None without a field.
        summaries: Seed -> summary, over the same held-out problems.
        outcomes: Seed -> problem id -> right.
        costs: Seed -> costs of the method's own run; absent if another method's run graded it.
        total_parameters: Parameters of the model that answers.
        rivals: Seed -> accuracies that other runs of this seed found for a reference method and that differ by more
            than a problem in a hundred: their base or teacher is another one. The cell holds the first run's.
    """

    method: str
    dataset: str
    value: Any
    total_parameters: int
    summaries: dict[int, Summary] = field(default_factory=dict)
    outcomes: dict[int, dict[str, bool]] = field(default_factory=dict)
    costs: dict[int, Costs] = field(default_factory=dict)
    rivals: dict[int, set[float]] = field(default_factory=dict)

    @property
    def accuracy(self) -> Estimate:
        """Mean accuracy over seeds; see `share_estimate` for the interval."""
        return self.share([(summary.num_right, summary.n) for summary in self.summaries.values()])

    @property
    def num_seeds(self) -> int:
        """Number of seeds."""
        return len(self.summaries)

    def by_steps(self) -> dict[int, Estimate]:
        """Return accuracy by number of steps, for the groups that every seed has."""
        return self._groups([summary.by_steps for summary in self.summaries.values()])

    def by_subject(self) -> dict[str, Estimate]:
        """Return accuracy by subject, for the groups that every seed has."""
        return self._groups([summary.by_subject for summary in self.summaries.values()])

    def mean(self, name: str) -> Estimate:
        """Return the mean over seeds of a field of the summary, such as `mean_passes`."""
        return mean_estimate([getattr(summary, name) for summary in self.summaries.values()])

    def training_seconds(self) -> Estimate | None:
        """Return the duration of the method's own training in seconds: of the teacher if that is the method.

        None if there is no run of the method itself, or it trains nothing.
        """
        phase = "teacher" if _is_teacher(self.method) else "student"
        times = [costs.wall_seconds.get(phase, 0.0) for costs in self.costs.values()]
        return mean_estimate(times) if times and max(times) > 0 else None

    def total_seconds(self) -> Estimate | None:
        """Return the duration of teacher, store and student together, in seconds.

        None if there is no run of the method itself, or nothing was trained.
        """
        if self.training_seconds() is None:
            return None
        times = [
            sum(seconds for phase, seconds in costs.wall_seconds.items() if phase != "evaluation")
            for costs in self.costs.values()
        ]
        return mean_estimate(times)

    def share(self, counts: Sequence[tuple[int, int]]) -> Estimate:
        """Return the mean accuracy of one (right, n) pair per seed."""
        sizes = {n for _, n in counts}
        if len(sizes) != 1:
            raise UserError(
                f"{self.method} on {self.dataset} was measured on {' and '.join(map(str, sorted(sizes)))} problems; "
                f"all records of a study must have the same held-out problems"
            )
        return share_estimate([right for right, _ in counts], sizes.pop())

    def _groups(self, groups: Sequence[Mapping[Any, Any]]) -> dict[Any, Estimate]:
        names = [name for name in groups[0] if all(name in group for group in groups)]
        return {name: self.share([(group[name].num_right, group[name].n) for group in groups]) for name in names}


def method_name(record: Record) -> str:
    """Return the method of a record; latent-lora with alpha 0 has a name of its own, because it aligns nothing."""
    return "latent-lora-alpha0" if record.method == OURS and record.config.get("distill_alpha") == 0 else record.method


def cells_of(records: Iterable[Record], *, by: Axis | None = None, own: bool = False) -> list[CellRecords]:
    """Return the cells of the records, ordered by method, data set and value of the field.

    A run also grades reference methods (`base`, the teacher). Such an entry fills a cell only if no run of that method
    itself does.

    Args:
        records: Records of one study.
        by: Field or fields whose values separate cells. Fields that do not affect a method do not separate its cells,
            and `student` does not separate the teacher's.
        own: Leave out reference methods, and treat alpha 0 as a value, not as a method.

    Raises:
        UserError: If two runs of one cell and seed differ.
    """
    found: dict[tuple[str, str, str], CellRecords] = {}
    owned: dict[tuple[str, str, str, int], Record] = {}
    for record in records:
        for dataset in record.datasets:
            for name, entry in record.metrics[dataset].items():
                mine = name == record.method
                if own and not mine:
                    continue
                method = method_name(record) if mine and not own else name
                value = None if by is None else _value(record, by, of_teacher=_is_teacher(name))
                key = (method, dataset, json.dumps(value, sort_keys=True))
                cell = found.setdefault(key, CellRecords(method, dataset, value, entry["total_parameters"]))
                if mine:
                    if _is_known(owned, (*key, record.seed), record):
                        continue
                elif record.seed in cell.summaries:
                    _note_rival(cell, record, entry, by_itself=(*key, record.seed) in owned)
                    continue
                cell.summaries[record.seed] = Summary.from_json(entry["summary"])
                cell.outcomes[record.seed] = unpack_outcomes(entry["outcomes"])
                cell.total_parameters = entry["total_parameters"]
                if mine:
                    cell.rivals.pop(record.seed, None)
                    cell.costs[record.seed] = record.costs
    methods, datasets = in_order(cell.method for cell in found.values()), dataset_order(found.values())
    return sorted(
        found.values(),
        key=lambda cell: (methods.index(cell.method), datasets.index(cell.dataset), sort_key(cell.value)),
    )


def _note_rival(cell: CellRecords, record: Record, entry: Mapping[str, Any], *, by_itself: bool) -> None:
    """Note an accuracy that a run found for a reference method, if it is not that of the cell."""
    other, own = Summary.from_json(entry["summary"]), cell.summaries[record.seed]
    if not by_itself and other.n == own.n and abs(other.num_right - own.num_right) > _SAME_SHARE * own.n:
        cell.rivals.setdefault(record.seed, set()).add(other.num_right / other.n)


def rival_notes(found: Sequence[CellRecords]) -> list[str]:
    """Return a sentence for each reference method that runs of a study disagree on."""
    notes = []
    for cell in found:
        if cell.rivals:
            shares = ", ".join(f"{share:.1%}" for share in sorted(set().union(*cell.rivals.values())))
            notes.append(
                f"{method_style(cell.method).label} on {dataset_label(cell.dataset)} is that of the first run; other "
                f"runs have another base or teacher and found {shares}"
            )
    return notes


def dataset_order(found: Iterable[CellRecords]) -> list[str]:
    """Return the data sets in the order of the cells."""
    return list(dict.fromkeys(cell.dataset for cell in found))


def sort_key(value: Any) -> tuple[Any, ...]:
    """Return a sort key for values of a field: numbers by size, lists by length and entries, names by name."""
    if value is None:
        return (0,)
    if isinstance(value, bool | int | float):
        return (1, float(value))
    if isinstance(value, tuple):
        return (4, *map(sort_key, value))
    if isinstance(value, list):
        return (2, len(value), [float(part) for part in value if isinstance(part, int | float)])
    return (3, str(value))


def against_ours(found: Sequence[CellRecords]) -> dict[tuple[str, str], PairedTest]:
    """Return (method, data set) -> paired test of latent-lora (first) against that method (second)."""
    ours = {cell.dataset: cell for cell in found if cell.method == OURS}
    return {
        (cell.method, cell.dataset): paired_test(ours[cell.dataset].outcomes, cell.outcomes)
        for cell in found
        if cell.method != OURS and cell.dataset in ours
    }


def _is_teacher(method: str) -> bool:
    return method in METHODS and METHODS[method].is_teacher


def _value(record: Record, by: Axis, *, of_teacher: bool) -> Any:
    fields = (by,) if isinstance(by, str) else by

    def counts(field: str) -> bool:
        if of_teacher and field == "student":
            return False
        return has_use_for(record.method, field)

    values = tuple(record.config.get(field) if counts(field) else None for field in fields)
    return values[0] if isinstance(by, str) else values


def _is_known(owned: dict[tuple[str, str, str, int], Record], key: tuple[str, str, str, int], record: Record) -> bool:
    """Whether the cell already has a record that differs only in fields that do not affect its method.

    Raises:
        UserError: If it has one that differs in other fields.
    """
    other = owned.setdefault(key, record)
    if other is record:
        return False
    differing = [name for name in record.config if record.config[name] != other.config.get(name)]
    asked = [name for name in differing if name not in NO_RESULT]
    if asked and not any(has_use_for(record.method, name) for name in asked):
        return True
    raise UserError(
        f"two records of {record.method} on {key[1]} with seed {record.seed} belong to one cell; "
        f"they differ in {', '.join(differing) or 'nothing'}: keep one, or move them to separate studies"
    )
