"""Empty figures in the house's style, and their bytes. Knows matplotlib, not records.

Figures are made without pyplot: no global state, no window, the Agg renderer for PNG.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lrd_peft.report.style import RC

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
