"""Empty figures in the house's style, and their bytes. Knows matplotlib, not records.

Figures are made without pyplot: no global state, no window, the Agg renderer for PNG.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lrd_peft.report.style import RC, method_style

P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Run a drawing function under `RC`, whatever the caller's own settings are."""

    @wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(RC)
            return draw(*args, **kwargs)

    return wrapper


def panels(count: int, *, width: float = 3.0, height: float = 2.8, share_y: bool = True) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` axes in a row; `width` and `height` are those of one, in inches."""
    figure = Figure(figsize=(max(width * count, 4.2), height), layout="constrained")
    grid = figure.subplots(1, count, squeeze=False, sharey=share_y)
    return figure, list(grid[0])


def percent_axis(axes: Axes, *, low: float = 0.0) -> None:
    """Make a y axis of shares read in per cent, from `low` upwards."""
    axes.set_ylim(bottom=low)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def name_rows(panel: Axes, methods: Sequence[str], *, last: bool) -> None:
    """Name the rows of horizontal bars, the first on top, with a line between those that write and those that think.

    Args:
        methods: in the order of `in_order`.
        last: of the panels side by side; says at its right edge which is which.
    """
    panel.set_yticks(range(len(methods)), [method_style(method).label for method in methods])
    panel.set_ylim(len(methods) - 0.5, -0.5)
    num_writing = sum(not method_style(method).thinks for method in methods)
    if num_writing in (0, len(methods)):
        return
    panel.axhline(num_writing - 0.5, color="#777777", linewidth=0.8)
    for text, middle in (("write", (num_writing - 1) / 2), ("think", (num_writing + len(methods) - 1) / 2)):
        if last:
            where = panel.get_yaxis_transform()
            panel.text(1.02, middle, text, transform=where, rotation=-90, va="center", fontsize=7, color="#555555")


def legend_below(figure: Figure, axes: Axes, *, columns: int) -> None:
    """Put one legend of all panels under them; a name that several artists carry stands once."""
    found = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if found:
        figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=min(columns, len(found)))


@styled
def to_png(figure: Figure, *, dpi: int = 300) -> bytes:
    """Return the figure as PNG: the same bytes for the same figure and version of matplotlib."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


@styled
def to_pdf(figure: Figure) -> bytes:
    """Return the figure as PDF, without the date that would make each copy differ."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="pdf", metadata={"Creator": None, "Producer": None, "CreationDate": None})
    return buffer.getvalue()
