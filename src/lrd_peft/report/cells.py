"""Groups records: one cell is one method on one data set in one configuration, over seeds. Knows no files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from lrd_peft.config.identity import NO_RESULT, has_use_for
from lrd_peft.errors import UserError
from lrd_peft.evaluation.metrics import Summary
from lrd_peft.methods import METHODS
from lrd_peft.records import Costs, Record, unpack_outcomes
from lrd_peft.report.estimates import Estimate, PairedTest, mean_estimate, paired_test, share_estimate
from lrd_peft.report.style import OURS, in_order

# A configuration field, or several of which each combination is a value.
Axis: TypeAlias = str | tuple[str, ...]


class NothingToDraw(UserError):
    """The records hold nothing for this figure or table; the message says what is missing."""


@dataclass(slots=True)
class Cell:
    """One method on one data set in one configuration.

    Attributes:
        method: its name; `latent-lora-alpha0` where latent-lora ran without the alignment.
        dataset: the data set's name.
        value: of the field by which cells were asked for, as JSON has it, a tuple for several; None if none was.
        summaries: seed -> summary, over the same held-out problems.
        outcomes: seed -> problem id -> right.
        costs: seed -> what the run of this very method used; no entry where another method's run measured it.
        total_parameters: of the model that answers.
    """

    method: str
    dataset: str
    value: Any
    total_parameters: int
    summaries: dict[int, Summary] = field(default_factory=dict)
    outcomes: dict[int, dict[str, bool]] = field(default_factory=dict)
    costs: dict[int, Costs] = field(default_factory=dict)

    @property
    def accuracy(self) -> Estimate:
        """Mean accuracy over seeds; see `share_estimate` for the interval."""
        return self.share([(summary.num_right, summary.n) for summary in self.summaries.values()])

    @property
    def num_seeds(self) -> int:
        """Seeds that were measured."""
        return len(self.summaries)

    def by_steps(self) -> dict[int, Estimate]:
        """Return accuracy by number of steps, for groups that every seed has."""
        return self._groups([summary.by_steps for summary in self.summaries.values()])

    def by_subject(self) -> dict[str, Estimate]:
        """Return accuracy by subject, for groups that every seed has."""
        return self._groups([summary.by_subject for summary in self.summaries.values()])

    def mean(self, name: str) -> Estimate:
        """Return the mean over seeds of a number of the summary, such as `mean_passes`."""
        return mean_estimate([getattr(summary, name) for summary in self.summaries.values()])

    def training_seconds(self) -> Estimate | None:
        """Return the time of the method's own training: the student's, or the teacher's where that is the method.

        None where no run of this method left its costs, or it trains nothing.
        """
        phase = "teacher" if _is_teacher(self.method) else "student"
        times = [costs.wall_seconds.get(phase, 0.0) for costs in self.costs.values()]
        return mean_estimate(times) if times and max(times) > 0 else None

    def share(self, counts: Sequence[tuple[int, int]]) -> Estimate:
        """Return the mean share of (right, n) a seed."""
        sizes = {n for _, n in counts}
        if len(sizes) != 1:
            raise UserError(
                f"{self.method} on {self.dataset} was measured on {' and '.join(map(str, sorted(sizes)))} problems; "
                f"records of one study need the same held-out problems"
            )
        return share_estimate([right for right, _ in counts], sizes.pop())

    def _groups(self, groups: Sequence[Mapping[Any, Any]]) -> dict[Any, Estimate]:
        names = [name for name in groups[0] if all(name in group for group in groups)]
        return {name: self.share([(group[name].num_right, group[name].n) for group in groups]) for name in names}


def method_name(record: Record) -> str:
    """Return the method of a record, told from its own ablation: latent-lora with alpha = 0 aligns nothing."""
    return "latent-lora-alpha0" if record.method == OURS and record.config.get("distill_alpha") == 0 else record.method


def cells(records: Iterable[Record], *, by: Axis | None = None, own: bool = False) -> list[Cell]:
    """Return the cells of the records, in the order of methods, data sets and values of the field.

    A run also measures methods beside its own (`base`, the teacher). Such an entry fills a cell only where no run of
    that method itself did.

    Args:
        records: of one study.
        by: cells are kept apart by its value. The teacher's cells are not, by `student`, nor those of a method by a
            field that its loss has no use for.
        own: leave out what a run measured beside its own method, and take alpha = 0 as a value, not as a method.

    Raises:
        UserError: if two runs of one cell and seed differ.
    """
    found: dict[tuple[str, str, str], Cell] = {}
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
                cell = found.setdefault(key, Cell(method, dataset, value, entry["total_parameters"]))
                if mine:
                    if _is_known(owned, (*key, record.seed), record):
                        continue
                elif record.seed in cell.summaries:
                    continue
                cell.summaries[record.seed] = Summary.from_dict(entry["summary"])
                cell.outcomes[record.seed] = unpack_outcomes(entry["outcomes"])
                cell.total_parameters = entry["total_parameters"]
                if mine:
                    cell.costs[record.seed] = record.costs
    methods, datasets = in_order(cell.method for cell in found.values()), dataset_order(found.values())
    return sorted(
        found.values(),
        key=lambda cell: (methods.index(cell.method), datasets.index(cell.dataset), sort_key(cell.value)),
    )


def dataset_order(found: Iterable[Cell]) -> list[str]:
    """Return the data sets in the order in which the records name them."""
    return list(dict.fromkeys(cell.dataset for cell in found))


def sort_key(value: Any) -> tuple[Any, ...]:
    """Order the values of a field: numbers by size, lists by their first and last entry, names by name."""
    if value is None:
        return (0,)
    if isinstance(value, bool | int | float):
        return (1, float(value))
    if isinstance(value, tuple):
        return (4, *map(sort_key, value))
    if isinstance(value, list):
        return (2, len(value), [float(part) for part in value if isinstance(part, int | float)])
    return (3, str(value))


def against_ours(found: Sequence[Cell]) -> dict[tuple[str, str], PairedTest]:
    """Return (method, data set) -> the paired test of latent-lora (first) against that method (second)."""
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
    """Whether the cell has its record already: one that differs only in fields that its method has no use for.

    Raises:
        UserError: if it has one that differs in more.
    """
    other = owned.setdefault(key, record)
    if other is record:
        return False
    differing = [name for name in record.config if record.config[name] != other.config.get(name)]
    asked = [name for name in differing if name not in NO_RESULT]
    if asked and not any(has_use_for(record.method, name) for name in asked):
        return True
    raise UserError(
        f"two records of {record.method} on {key[1]} with seed {record.seed} stand for one cell; "
        f"they differ in {', '.join(differing) or 'nothing'}: keep one, or put them into studies of their own"
    )
