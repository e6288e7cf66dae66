"""`lrd compare`: compare two runs, or two methods of a run, problem by problem, from their records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lrd_peft.evaluation.metrics import Summary, mcnemar, pair_by_id
from lrd_peft.evaluation.outcomes import unpack_outcomes
from lrd_peft.evaluation.records import read_record
from lrd_peft.runtime.errors import UserError


def compare(run_a: Path, run_b: Path) -> str:
    """Compare two runs on the data sets that both have, with McNemar's exact test (McNemar, Psychometrika 1947).

    Args:
        run_a: Run folder or record.
        run_b: Run folder or record.

    Returns:
        A line for each run and a line for each shared data set.

    Raises:
        UserError: If a record is missing, or the runs share no data set or were not graded on the same problems.
    """
    a, b = read_record(run_a), read_record(run_b)
    shared = [name for name in a.datasets if name in b.datasets]
    if not shared:
        raise UserError(f"the runs share no data set: {', '.join(a.datasets)} against {', '.join(b.datasets)}")
    lines = [f"a: {run_a} ({a.method})", f"b: {run_b} ({b.method})"]
    for name in shared:
        lines.append(f"{name}: {paired(a.metrics[name][a.method], b.metrics[name][b.method])}")
    if a.answers_version != b.answers_version:
        lines.append(f"note: graded by versions {a.answers_version} and {b.answers_version} of the answer rules")
    return "\n".join(lines)


def paired(a: dict[str, Any], b: dict[str, Any]) -> str:
    """Return one line that compares two entries of `Record.metrics`: accuracies, discordant problems, p-value."""
    first, second = Summary.from_json(a["summary"]), Summary.from_json(b["summary"])
    right_a, right_b = pair_by_id(unpack_outcomes(a["outcomes"]), unpack_outcomes(b["outcomes"]))
    test = mcnemar(right_a, right_b)
    return (
        f"a {first.accuracy:.1%} [{first.interval[0]:.1%}, {first.interval[1]:.1%}], "
        f"b {second.accuracy:.1%} [{second.interval[0]:.1%}, {second.interval[1]:.1%}], "
        f"only a right {test.only_a}, only b right {test.only_b}, n {len(right_a)}, p = {test.p_value:.2g}"
    )
