"""Empty figures in the report's style, their titles and legends, and their bytes.

Figures do not use pyplot: they leave no global state and open no window; PNG uses the Agg renderer.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from lrd_peft.evaluation.similarity import Matrix
from lrd_peft.report.style import RC, chance, method_style

# Reads the same with any color vision.
HEAT_COLORS = "cividis"

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
    figure = Figure(figsize=(max(width * count, 4.6), height), layout="constrained")
    grid = figure.subplots(1, count, squeeze=False, sharey=share_y)
    return figure, list(grid[0])


def finding(figure: Figure, text: str) -> None:
    """Give a figure its title: what it shows, in a sentence."""
    width = int(13.5 * figure.get_figwidth())
    figure.suptitle("\n".join(textwrap.wrap(text, width)), fontsize=9.5, fontweight="bold")


def heat_map(panel: Axes, values: NDArray[np.float64], *, scale: Normalize) -> None:
    """Draw a matrix in colors, its first row at the bottom; cells that are NaN are hatched."""
    panel.patch.set(facecolor="#F4F4F4", edgecolor="#CCCCCC", hatch="///", linewidth=0)
    panel.imshow(values, norm=scale, cmap=HEAT_COLORS, origin="lower", aspect="auto")
    panel.grid(visible=False)


def heat_values(matrix: Matrix | None) -> NDArray[np.float64]:
    """Return a matrix with NaN for missing values; [0, 0] if it was not measured."""
    return np.array([[np.nan if v is None else v for v in line] for line in matrix or ()], dtype=float, ndmin=2)


def percent_axis(axes: Axes, *, low: float | None = 0.0) -> None:
    """Show the y axis in percent, starting at `low`; None keeps matplotlib's limits."""
    if low is not None:
        axes.set_ylim(bottom=low)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def chance_line(panel: Axes, dataset: str, *, sideways: bool = False, label: str = "chance") -> None:
    """Mark the accuracy of guessing, if the question names the choices.

    Args:
        panel: of that data set.
        dataset: its name.
        sideways: accuracy is on the x axis.
        label: for the legend; names the data set if the panel shows several.
    """
    guessed = chance(dataset)
    if guessed is None:
        return
    draw = panel.axvline if sideways else panel.axhline
    draw(guessed, color="#444444", linewidth=0.9, linestyle=(0, (1, 2)), label=label, zorder=0.5)


def name_rows(panel: Axes, methods: Sequence[str], *, last: bool) -> None:
    """Label horizontal rows with methods, the first on top, with a line between text and latent methods.

    Args:
        panel: with one row per method.
        methods: in the order of `in_order`.
        last: the rightmost panel, which names the two groups at its right edge.
    """
    panel.set_yticks(range(len(methods)), [method_style(method).label for method in methods])
    panel.set_ylim(len(methods) - 0.5, -0.5)
    num_text = sum(not method_style(method).latent for method in methods)
    if num_text in (0, len(methods)):
        return
    panel.axhline(num_text - 0.5, color="#777777", linewidth=0.8)
    for text, middle in (("text", (num_text - 1) / 2), ("latent", (num_text + len(methods) - 1) / 2)):
        if last:
            where = panel.get_yaxis_transform()
            panel.text(1.02, middle, text, transform=where, rotation=-90, va="center", fontsize=8, color="#555555")


def legend_below(figure: Figure, *panels: Axes, columns: int) -> None:
    """Put one legend of the panels below them; a label that several artists share appears once."""
    pairs = [pair for panel in panels for pair in zip(*panel.get_legend_handles_labels(), strict=True)]
    found = {label: handle for handle, label in reversed(pairs)}
    labels = list(dict.fromkeys(label for _, label in pairs))
    if labels:
        handles = [found[label] for label in labels]
        figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)))


@styled
def to_png(figure: Figure, *, dpi: int = 300) -> bytes:
    """Return the figure as PNG: the same bytes for the same figure and version of matplotlib."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


@styled
def to_pdf(figure: Figure) -> bytes:
    """Return the figure as PDF, without the date that would make each copy differ."""
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format="pdf", bbox_inches="tight", metadata={"Creator": None, "Producer": None, "CreationDate": None}
    )
    return buffer.getvalue()
