"""Figures 8 and 10: what accuracy costs, in training time, answering time, parameters and memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from lrd_peft.records import Record
from lrd_peft.report.cells import Cell, NothingToDraw, cells, dataset_order
from lrd_peft.report.estimates import Estimate, mean_estimate
from lrd_peft.report.figures.baseline import short_count
from lrd_peft.report.figures.canvas import legend_below, percent_axis, styled
from lrd_peft.report.style import GREY, OURS, dataset_label, in_order, method_style


@styled
def efficiency_pareto(records: Sequence[Record]) -> Figure:
    """Draw accuracy against time: the training's (above, where runs left their costs) and a problem's (below).

    A panel a data set. The area of a bubble stands for the parameters that the method trained; a small open one trained
    nothing or left no costs. The line is the Pareto front: no other method is as accurate in less time. Bars are the
    interval of `share_estimate` upwards, Student's t over seeds sideways.

    Raises:
        NothingToDraw: if no record holds a measured method.
    """
    found = cells(records)
    if not found:
        raise NothingToDraw("no record holds a measured method")
    datasets = dataset_order(found)
    times: dict[str, Callable[[Cell], Estimate | None]] = {
        "training time, minutes": lambda cell: _scaled(cell.training_seconds(), 1 / 60),
        "time a problem, milliseconds": lambda cell: _scaled(cell.mean("seconds_per_problem"), 1000),
    }
    # One method with a training time is no comparison.
    shown = [name for name, time in times.items() if len({c.method for c in found if time(c) is not None}) > 1]
    shown = shown or ["time a problem, milliseconds"]
    figure = Figure(figsize=(2.9 * len(datasets), 0.9 + 2.4 * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), len(datasets), squeeze=False, sharey="row")
    for row, name in enumerate(shown):
        for column, dataset in enumerate(datasets):
            own = [cell for cell in found if cell.dataset == dataset]
            points = [(cell, time) for cell in own if (time := times[name](cell)) is not None]
            _bubbles(grid[row][column], points, largest=max(map(_trained, found)), explained=row == column == 0)
            grid[row][column].set_xlabel(name)
            if row == 0:
                grid[row][column].set_title(dataset_label(dataset))
        grid[row][0].set_ylabel("accuracy")
    named = max(grid.flat, key=lambda panel: len(panel.get_legend_handles_labels()[1]))
    legend_below(figure, named, columns=4)
    return figure


def _bubbles(panel: Axes, points: Sequence[tuple[Cell, Estimate]], *, largest: int, explained: bool) -> None:
    for cell, time in points:
        style, share = method_style(cell.method), cell.accuracy
        trained = _trained(cell)
        panel.errorbar(
            time.mean,
            share.mean,
            xerr=[[min(time.reach[0], 0.99 * time.mean)], [time.reach[1]]],
            yerr=[[share.reach[0]], [share.reach[1]]],
            color=style.colour,
            elinewidth=0.8,
            linestyle="none",
        )
        panel.scatter(
            time.mean,
            share.mean,
            s=bubble_area(trained, largest),
            color=style.colour if trained else "white",
            edgecolors="black" if trained else style.colour,
            linewidths=0.6 if trained else 1.4,
            alpha=0.85,
            zorder=3,
        )
        panel.plot([], [], marker="o", linestyle="none", color=style.colour, label=style.label)
    front = pareto_front([(time.mean, cell.accuracy.mean) for cell, time in points])
    panel.plot(*zip(*front, strict=True), color=GREY, linestyle="--", linewidth=1, zorder=1, label="Pareto front")
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_formatter(NullFormatter())
    percent_axis(panel)
    sizes = sorted({size for cell, _ in points if (size := _trained(cell))})
    if sizes and explained:
        shown = dict.fromkeys((sizes[0], sizes[-1]))
        keys = [
            Line2D([], [], marker="o", linestyle="none", color=GREY, markersize=math.sqrt(bubble_area(size, largest)))
            for size in shown
        ]
        panel.legend(keys, [f"{short_count(size)} trained" for size in shown], loc="lower right", labelspacing=1.2)


def bubble_area(trained: int, largest: int) -> float:
    """Return a bubble's area in square points: in proportion to the trained parameters, above a least one."""
    return 22.0 + 300.0 * trained / max(largest, 1)


def _trained(cell: Cell) -> int:
    return next(iter(cell.costs.values())).trainable_parameters if cell.costs else 0


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return those (cost, gain) that no other point betters, by rising cost: less is better in cost, more in gain."""
    front: list[tuple[float, float]] = []
    for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or gain > front[-1][1]:
            front.append((cost, gain))
    return front


@styled
def radar_comparison(records: Sequence[Record]) -> Figure:
    """Draw methods on five axes: accuracy, parameters, training speed, memory, answering speed.

    Every axis is relative: 1, the rim, is the best of the methods drawn; the others are best / value where less is
    better (parameters, training time, peak memory, time a problem) and value / best for accuracy. Means over data sets
    and seeds, and no intervals: figure 8 and table 1 have them. Only methods whose own runs left their costs are drawn.

    Raises:
        NothingToDraw: if fewer than two methods left their costs.
    """
    profiles = {name: values for name, values in _profiles(cells(records)).items() if values is not None}
    if len(profiles) < 2:
        raise NothingToDraw("fewer than two methods have records of their own, with training time and memory")
    names = ("accuracy", "few\nparameters", "training\nspeed", "small\nmemory", "answering\nspeed")
    best = [max(values[axis] for values in profiles.values()) for axis in range(len(names))]
    angles = [2 * math.pi * axis / len(names) for axis in range(len(names))]
    figure = Figure(figsize=(5.6, 5.0), layout="constrained")
    panel = figure.add_subplot(projection="polar")
    panel.set_theta_offset(math.pi / 2)  # pyright: ignore[reportAttributeAccessIssue]
    panel.set_theta_direction(-1)  # pyright: ignore[reportAttributeAccessIssue]
    for method in in_order(profiles):
        style = method_style(method)
        shares = [value / top if top > 0 else 0.0 for value, top in zip(profiles[method], best, strict=True)]
        panel.plot(
            [*angles, angles[0]],
            [*shares, shares[0]],
            color=style.colour,
            marker=style.marker,
            markersize=8 if method == OURS else 4.5,
            linewidth=2.0 if method == OURS else 1.1,
            label=style.label,
        )
    panel.set_xticks(angles, names)
    sides: dict[str, Literal["left", "right"]] = {names[1]: "left", names[-1]: "right"}
    for name, label in zip(names, panel.get_xticklabels(), strict=True):
        label.set_horizontalalignment(sides.get(name, "center"))
    panel.tick_params(axis="x", pad=4)
    panel.set_ylim(0, 1.02)
    panel.set_yticks([0.25, 0.5, 0.75, 1.0], ["25%", "50%", "75%", "best"], fontsize=6.5, color="#555555")
    legend_below(figure, panel, columns=3)
    return figure


def _profiles(found: Sequence[Cell]) -> dict[str, tuple[float, ...] | None]:
    """Return, for each method, five numbers of which more is better; None without costs of its own."""
    profiles: dict[str, tuple[float, ...] | None] = {}
    for method in {cell.method for cell in found}:
        own = [cell for cell in found if cell.method == method]
        training = own[0].training_seconds()
        memory = [costs.peak_memory_bytes for costs in own[0].costs.values() if costs.peak_memory_bytes]
        if training is None or not memory:
            profiles[method] = None
            continue
        profiles[method] = (
            mean_estimate([cell.accuracy.mean for cell in own]).mean,
            1 / own[0].total_parameters,
            1 / training.mean,
            1 / mean_estimate([float(value) for value in memory]).mean,
            1 / mean_estimate([cell.mean("seconds_per_problem").mean for cell in own]).mean,
        )
    return profiles


def _scaled(estimate: Estimate | None, factor: float) -> Estimate | None:
    if estimate is None:
        return None
    return Estimate(estimate.mean * factor, estimate.low * factor, estimate.high * factor, estimate.num_seeds)
