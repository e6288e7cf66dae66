"""Figure 7 (accuracy by number of steps and subject), calibration and the breakdown of errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from lrd_peft.evaluation.metrics import Summary, wilson
from lrd_peft.evaluation.records import Record
from lrd_peft.report.cells import CellRecords, NothingToDraw, cells_of, dataset_order
from lrd_peft.report.estimates import Estimate, mean_estimate
from lrd_peft.report.figures.canvas import chance_line, finding, legend_below, name_rows, panels, percent_axis, styled
from lrd_peft.report.style import BLUE, GREY, ORANGE, OURS, SKY, dataset_label, focus, in_order, method_style

# A bin of a reliability curve with fewer answers says nothing.
LEAST_IN_BIN = 20
# The shares of a bar of the error breakdown: name, color, hatch (for gray print).
OUTCOMES = (
    ("right", BLUE, ""),
    ("right, in another form", SKY, ""),
    ("wrong", ORANGE, "///"),
    ("no answer found", GREY, "..."),
)


@styled
def domain_performance(records: Sequence[Record]) -> Figure:
    """Draw accuracy of five methods by number of reasoning steps (above) and by subject (below).

    One panel per data set; `focus` chooses the methods. Mean over seeds with the interval of `share_estimate`. The
    number of steps is that of the reference solution.

    Raises:
        NothingToDraw: if no record holds a measured method.
    """
    found = _measured(records)
    methods = focus(cell.method for cell in found)
    found = [cell for cell in found if cell.method in methods]
    datasets = dataset_order(found)
    subjects = {d: sorted({s for c in found if c.dataset == d for s in c.by_subject()}) for d in datasets}
    most = max(map(len, subjects.values()))
    heights = [1.9] + ([0.2 + 0.34 * most] if most else [])
    figure = Figure(figsize=(max(4.6, 2.5 * len(datasets)), sum(heights) + 1.4), layout="constrained")
    grid = figure.subplots(len(heights), len(datasets), squeeze=False, height_ratios=heights)
    for column, dataset in enumerate(datasets):
        own = [cell for cell in found if cell.dataset == dataset]
        panel = grid[0][column]
        chance_line(panel, dataset)
        for cell in own:
            _line(panel, list(cell.by_steps().items()), cell.method)
        panel.set_title(dataset_label(dataset))
        panel.set_xlabel("reasoning steps")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        percent_axis(panel)
        panel.set_ylim(-0.03, 1.03)
        if not most:
            continue
        below = grid[1][column]
        if not subjects[dataset]:
            below.set_axis_off()
            continue
        names = subjects[dataset]
        for index, cell in enumerate(own):
            shift = 0.8 * ((index + 0.5) / len(own) - 0.5)
            shares = [(names.index(name) + shift, share) for name, share in cell.by_subject().items()]
            _across(below, shares, cell.method)
        below.set_yticks(range(len(names)), names)
        below.set_ylim(len(names) - 0.5, -0.5)
        below.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        below.set_xlim(-0.03, 1.03)
        below.set_xlabel("accuracy by subject")
        below.grid(visible=False, axis="y")
    grid[0][0].set_ylabel("accuracy")
    legend_below(figure, *grid[0], columns=3)
    finding(figure, _steps_finding([cell for cell in found if cell.dataset == datasets[0]]))
    return figure


def _steps_finding(found: Sequence[CellRecords]) -> str:
    """Return how accuracy falls with the number of steps, for latent-lora and the best text student."""
    parts = []
    for cell in found:
        groups = list(cell.by_steps().items())
        if cell.method in (OURS, "distill-lora", "teacher-latent") and len(groups) > 1:
            (first, high), (last, low) = groups[0], groups[-1]
            parts.append((f"{method_style(cell.method).label} {high.mean:.0%} to {low.mean:.0%}", first, last))
    if not parts:
        return "Accuracy by number of reasoning steps"
    names = ", ".join(text for text, _, _ in parts)
    return f"From {parts[0][1]} to {parts[0][2]} reasoning steps on {dataset_label(found[0].dataset)}: {names}"


@styled
def calibration(records: Sequence[Record]) -> Figure:
    """Draw reliability curves of five methods (above), and the expected calibration error (ECE) of all in a table.

    One panel per data set; `focus` chooses the methods of the curves. Points are bins with at least 20 answers of all
    seeds together, bars Wilson's 95% interval of a bin. On the diagonal a model is right as often as it says. ECE is
    the mean over seeds; the darker its cell, the larger the error.

    Raises:
        NothingToDraw: if no record holds confidences.
    """
    found = [cell for cell in _measured(records) if any(s.calibration for s in cell.summaries.values())]
    if not found:
        raise NothingToDraw("no record holds confidences")
    datasets, methods = dataset_order(found), in_order(cell.method for cell in found)
    shown = focus(methods)
    heights = [2.0, 0.4 + 0.21 * len(methods)]
    figure = Figure(figsize=(max(4.6, 2.5 * len(datasets)), sum(heights) + 1.2), layout="constrained")
    grid = figure.add_gridspec(2, len(datasets), height_ratios=heights)
    curves = [figure.add_subplot(grid[0, column]) for column in range(len(datasets))]
    for panel, dataset in zip(curves, datasets, strict=True):
        panel.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
        for cell in (cell for cell in found if cell.dataset == dataset and cell.method in shown):
            _line(panel, _pooled_bins(cell), cell.method)
        panel.set_title(dataset_label(dataset))
        panel.set_xlabel("confidence")
        panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panel.set_xlim(-0.03, 1.03)
        percent_axis(panel)
        panel.set_ylim(-0.03, 1.03)
    curves[0].set_ylabel("accuracy")
    errors = np.full((len(methods), len(datasets)), np.nan)
    for cell in found:
        own = [summary.ece for summary in cell.summaries.values() if summary.ece is not None]
        errors[methods.index(cell.method), datasets.index(cell.dataset)] = mean_estimate(own).mean
    _error_table(figure.add_subplot(grid[1, :]), errors, methods, datasets)
    legend_below(figure, *curves, columns=3)
    means = dict(zip(methods, np.nanmean(errors, axis=1), strict=True))
    low, high = min(means, key=lambda name: means[name]), max(means, key=lambda name: means[name])
    finding(
        figure,
        f"{method_style(low).label} is calibrated best (mean ECE {means[low]:.2f}), "
        f"{method_style(high).label} worst ({means[high]:.2f})",
    )
    return figure


def _error_table(panel: Axes, errors: NDArray[np.float64], methods: Sequence[str], datasets: Sequence[str]) -> None:
    panel.imshow(errors, cmap="Oranges", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(errors):
        if np.isfinite(value):
            panel.text(
                column,
                row,
                f"{value:.3f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if value > 0.55 else "black",
            )
    panel.set_title("expected calibration error")
    panel.set_xticks(range(len(datasets)), map(dataset_label, datasets))
    panel.set_yticks(range(len(methods)), [method_style(method).label for method in methods])
    panel.tick_params(length=0)
    panel.grid(visible=False)
    panel.spines[:].set_visible(False)


@styled
def error_breakdown(records: Sequence[Record]) -> Figure:
    """Draw the shares of right, wrong and missing answers as stacked bars, one panel per data set.

    Mean over seeds; the black bar is the interval of the right answers as in `share_estimate`. "In another form" are
    right answers that the flexible rules extract when the marker is missing.

    Raises:
        NothingToDraw: if no record holds a measured method.
    """
    found = _measured(records)
    datasets, methods = dataset_order(found), in_order(cell.method for cell in found)
    figure, axes = panels(len(datasets), width=2.5, height=1.4 + 0.22 * len(methods))
    for panel, dataset in zip(axes, datasets, strict=True):
        for cell in (cell for cell in found if cell.dataset == dataset):
            place, left = methods.index(cell.method), 0.0
            parts = [_parts(summary) for summary in cell.summaries.values()]
            for (name, color, hatch), shares in zip(OUTCOMES, zip(*parts, strict=True), strict=True):
                share = sum(shares) / len(shares)
                bar = panel.barh(place, share, left=left, height=0.72, color=color, hatch=hatch, edgecolor="white")
                bar.set_label(name)
                left += share
            right = cell.accuracy
            panel.errorbar(right.mean, place, xerr=[[right.reach[0]], [right.reach[1]]], color="black", elinewidth=1.0)
        panel.set_title(dataset_label(dataset))
        name_rows(panel, methods, last=dataset == datasets[-1])
        if dataset != datasets[0]:
            panel.tick_params(labelleft=False)
        panel.set_xlim(0, 1)
        panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panel.set_xlabel("share of problems")
        panel.grid(visible=False)
    legend_below(figure, axes[0], columns=4)
    finding(figure, _unparsed_finding(found))
    return figure


def _unparsed_finding(found: Sequence[CellRecords]) -> str:
    """Return which method most often gives no answer that can be extracted."""
    shares = {
        (cell.method, cell.dataset): sum(s.num_unparsed for s in cell.summaries.values())
        / sum(s.n for s in cell.summaries.values())
        for cell in found
    }
    (method, dataset), share = max(shares.items(), key=lambda item: item[1])
    if not share:
        return "Every answer can be extracted; errors are wrong answers"
    return f"Most answers without a result: {method_style(method).label} on {dataset_label(dataset)} ({share:.0%})"


def _parts(summary: Summary) -> tuple[float, ...]:
    """Return the shares that `OUTCOMES` names; they sum to 1."""
    wrong = summary.n - summary.num_right - summary.num_unparsed
    counts = (summary.num_right_strict, summary.num_right - summary.num_right_strict, wrong, summary.num_unparsed)
    return tuple(count / summary.n for count in counts)


def _measured(records: Sequence[Record]) -> list[CellRecords]:
    found = cells_of(records)
    if not found:
        raise NothingToDraw("no record holds a measured method")
    return found


def _pooled_bins(cell: CellRecords) -> list[tuple[float, Estimate]]:
    """Return (mean confidence, accuracy with Wilson's interval) of each large enough bin, over all seeds."""
    pooled: dict[float, list[tuple[int, float, float]]] = {}
    for summary in cell.summaries.values():
        for each in summary.calibration.bins if summary.calibration else ():
            pooled.setdefault(each.low, []).append((each.n, each.mean_confidence, each.accuracy))
    points = []
    for _, parts in sorted(pooled.items()):
        n = sum(count for count, _, _ in parts)
        if n < LEAST_IN_BIN:
            continue
        right = round(sum(count * share for count, _, share in parts))
        low, high = wilson(right, n)
        points.append((sum(count * conf for count, conf, _ in parts) / n, Estimate(right / n, low, high, 1, n)))
    return points


def _line(panel: Axes, points: Sequence[tuple[float, Estimate]], method: str) -> None:
    """Draw values with their intervals, connected."""
    style = method_style(method)
    panel.errorbar(
        [at for at, _ in points],
        [value.mean for _, value in points],
        yerr=list(zip(*(value.reach for _, value in points), strict=True)),
        **style.look,
        markersize=7 if method == OURS else 4.5,
        elinewidth=0.7,
        capsize=0,
        linewidth=1.1,
        label=style.label,
    )


def _across(panel: Axes, values: Sequence[tuple[float, Estimate]], method: str) -> None:
    """Draw values sideways with their intervals, each at its height."""
    panel.errorbar(
        [value.mean for _, value in values],
        [place for place, _ in values],
        xerr=list(zip(*(value.reach for _, value in values), strict=True)),
        **method_style(method).points,
        markersize=6 if method == OURS else 4,
        elinewidth=0.7,
        capsize=0,
    )
