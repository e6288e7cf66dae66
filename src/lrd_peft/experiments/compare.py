"""Two methods, or two runs, problem by problem. Knows records only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lrd_peft.errors import UserError
from lrd_peft.evaluation.metrics import Summary, mcnemar, pair_by_id
from lrd_peft.records import read_record, unpack_outcomes


def _record_path(run: Path) -> Path:
    path = run / "record.json" if run.is_dir() else run
    if not path.is_file():
        raise UserError(f"{run} has no record.json; the run is not finished (`lrd run` with the same flags goes on)")
    return path


def compare(run_a: Path, run_b: Path) -> str:
    """Return the paired comparison of two runs' students on the data sets and problems that both have.

    McNemar's exact test: of the problems that only one of the two got right, how many went either way.

    Raises:
        UserError: if a record is missing, or they share no data set.
    """
    a, b = read_record(_record_path(run_a)), read_record(_record_path(run_b))
    shared = [name for name in a.datasets if name in b.datasets]
    if not shared:
        raise UserError(f"the runs share no data set: {', '.join(a.datasets)} against {', '.join(b.datasets)}")
    lines = [f"a: {run_a} ({a.method})", f"b: {run_b} ({b.method})"]
    for name in shared:
        lines.append(f"{name}: {paired(a.metrics[name][a.method], b.metrics[name][b.method])}")
    return "\n".join(lines)


def paired(a: dict[str, Any], b: dict[str, Any]) -> str:
    """Return one line that compares two entries of a record's metrics."""
    first, second = Summary.from_dict(a["summary"]), Summary.from_dict(b["summary"])
    right_a, right_b = pair_by_id(unpack_outcomes(a["outcomes"]), unpack_outcomes(b["outcomes"]))
    test = mcnemar(right_a, right_b)
    return (
        f"a {first.accuracy:.1%} [{first.interval[0]:.1%}, {first.interval[1]:.1%}], "
        f"b {second.accuracy:.1%} [{second.interval[0]:.1%}, {second.interval[1]:.1%}], "
        f"only a right {test.only_a}, only b right {test.only_b}, n {len(right_a)}, p = {test.p_value:.2g}"
    )
