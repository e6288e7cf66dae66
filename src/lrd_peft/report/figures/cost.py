"""Figures 8 and 10: what accuracy costs, in training time, answering time, parameters and memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from lrd_peft.records import Record
from lrd_peft.report.cells import Cell, NothingToDraw, cells, dataset_order
from lrd_peft.report.estimates import Estimate, mean_estimate
from lrd_peft.report.figures.baseline import short_count
from lrd_peft.report.figures.canvas import legend_below, percent_axis, styled
from lrd_peft.report.style import GREY, OURS, dataset_label, in_groups, method_style


@styled
def efficiency_pareto(records: Sequence[Record]) -> Figure:
    """Draw accuracy against time: the training's (above, where runs left their costs) and a problem's (below).

    A panel a data set. The area of a bubble stands for the parameters that the method trained; a marker without one
    trained nothing or left no costs. The line is the Pareto front: no other method is as accurate in less time. Bars
    are the interval of `share_estimate` upwards, Student's t over seeds sideways, cut at the panel's edge.

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
        percent_axis(grid[row][0], low=-0.03)  # after the last panel: all of them share it
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
            elinewidth=0.7,
            capsize=0,
            linestyle="none",
        )
        if trained:
            area = bubble_area(trained, largest)
            panel.scatter(time.mean, share.mean, s=area, color=style.colour, alpha=0.35, linewidths=0, zorder=2)
        size = 7 if cell.method == OURS else 4
        panel.plot(time.mean, share.mean, **style.points, markersize=size, zorder=3, label=style.label)
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
    sizes = sorted({size for cell, _ in points if (size := _trained(cell))})
    if sizes and explained:
        shown = dict.fromkeys((sizes[0], sizes[-1]))
        keys = [
            Line2D(
                [], [], marker="o", linestyle="none", color="#BBBBBB", markersize=math.sqrt(bubble_area(size, largest))
            )
            for size in shown
        ]
        panel.legend(
            keys,
            [f"{short_count(size)} trained" for size in shown],
            loc="best",
            labelspacing=1.2,
            frameon=True,
            edgecolor="none",
        )


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

    Many methods are drawn in two panels: those that write, and those that think.

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
    groups = in_groups(profiles)
    figure = Figure(figsize=(5.2 * len(groups), 5.0), layout="constrained")
    grid = figure.subplots(1, len(groups), squeeze=False, subplot_kw={"projection": "polar"})
    handles = {}
    for (title, group), panel in zip(groups, grid[0], strict=True):
        panel.set_theta_offset(math.pi / 2)
        panel.set_theta_direction(-1)
        for method in group:
            style = method_style(method)
            shares = [value / top if top > 0 else 0.0 for value, top in zip(profiles[method], best, strict=True)]
            (handles[style.label],) = panel.plot(
                [*angles, angles[0]],
                [*shares, shares[0]],
                **style.look,
                markersize=8 if method == OURS else 4.5,
                linewidth=2.0 if method == OURS else 1.1,
                label=style.label,
            )
        if title:
            panel.set_title(f"methods that {title}")
        panel.set_xticks(angles, names)
        sides = ("center", "left", "left", "right", "right")
        for side, label in zip(sides, panel.get_xticklabels(), strict=True):
            label.set_horizontalalignment(side)
        panel.tick_params(axis="x", pad=5)
        panel.set_ylim(0, 1.02)
        rings = {0.25: "25%", 0.5: "50%", 0.75: "75%", 1.0: "best"}
        panel.set_yticks([*rings], [""] * len(rings))
        for ring, text in rings.items():  # above the lines, which a tick's label would not be
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8}
            panel.text(math.pi / len(names), ring, text, fontsize=6.5, color="#555555", ha="center", bbox=box)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2 + len(groups))
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
