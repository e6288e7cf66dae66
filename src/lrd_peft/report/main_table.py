"""Tables from records, as Markdown, LaTeX and CSV: the main results, a single run, a study's sweep. Draws nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lrd_peft.evaluation.metrics import Summary
from lrd_peft.records import Record
from lrd_peft.report.cells import Axis, Cell, NothingToDraw, against_ours, cells, dataset_order
from lrd_peft.report.estimates import Estimate, PairedTest
from lrd_peft.report.reference import CLAIMED, LABEL
from lrd_peft.report.style import OURS, dataset_label, field_label, in_order, method_style

_BETWEEN = " / "


@dataclass(frozen=True, slots=True)
class Table:
    """Text in rows, ready to be written down.

    Attributes:
        header: names of the columns.
        rows: as many texts each.
        note: what the reader must know.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        """Return a GitHub table."""
        lines = [self.header, tuple("---" for _ in self.header), *self.rows]
        return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines) + "\n"

    def csv(self) -> str:
        """Return comma-separated values, unix line ends."""
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
            *(" & ".join(map(_latex_text, row)) + " \\\\" for row in self.rows),
            "\\bottomrule",
            "\\end{tabular}",
        ]
        return "\n".join(lines) + "\n"


def main_table(records: Sequence[Record], *, reference: bool = False) -> Table:
    """Return table 1: methods x data sets, accuracy with its interval and the paired test against latent-lora.

    Mean over seeds; the interval is that of `share_estimate` (Wilson over the problems, Student's t over the seeds, the
    wider at either end). p is two-sided over the problems (McNemar for one seed, else a paired t-test over problems)
    and, after a slash, over the seeds where there are several; not corrected for their number.

    Args:
        records: of one study.
        reference: add SPEC.md's numbers, labelled as claims that nobody measured here.
    """
    found = cells(records)
    if not found:
        raise NothingToDraw("no record holds a measured method")
    datasets, tests = dataset_order(found), against_ours(found)
    header = ["method", "answers in"]
    for dataset in datasets:
        header += [dataset_label(dataset), f"p, {dataset_label(dataset)}"]
    header += ["mean", "seeds", "parameters", "trained", "training", "passes", "ms a problem"]
    rows = []
    for method in in_order(cell.method for cell in found):
        own = {cell.dataset: cell for cell in found if cell.method == method}
        row = [method_style(method).label, "thoughts" if method_style(method).thinks else "text"]
        for dataset in datasets:
            test = tests.get((method, dataset))
            row += [with_interval(own[dataset].accuracy) if dataset in own else "", p_values(test)]
        any_cell = next(iter(own.values()))
        complete = len(own) == len(datasets)
        row += [
            f"{_average(cell.accuracy.mean for cell in own.values()):.1%}" if complete else "",
            str(min(cell.num_seeds for cell in own.values())),
            f"{any_cell.total_parameters:,}",
            _trained(any_cell),
            _duration(any_cell.training_seconds()),
            f"{_average(cell.mean('mean_passes').mean for cell in own.values()):.1f}",
            f"{1000 * _average(cell.mean('seconds_per_problem').mean for cell in own.values()):.1f}",
        ]
        rows.append(tuple(row))
    if reference:
        rows += [_claimed_row(name, len(header)) for name in CLAIMED]
    sizes = sorted({summary.n for cell in found for summary in cell.summaries.values()})
    note = (
        f"n = {' or '.join(map(str, sizes))} held-out problems a set; accuracy with its 95% interval; "
        f"p: paired against {method_style(OURS).label}, over problems / over seeds, not corrected for their number."
    )
    return Table(tuple(header), tuple(rows), note)


def run_table(record: Record) -> Table:
    """Return the table of one run: a row for each data set and method."""
    rows = []
    for dataset in record.datasets:
        for method in in_order(record.metrics[dataset]):
            summary = Summary.from_dict(record.metrics[dataset][method]["summary"])
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
    return Table(("set", "method", "accuracy", "95% interval", "tokens", "model passes", "ms a problem"), tuple(rows))


def sweep_table(records: Sequence[Record], axis: Axis) -> Table:
    """Return a row for each value of a field (or several) and method, a column for each data set."""
    found = cells(records, by=axis, own=True)
    datasets = dataset_order(found)
    keys = list(dict.fromkeys((cell.method, value_label(cell.value)) for cell in found))
    rows = []
    for method, value in keys:
        own = {c.dataset: c for c in found if c.method == method and value_label(c.value) == value}
        seeds = min(cell.num_seeds for cell in own.values())
        shown = [with_interval(own[dataset].accuracy) if dataset in own else "" for dataset in datasets]
        rows.append((value, method_style(method).label, *shown, str(seeds)))
    return Table((axis_label(axis), "method", *map(dataset_label, datasets), "seeds"), tuple(rows))


def axis_label(axis: Axis) -> str:
    """Return the name of an axis; of several fields that of each."""
    return _BETWEEN.join(map(field_label, (axis,) if isinstance(axis, str) else axis))


def value_label(value: object) -> str:
    """Return how a configuration's value stands on an axis: layers as ranges, numbers short."""
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
    """Return a p-value with two digits that count."""
    return "<0.0001" if p < 1e-4 else f"{p:.2g}"


def p_values(test: PairedTest | None) -> str:
    """Return "p over the problems / p over the seeds", as far as there are such; "" without a test."""
    if test is None:
        return ""
    seeds = "" if test.p_seeds is None else f" / {p_text(test.p_seeds)}"
    return p_text(test.p_problems) + seeds


def _trained(cell: Cell) -> str:
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
