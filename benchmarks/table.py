"""Rows to Markdown. Knows no measurements."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.measure import Row

HEADER = (
    "| section | work | ours | other | threads | ours s | other s | ratio [range] | n | target "
    "| ours MB | other MB | load |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def table(rows: Sequence[Row], *, header: bool = True) -> str:
    """Return the rows as a Markdown table; "×" marks how many times as fast, without it lower is better."""
    lines = [HEADER] if header else []
    for row in rows:
        ratio = f"{row.ratio:.3g}" + ("" if row.is_cost else "×")
        if row.num_repeats > 1:
            ratio += f" [{row.low:.3g}, {row.high:.3g}]"
        other = "" if row.other_seconds != row.other_seconds else f"{row.other_seconds:.3g}"
        cells = (
            row.section,
            row.work,
            row.ours,
            row.other,
            str(row.threads),
            f"{row.ours_seconds:.3g}",
            other,
            ratio,
            str(row.num_repeats),
            row.target,
            _megabytes(row.ours_bytes),
            _megabytes(row.other_bytes),
            f"{row.load:.1f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _megabytes(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:.0f}"


def page(text: str, record: Mapping[str, Any]) -> str:
    """Return a page with the parts between its markers `<!-- NAME -->` and `<!-- /NAME -->` made from a record."""
    rows = [Row(**row) for row in record["rows"]]
    machine = record["environment"]
    described = ", ".join(f"{name} {machine[name]}" for name in ("processor", "python") if machine.get(name))
    parts = {
        "machine": (
            f"{described}, {record['cores']} cores; load {record['load_before']:.1f} before and "
            f"{record['load_after']:.1f} after; "
            f"{record['clock']} clock; the whole run took {record['wall_seconds'] / 60:.1f} minutes."
        ),
        "ratios": table(rows),
        "profile": "\n".join(
            ["| operation | share of the step |", "|---|---|"]
            + [f"| `{name}` | {share:.1%} |" for name, share in record["operations"]]
        ),
    }
    for name, part in parts.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"the page has no part {name}")
        text = pattern.sub(lambda found, part=part: f"{found[1]}{part}\n{found[2]}", text)
    return text
