"""The ratios of a record as a figure: how many times as fast, with the range over repeats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from benchmarks.measure import Row
from benchmarks.training_step import CACHED
from lrd_peft.report.style import BLUE, GREY, ORANGE

TICKS = (1, 2, 5, 10, 20, 50)
STYLE: Any = {"svg.hashsalt": "lrd-peft", "svg.fonttype": "none", "font.size": 9.0}


def speeds(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that say how many times as fast, with the most threads that each was measured with."""
    found: dict[tuple[str, ...], Row] = {}
    for row in rows:
        if row.is_cost:
            continue
        key = (row.section, row.work, row.ours, row.other)
        if key not in found or row.threads > found[key].threads:
            found[key] = row
    order = list(dict.fromkeys(row.section for row in rows))
    return sorted(found.values(), key=lambda row: order.index(row.section))


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write the figure (SVG, the same bytes for the same rows)."""
    chosen = speeds(rows)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 0.6 + 0.27 * len(chosen)), layout="constrained")
        panel = figure.subplots()
        for place, row in enumerate(chosen):
            color = ORANGE if row.other == CACHED else BLUE if row.ratio >= 1 else GREY
            panel.barh(place, row.ratio - 1, left=1, height=0.7, color=color)
            panel.plot((row.low, row.high), (place, place), color="black", linewidth=1)
            panel.annotate(
                f"{row.ratio:.3g}×", (max(row.high, 1), place), (4, -3), textcoords="offset points", fontsize=8
            )
        labels = [f"{row.section}, {row.work}: {_named(row)}" for row in chosen]
        panel.set_yticks(range(len(chosen)), labels, fontsize=7.5)
        panel.set_ylim(len(chosen) - 0.4, -0.6)
        panel.set_xscale("log")
        panel.set_xticks(TICKS, [f"{tick}×" for tick in TICKS])
        panel.minorticks_off()
        panel.axvline(1, color="black", linewidth=0.8)
        panel.set_xlabel("times as fast (lines: range; orange: the fair one)")
        panel.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _named(row: Row) -> str:
    ours = "" if row.ours in ("ours", "from a store", "batched, cached", "states on disk") else f"{row.ours}, "
    return f"{ours}against {row.other}"
