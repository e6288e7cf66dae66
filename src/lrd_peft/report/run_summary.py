"""`lrd show`: the results of a run as a table, from its record."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from lrd_peft.evaluation.ablation_results import Ablations
from lrd_peft.evaluation.metrics import McNemar, Summary, mcnemar, pair_by_id
from lrd_peft.evaluation.outcomes import unpack_outcomes
from lrd_peft.evaluation.probe_results import Probes
from lrd_peft.evaluation.records import Record, read_record
from lrd_peft.report.style import in_order, method_style
from lrd_peft.runtime.json_files import read_optional


def show(run: Path) -> str:
    """Return the results of a finished run as plain text, and what its ablation and its probes say, if it has them.

    Args:
        run: Run folder or record.

    Raises:
        UserError: If there is no record, or if a file cannot be read.
    """
    text = render(read_record(run))
    folder = run if run.is_dir() else run.parent
    ablations, probes = read_optional(folder / "ablation.json", Ablations), read_optional(folder / "probe.json", Probes)
    looks = (*(ablations.found if ablations else ()), *(probes.found if probes else ()))
    return "\n\n".join([text, *(told(f"{look.verdict()}.") for look in looks)])


def render(record: Record) -> str:
    """Return one table per data set with paired tests, what the methods are, and the time that the run took."""
    blocks = [f"{render_dataset(record, dataset)}\n" for dataset in record.datasets]
    if verdicts := [line for dataset in record.datasets if (line := run_verdict(record, dataset))]:
        blocks.append("\n".join(verdicts) + "\n")
    methods = in_order(dict.fromkeys(method for entries in record.metrics.values() for method in entries))
    blocks += [f"{method}: {method_style(method).description}" for method in methods]
    blocks += grading_notes([record])
    seconds = ", ".join(f"{phase} {value:.0f} s" for phase, value in record.costs.wall_seconds.items())
    blocks.append(f"wall time: {seconds}; seed {record.seed}")
    return "\n".join(blocks)


def render_dataset(record: Record, dataset: str) -> str:
    """Return the table of one data set, and paired tests of the run's method against each of the others."""
    entries = record.metrics[dataset]
    first = Summary.from_json(entries[in_order(entries)[0]]["summary"])
    table = Table(
        title=f"{dataset} (n = {first.n} held-out problems, 95% intervals)", title_justify="left", box=box.SIMPLE_HEAD
    )
    table.add_column("method")
    for name in ("accuracy", "interval", "tokens", "thoughts", "passes", "ms/problem", "unparsed", "parameters"):
        table.add_column(name, justify="right")
    for method in in_order(entries):
        entry = entries[method]
        summary = Summary.from_json(entry["summary"])
        low, high = summary.interval
        table.add_row(
            method,
            f"{summary.accuracy:.1%}",
            f"{low:.1%} to {high:.1%}",
            f"{summary.mean_tokens:.1f}",
            f"{summary.mean_thoughts:.0f}",
            f"{summary.mean_passes:.1f}",
            f"{summary.seconds_per_problem * 1000:.1f}",
            str(summary.num_unparsed),
            f"{entry['total_parameters']:,}",
        )
    return "\n".join([table_text(table), *_paired_lines(record, dataset)])


def run_verdict(record: Record, dataset: str) -> str:
    """Return one sentence on the run's own method against the others; empty if it was not graded or is alone.

    A difference counts if the paired test gives p < 0.05.
    """
    entries = record.metrics[dataset]
    if record.method not in entries or len(entries) == 1:
        return ""
    own = Summary.from_json(entries[record.method]["summary"])
    words: dict[str, list[str]] = {"above": [], "below": [], "not distinguishable from": []}
    for method, test in _paired_tests(record, dataset).items():
        other = Summary.from_json(entries[method]["summary"])
        place = "above" if own.accuracy > other.accuracy else "below"
        if test.p_value >= 0.05:
            place = "not distinguishable from"
        passes = f" after {other.mean_passes:.1f} passes" if method != "base" else ""
        words[place].append(f"{method} ({other.accuracy:.1%}{passes})")
    compared = ", ".join(f"{place} {' and '.join(methods)}" for place, methods in words.items() if methods)
    sentence = (
        f"{dataset}: {record.method} answers {own.accuracy:.1%} of the held-out problems right after "
        f"{own.mean_passes:.1f} sequential passes each, {compared}."
    )
    return told(sentence)


def told(sentence: str) -> str:
    """Return a sentence wrapped for the terminal, its further lines indented."""
    return textwrap.fill(sentence, 118, subsequent_indent="  ")


def grading_notes(records: Sequence[Record]) -> list[str]:
    """Return what a reader must know about the grading: comparisons that reached a limit, and rules of two versions."""
    notes = []
    timeouts = sum(
        entry["summary"].get("num_timeouts", 0)
        for record in records
        for entries in record.metrics.values()
        for entry in entries.values()
    )
    if timeouts:
        notes.append(
            f"{timeouts} comparisons of answers reached the limit of processor time or memory and count as wrong"
        )
    versions = sorted({record.answers_version for record in records})
    if len(versions) > 1:
        notes.append(f"graded by versions {' and '.join(map(str, versions))} of the answer rules, which may differ")
    return notes


def _paired_lines(record: Record, dataset: str) -> list[str]:
    return [
        f"{record.method} against {method}: {test.only_a} solved only by the first, {test.only_b} only by the "
        f"second, p = {test.p_value:.2g} (McNemar, exact)"
        for method, test in _paired_tests(record, dataset).items()
    ]


def _paired_tests(record: Record, dataset: str) -> dict[str, McNemar]:
    """Return the test of the run's own method against each other one; empty if it was not graded."""
    entries = record.metrics[dataset]
    if record.method not in entries:
        return {}
    own = unpack_outcomes(entries[record.method]["outcomes"])
    return {
        method: mcnemar(*pair_by_id(own, unpack_outcomes(entries[method]["outcomes"])))
        for method in in_order(entries)
        if method != record.method
    }


def table_text(table: Table) -> str:
    """Return a table of rich as plain lines of at most 120 characters."""
    buffer = io.StringIO()
    Console(file=buffer, width=120, no_color=True).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines() if line.strip())
