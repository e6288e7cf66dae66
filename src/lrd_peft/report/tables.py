"""The table of a run, from its record alone."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lrd_peft.errors import UserError
from lrd_peft.evaluation.metrics import Summary, mcnemar, pair_by_id
from lrd_peft.records import Record, read_record, unpack_outcomes
from lrd_peft.report.style import in_order, method_style


def show(run: Path) -> str:
    """Return the table of a finished run (a folder or a record.json) as plain text.

    Raises:
        UserError: if it has no record.
    """
    path = run / "record.json" if run.is_dir() else run
    if not path.is_file():
        raise UserError(f"{run} has no record.json: the run is not finished, the same `lrd run` command goes on")
    return render(read_record(path))


def render(record: Record) -> str:
    """Return a table for each data set, and the paired tests of the run's method against the others."""
    blocks = []
    for dataset in record.datasets:
        entries = record.metrics[dataset]
        first = Summary.from_dict(entries[in_order(entries)[0]]["summary"])
        table = Table(title=f"{dataset}  (n = {first.n} held-out problems, 95% intervals)", title_justify="left")
        table.add_column("method")
        table.add_column("what it is")
        for name in (
            "accuracy",
            "interval",
            "tokens",
            "thoughts",
            "passes",
            "ms/problem",
            "unparsed",
            "parameters",
        ):
            table.add_column(name, justify="right")
        for method in in_order(entries):
            entry = entries[method]
            summary = Summary.from_dict(entry["summary"])
            low, high = summary.interval
            table.add_row(
                method,
                method_style(method).description,
                f"{summary.accuracy:.1%}",
                f"{low:.1%} to {high:.1%}",
                f"{summary.mean_tokens:.1f}",
                f"{summary.mean_thoughts:.0f}",
                f"{summary.mean_passes:.1f}",
                f"{summary.seconds_per_problem * 1000:.1f}",
                str(summary.num_unparsed),
                f"{entry['total_parameters']:,}",
            )
        blocks.append(_text(table))
        blocks += _paired_lines(record, dataset)
    seconds = ", ".join(f"{phase} {value:.0f} s" for phase, value in record.costs.wall_seconds.items())
    blocks.append(f"wall time: {seconds}; seed {record.seed}")
    return "\n".join(blocks)


def _paired_lines(record: Record, dataset: str) -> list[str]:
    entries = record.metrics[dataset]
    if record.method not in entries:
        return []
    own = unpack_outcomes(entries[record.method]["outcomes"])
    lines = []
    for method in in_order(entries):
        entry = entries[method]
        if method != record.method:
            right, other = pair_by_id(own, unpack_outcomes(entry["outcomes"]))
            test = mcnemar(right, other)
            lines.append(
                f"{record.method} against {method}: only it right {test.only_a}, only the other {test.only_b}, "
                f"p = {test.p_value:.2g} (McNemar, exact)"
            )
    return lines


def _text(table: Table) -> str:
    buffer = io.StringIO()
    Console(file=buffer, width=140, no_color=True).print(table)
    return buffer.getvalue().rstrip()
