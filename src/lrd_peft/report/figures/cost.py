"""Figures 8 and 10: accuracy against training and answering time, and every method's cost at a glance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from lrd_peft.evaluation.records import Record
from lrd_peft.report.cells import CellRecords, NothingToDraw, cells_of, dataset_order
from lrd_peft.report.estimates import Estimate, mean_estimate
from lrd_peft.report.figures.canvas import chance_line, finding, legend_below, percent_axis, styled
from lrd_peft.report.style import GREY, OURS, dataset_label, in_order, method_style
from lrd_peft.report.verdict import counterpart

# Columns of figure 10: title, value of a method's cells, text, whether more is better.
_MEASURES: tuple[tuple[str, Callable[[Sequence[CellRecords]], float | None], str, bool], ...] = (
    ("accuracy", lambda own: mean_estimate([cell.accuracy.mean for cell in own]).mean, "{:.1%}", True),
    ("trained\nparameters", lambda own: float(trained_parameters(own[0])), "{:,.0f}", False),
    ("training,\nminutes", lambda own: _minutes(own[0]), "{:.1f}", False),
    ("peak\nmemory, GiB", lambda own: _memory(own[0]), "{:.2f}", False),
    ("model\npasses", lambda own: mean_estimate([cell.mean("mean_passes").mean for cell in own]).mean, "{:.1f}", False),
    ("ms per\nproblem", lambda own: 1000 * _seconds_per_problem(own), "{:.1f}", False),
)


@styled
def efficiency_pareto(records: Sequence[Record]) -> Figure:
    """Draw accuracy against training time (above, if runs left their costs) and time per problem (below).

    The training time is all that the method needs: the student's training, its teacher's and the store's. The dashed
    line is the Pareto front: no other method is as accurate in less time. Bars are the interval of `share_estimate`
    vertically and Student's t over seeds horizontally, cut at the edge of the panel.

    Raises:
        NothingToDraw: if no record holds a measured method.
    """
    found = cells_of(records)
    if not found:
        raise NothingToDraw("no record holds a measured method")
    datasets = dataset_order(found)
    times: dict[str, Callable[[CellRecords], Estimate | None]] = {
        "training with teacher, minutes": lambda cell: _scaled(cell.total_seconds(), 1 / 60),
        "time per problem, ms": lambda cell: _scaled(cell.mean("seconds_per_problem"), 1000),
    }
    # A single method with a training time is no comparison.
    shown = [name for name, time in times.items() if len({c.method for c in found if time(c) is not None}) > 1]
    shown = shown or ["time per problem, ms"]
    figure = Figure(figsize=(2.5 * max(2, len(datasets)), 1.4 + 2.2 * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), len(datasets), squeeze=False, sharey="row")
    for row, name in enumerate(shown):
        for column, dataset in enumerate(datasets):
            own = [cell for cell in found if cell.dataset == dataset]
            measured = [(cell, time) for cell in own if (time := times[name](cell)) is not None]
            chance_line(grid[row][column], dataset)
            _points(grid[row][column], measured)
            grid[row][column].set_xlabel(name)
            if row == 0:
                grid[row][column].set_title(dataset_label(dataset))
        percent_axis(grid[row][0], low=-0.03)  # after the last panel: all of them share it
        grid[row][0].set_ylabel("accuracy")
    legend_below(figure, *grid.flat, columns=4)
    finding(figure, cost_headline(found) or "Accuracy against training time and time per problem")
    return figure


def _points(panel: Axes, points: Sequence[tuple[CellRecords, Estimate]]) -> None:
    for cell, time in points:
        style, share = method_style(cell.method), cell.accuracy
        panel.errorbar(
            time.mean,
            share.mean,
            xerr=[[min(time.reach[0], 0.99 * time.mean)], [time.reach[1]]],
            yerr=[[share.reach[0]], [share.reach[1]]],
            **style.points,
            markersize=8 if cell.method == OURS else 5,
            elinewidth=0.7,
            capsize=0,
            label=style.label,
        )
    front = pareto_front([(time.mean, cell.accuracy.mean) for cell, time in points])
    panel.plot(*zip(*front, strict=True), color=GREY, linestyle="--", linewidth=1, zorder=1, label="Pareto front")
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_formatter(NullFormatter())
    means = [time.mean for _, time in points]
    panel.set_xlim(min(means) / 1.7, max(means) * 1.7)
    if max(means) > 30 * min(means):
        panel.xaxis.set_major_locator(LogLocator())


def cost_headline(found: Sequence[CellRecords]) -> str:
    """Return the times of latent-lora and its text counterpart in one sentence; "" if one of them is missing."""
    ours, name = [cell for cell in found if cell.method == OURS], counterpart(found)
    if not ours or name is None:
        return ""
    other = [cell for cell in found if cell.method == name]
    parts = []
    training = ours[0].total_seconds(), other[0].total_seconds()
    if training[0] is not None and training[1] is not None:
        parts.append(f"trains {training[0].mean / 60:.0f} minutes with its teacher ({training[1].mean / 60:.0f})")
    milliseconds = (1000 * _seconds_per_problem(own) for own in (ours, other))
    parts.append("takes {:.1f} ms per problem ({:.1f})".format(*milliseconds))
    return f"{method_style(OURS).label} {' and '.join(parts)}; in parentheses: {method_style(name).label}"


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the (cost, gain) that no other point beats, by rising cost: less cost and more gain are better."""
    front: list[tuple[float, float]] = []
    for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or gain > front[-1][1]:
            front.append((cost, gain))
    return front


@styled
def radar_comparison(records: Sequence[Record]) -> Figure:
    """Draw every method's accuracy and costs as a table whose cells are darker the closer they are to the best.

    Means over data sets and seeds; the training time includes the teacher's and the store's. Shading is value / best
    for accuracy and best / value for costs. Only methods whose runs left their costs are shown; figure 8 and table 1
    have intervals.

    Raises:
        NothingToDraw: if fewer than two methods left their costs.
    """
    found = cells_of(records)
    profiles = {}
    for method in in_order(cell.method for cell in found):
        own = [cell for cell in found if cell.method == method]
        if own[0].total_seconds() is not None and _memory(own[0]) is not None:
            profiles[method] = [value(own) for _, value, _, _ in _MEASURES]
    if len(profiles) < 2:
        raise NothingToDraw("fewer than two methods have records of their own, with training time and memory")
    values = np.array(list(profiles.values()), dtype=float)
    more = np.array([better for *_, better in _MEASURES])
    shares = np.where(more, values / values.max(axis=0), values.min(axis=0) / values)
    figure = Figure(figsize=(7.4, 1.5 + 0.26 * len(profiles)), layout="constrained")
    panel = figure.subplots()
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=1.6, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        text = _MEASURES[column][2].format(values[row, column])
        panel.text(column, row, text, ha="center", va="center", fontweight="bold" if share > 0.9999 else "normal")
    panel.set_xticks(range(len(_MEASURES)), [title for title, *_ in _MEASURES])
    panel.xaxis.tick_top()
    panel.tick_params(length=0)
    panel.set_yticks(range(len(profiles)), [method_style(method).label for method in profiles])
    num_text = sum(not method_style(method).latent for method in profiles)
    if 0 < num_text < len(profiles):
        panel.axhline(num_text - 0.5, color="#333333", linewidth=1)
    panel.grid(visible=False)
    panel.spines[:].set_visible(False)
    labels = [method_style(method).label for method in profiles]
    accurate, fast = (labels[int(shares[:, column].argmax())] for column in (0, len(_MEASURES) - 1))
    ours = f"; {method_style(OURS).label} has {shares[list(profiles).index(OURS), 0]:.0%} of the best accuracy"
    text = f"{accurate} is the most accurate, {fast} answers fastest"
    finding(figure, text + (ours if OURS in profiles else ""))
    return figure


def trained_parameters(cell: CellRecords) -> int:
    """Return how many parameters the method trained; 0 if its runs left no costs."""
    return next(iter(cell.costs.values())).trainable_parameters if cell.costs else 0


def _minutes(cell: CellRecords) -> float | None:
    total = cell.total_seconds()
    return None if total is None else total.mean / 60


def _memory(cell: CellRecords) -> float | None:
    memory = [float(costs.peak_memory_bytes) for costs in cell.costs.values() if costs.peak_memory_bytes]
    return mean_estimate(memory).mean / 2**30 if memory else None


def _seconds_per_problem(own: Sequence[CellRecords]) -> float:
    return mean_estimate([cell.mean("seconds_per_problem").mean for cell in own]).mean


def _scaled(estimate: Estimate | None, factor: float) -> Estimate | None:
    if estimate is None:
        return None
    return Estimate(estimate.mean * factor, estimate.low * factor, estimate.high * factor, estimate.num_seeds)
