"""Tables from records as Markdown, LaTeX and CSV: main results, their details, one run, one study, costs."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrd_peft.evaluation.metrics import Summary
from lrd_peft.evaluation.records import Record
from lrd_peft.evaluation.study_description import TunedCell
from lrd_peft.report.cells import Axis, CellRecords, NothingToDraw, against_ours, cells_of, dataset_order, rival_notes
from lrd_peft.report.estimates import Estimate, PairedTest
from lrd_peft.report.reference import CLAIMED, LABEL
from lrd_peft.report.run_summary import grading_notes
from lrd_peft.report.style import OURS, dataset_label, field_label, in_order, method_style

_BETWEEN = " / "


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text.

    Attributes:
        header: names of the columns.
        rows: as many texts each.
        note: what the reader must know.
        best: (row, column) of the best values of the columns, shown in bold.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    best: frozenset[tuple[int, int]] = frozenset()

    def markdown(self) -> str:
        """Return a GitHub table."""
        rows = self._marked(lambda text: text.replace("|", "\\|"), "**{}**")
        header = [text.replace("|", "\\|") for text in self.header]
        lines = [header, ["---"] * len(header), *rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"

    def csv(self) -> str:
        """Return comma-separated values with Unix line ends."""
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([self.header, *self.rows])
        return buffer.getvalue()

    def latex(self) -> str:
        """Return a tabular in booktabs style."""
        lines = [
            "\\begin{tabular}{" + "l" + "r" * (len(self.header) - 1) + "}",
            "\\toprule",
            " & ".join(map(_latex_text, self.header)) + " \\\\",
            "\\midrule",
            *(" & ".join(row) + " \\\\" for row in self._marked(_latex_text, "\\textbf{{{}}}")),
            "\\bottomrule",
            "\\end{tabular}",
        ]
        return "\n".join(lines) + "\n"

    def _marked(self, escape: Callable[[str], str], bold: str) -> list[list[str]]:
        return [
            [bold.format(escape(text)) if (r, c) in self.best else escape(text) for c, text in enumerate(row)]
            for r, row in enumerate(self.rows)
        ]


def main_table(records: Sequence[Record], *, reference: bool = False) -> Table:
    """Return table 1: methods x data sets, accuracy with its interval, generated tokens and sequential passes.

    Means over seeds; the interval is that of `share_estimate` (Wilson over problems or Student's t over seeds, the
    wider one at either end). `detail_table` has tests, costs and sizes.

    Args:
        records: of one study.
        reference: add SPEC.md's numbers, labeled as claims that were not measured here.

    Raises:
        NothingToDraw: if no record holds a measured method.
    """
    found = _found(records)
    datasets = dataset_order(found)
    rows, values = [], []
    for method, own in _by_method(found).items():
        numbers = [own[dataset].accuracy.mean if dataset in own else None for dataset in datasets]
        costs = [
            _average(cell.mean("mean_tokens").mean for cell in own.values()),
            _average(cell.mean("mean_passes").mean for cell in own.values()),
        ]
        shown = [with_interval(own[dataset].accuracy) if dataset in own else "" for dataset in datasets]
        rows.append((method_style(method).label, _kind(method), *shown, *(f"{cost:.1f}" for cost in costs)))
        values.append([*numbers, *(-cost for cost in costs)])
    best = _best(values, first=2)
    if reference:
        rows += [_claimed_row(name, len(datasets) + 4) for name in CLAIMED]
    sizes = sorted({summary.n for cell in found for summary in cell.summaries.values()})
    note = (
        f"Accuracy on {' or '.join(map(str, sizes))} held-out problems per set with its 95% interval; tokens and "
        "sequential model passes per problem. Bold: best of the column."
    )
    note += "".join(f" Note: {line}." for line in (*grading_notes(records), *rival_notes(found)))
    header = ("method", "type", *map(dataset_label, datasets), "tokens", "passes")
    return Table(header, tuple(rows), note, best)


def detail_table(records: Sequence[Record]) -> Table:
    """Return what table 1 leaves out: mean accuracy, paired tests against latent-lora, seeds, sizes and times.

    p is two-sided over the problems (McNemar for one seed, else a paired t-test over problems) and, after a slash,
    over the seeds if there are several; it is not corrected for the number of tests.

    Raises:
        NothingToDraw: if no record holds a measured method.
    """
    found = _found(records)
    datasets, tests = dataset_order(found), against_ours(found)
    rows = []
    for method, own in _by_method(found).items():
        cell = next(iter(own.values()))
        complete = len(own) == len(datasets)
        rows.append(
            (
                method_style(method).label,
                f"{_average(each.accuracy.mean for each in own.values()):.1%}" if complete else "",
                *(p_values(tests.get((method, dataset))) for dataset in datasets),
                str(min(each.num_seeds for each in own.values())),
                f"{cell.total_parameters:,}",
                _trained(cell),
                _duration(cell.training_seconds()),
                _duration(cell.total_seconds()),
                f"{1000 * _average(each.mean('seconds_per_problem').mean for each in own.values()):.1f}",
            )
        )
    header = (
        *("method", "mean accuracy"),
        *(f"p, {dataset_label(dataset)}" for dataset in datasets),
        *("seeds", "parameters", "trained", "own training", "with teacher", "ms per problem"),
    )
    note = (
        f"p: paired against {method_style(OURS).label}, over problems / over seeds, not corrected for the number of "
        "tests. With teacher: own training plus the teacher and the store that it needs."
    )
    note += "".join(f" Note: {line}." for line in rival_notes(found))
    return Table(header, tuple(rows), note)


def run_table(record: Record) -> Table:
    """Return the table of one run: one row per data set and method."""
    rows = []
    for dataset in record.datasets:
        for method in in_order(record.metrics[dataset]):
            summary = Summary.from_json(record.metrics[dataset][method]["summary"])
            rows.append(
                (
                    dataset,
                    f"`{method}`",
                    f"{summary.accuracy:.1%}",
                    f"{summary.interval[0]:.1%} to {summary.interval[1]:.1%}",
                    f"{summary.mean_tokens:.1f}",
                    f"{summary.mean_passes:.1f}",
                    f"{summary.seconds_per_problem * 1000:.1f}",
                )
            )
    return Table(("data set", "method", "accuracy", "95% interval", "tokens", "passes", "ms per problem"), tuple(rows))


def sweep_table(records: Sequence[Record], axis: Axis) -> Table:
    """Return the table of a study: one row per value of its field (or fields) and method, one column per data set."""
    found = cells_of(records, by=axis, own=True)
    datasets = dataset_order(found)
    keys = list(dict.fromkeys((cell.method, value_label(cell.value)) for cell in found))
    rows = []
    for method, value in keys:
        own = {c.dataset: c for c in found if c.method == method and value_label(c.value) == value}
        seeds = min(cell.num_seeds for cell in own.values())
        shown = [with_interval(own[dataset].accuracy) if dataset in own else "" for dataset in datasets]
        rows.append((value, method_style(method).label, *shown, str(seeds)))
    return Table((axis_label(axis), "method", *map(dataset_label, datasets), "seeds"), tuple(rows))


def tuning_table(tuned: Sequence[TunedCell]) -> Table:
    """Return what a study chose on validation problems: one row per cell, one column per combination of values."""
    points = list(dict.fromkeys(_point(trial.values) for cell in tuned for trial in cell.trials))
    rows, best = [], set()
    for row, cell in enumerate(tuned):
        found = {_point(trial.values): trial.accuracy for trial in cell.trials}
        rows.append((cell_label(cell.cell), *(f"{found[point]:.1%}" if point in found else "" for point in points)))
        best.add((row, 1 + points.index(_point(cell.values))))
    note = "Accuracy on validation problems, one seed. Bold: chosen for the cell."
    return Table(("cell", *points), tuple(rows), note, frozenset(best))


def cell_label(cell: str) -> str:
    """Return "latent-lora, distill_alpha 0" for "method=latent-lora,distill_alpha=0"."""
    return cell.removeprefix("method=").replace(",", ", ").replace("=", " ")


def _point(values: Mapping[str, Any]) -> str:
    return _BETWEEN.join(f"{field_label(field)} {value_label(value)}" for field, value in values.items())


def axis_label(axis: Axis) -> str:
    """Return the name of an axis; of several fields, all names."""
    return _BETWEEN.join(map(field_label, (axis,) if isinstance(axis, str) else axis))


def value_label(value: object) -> str:
    """Return a configuration value as an axis shows it: layers as ranges, numbers short."""
    if isinstance(value, tuple):
        return _BETWEEN.join(map(value_label, value))
    if isinstance(value, list):
        if len(value) > 2 and all(isinstance(part, int) for part in value):
            low, high = min(value), max(value)
            if value == list(range(low, high + 1)):
                return f"{low}–{high}"
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)


def with_interval(share: Estimate) -> str:
    """Return "61.2% [57.0, 65.2]"."""
    return f"{share.mean:.1%} [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def p_text(p: float) -> str:
    """Return a p-value with two significant digits."""
    return "<0.0001" if p < 1e-4 else f"{p:.2g}"


def p_values(test: PairedTest | None) -> str:
    """Return "p over the problems / p over the seeds", or the first alone; "" without a test."""
    if test is None:
        return ""
    seeds = "" if test.p_seeds is None else f" / {p_text(test.p_seeds)}"
    return p_text(test.p_problems) + seeds


def cost_table(records: Sequence[Record]) -> Table:
    """Return the resources that the runs of each method used: mean seconds per phase, peak memory, parameters."""
    first: dict[str, CellRecords] = {}
    for cell in cells_of(records):
        if cell.costs:
            first.setdefault(cell.method, cell)
    phases = list(
        dict.fromkeys(phase for cell in first.values() for c in cell.costs.values() for phase in c.wall_seconds)
    )
    rows = []
    for method, cell in first.items():
        costs = list(cell.costs.values())
        memory = [each.peak_memory_bytes for each in costs if each.peak_memory_bytes is not None]
        rows.append(
            (
                method_style(method).label,
                *(
                    _seconds([each.wall_seconds[phase] for each in costs if phase in each.wall_seconds])
                    for phase in phases
                ),
                f"{sum(memory) / len(memory) / 2**20:,.0f} MiB" if memory else "",
                f"{costs[0].trainable_parameters:,}",
                f"{costs[0].total_parameters:,}",
            )
        )
    return Table(("method", *phases, "peak memory", "trained", "parameters"), tuple(rows))


def _found(records: Sequence[Record]) -> list[CellRecords]:
    found = cells_of(records)
    if not found:
        raise NothingToDraw("no record holds a measured method")
    return found


def _by_method(found: Sequence[CellRecords]) -> dict[str, dict[str, CellRecords]]:
    """Return method -> data set -> cell, in the order of methods."""
    return {
        method: {cell.dataset: cell for cell in found if cell.method == method}
        for method in in_order(cell.method for cell in found)
    }


def _kind(method: str) -> str:
    return "latent" if method_style(method).latent else "text"


def _best(values: Sequence[Sequence[float | None]], *, first: int) -> frozenset[tuple[int, int]]:
    """Return (row, column) of the largest value of each column; `first` is the table's column of the first value."""
    best = set()
    for column, numbers in enumerate(zip(*values, strict=True)):
        known = [number for number in numbers if number is not None]
        if len(values) > 1 and known:
            best |= {(row, first + column) for row, number in enumerate(numbers) if number == max(known)}
    return frozenset(best)


def _seconds(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):,.0f} s" if values else ""


def _trained(cell: CellRecords) -> str:
    return f"{next(iter(cell.costs.values())).trainable_parameters:,}" if cell.costs else ""


def _duration(seconds: Estimate | None) -> str:
    if seconds is None:
        return ""
    if seconds.mean < 120:
        return f"{seconds.mean:.0f} s"
    return f"{seconds.mean / 60:.1f} min" if seconds.mean < 7200 else f"{seconds.mean / 3600:.1f} h"


def _claimed_row(name: str, width: int) -> tuple[str, ...]:
    claim = CLAIMED[name]
    text = ", ".join(f"{dataset} {share:.1%}" for dataset, share in claim.accuracy.items())
    return (f"{LABEL}: {method_style(name).label}: {text}", *[""] * (width - 1))


def _average(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def _latex_text(text: str) -> str:
    special = {"\\": "\\textbackslash{}", "α": "$\\alpha$", "–": "--", "<": "$<$"} | {c: "\\" + c for c in "&%_#${}"}
    return "".join(special.get(character, character) for character in text)
