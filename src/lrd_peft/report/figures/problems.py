"""Figure 7 (accuracy by number of steps and subject), the calibration curve and the error breakdown."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lrd_peft.evaluation.metrics import Summary, wilson
from lrd_peft.records import Record
from lrd_peft.report.cells import Cell, NothingToDraw, cells, dataset_order
from lrd_peft.report.estimates import Estimate, mean_estimate
from lrd_peft.report.figures.canvas import legend_below, name_rows, panels, percent_axis, styled
from lrd_peft.report.style import BLUE, GREY, ORANGE, OURS, SKY, dataset_label, in_groups, in_order, method_style

# The shares of a bar of the error breakdown: name, colour, hatch (for grey print).
OUTCOMES = (
    ("right", BLUE, ""),
    ("right, in another form", SKY, ""),
    ("wrong", ORANGE, "///"),
    ("no answer found", GREY, "..."),
)


@styled
def domain_performance(records: Sequence[Record]) -> Figure:
    """Draw accuracy by the number of reasoning steps (above) and by subject (below), a panel a data set.

    Many methods have two rows by steps: those that write, and those that think. Mean over seeds with the interval of
    `share_estimate` (the wider of Wilson's over the group's problems and Student's t over the seeds). The number of
    steps is that of the problem's own solution.

    Raises:
        NothingToDraw: if no record holds a measured method.
    """
    found = _measured(records)
    datasets, methods = dataset_order(found), in_order(cell.method for cell in found)
    groups = in_groups(methods)
    subjects = {d: sorted({s for c in found if c.dataset == d for s in c.by_subject()}) for d in datasets}
    most = max(map(len, subjects.values()))
    heights = [2.0] * len(groups) + ([0.5 + 0.1 * most * len(methods)] if most else [])
    figure = Figure(
        figsize=(max(4.2, 2.9 * len(datasets)), sum(heights) + 0.4 * len(heights) + 0.4), layout="constrained"
    )
    grid = figure.subplots(len(heights), len(datasets), squeeze=False, height_ratios=heights)
    for column, dataset in enumerate(datasets):
        own = [cell for cell in found if cell.dataset == dataset]
        for (title, group), panel in zip(groups, grid[:, column], strict=False):
            drawn = [cell for cell in own if cell.method in group]
            for index, cell in enumerate(drawn):
                _dodged(panel, list(cell.by_steps().items()), cell.method, shift=0.07 * (index - (len(drawn) - 1) / 2))
            panel.set_title(_panel_title(dataset, title))
            panel.set_xlabel("reasoning steps of the problem")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            percent_axis(panel)
            panel.set_ylim(-0.03, 1.03)
        below = grid[-1][column]
        if most and not subjects[dataset]:
            below.set_axis_off()
        elif most:
            names = subjects[dataset]
            for index, cell in enumerate(own):
                shift = 0.8 * ((index + 0.5) / len(own) - 0.5)
                _subject_bars(below, names, cell, shift=shift)
            below.set_yticks(range(len(names)), names)
            below.set_ylim(len(names) - 0.5, -0.5)
            below.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            below.set_xlim(-0.03, 1.03)
            below.set_xlabel("accuracy by subject")
            below.grid(visible=False, axis="y")
    for row in range(len(groups)):
        grid[row][0].set_ylabel("accuracy")
    _legend_of(figure, list(grid[: len(groups), 0]))
    return figure


@styled
def calibration(records: Sequence[Record]) -> Figure:
    """Draw accuracy against confidence, a panel a data set, and below it the expected calibration error (ECE).

    Many methods have two rows of panels: those that write, and those that think. Points are the bins of all seeds
    together: their problems are pooled, weighted by their number; the bars are Wilson's 95% interval of a bin's pooled
    answers. On the diagonal a model is right as often as it says. ECE is the mean over seeds, its bar Student's t over
    them.

    Raises:
        NothingToDraw: if no record holds confidences.
    """
    found = [cell for cell in _measured(records) if any(s.calibration for s in cell.summaries.values())]
    if not found:
        raise NothingToDraw("no record holds confidences")
    datasets, methods = dataset_order(found), in_order(cell.method for cell in found)
    groups = in_groups(methods)
    heights = [2.0] * len(groups) + [0.3 + 0.17 * len(methods)]
    figure = Figure(
        figsize=(max(4.2, 1.0 + 2.6 * len(datasets)), sum(heights) + 0.5 * len(heights) + 0.3), layout="constrained"
    )
    grid = figure.subplots(len(heights), len(datasets), squeeze=False, height_ratios=heights)
    for column, dataset in enumerate(datasets):
        own = [cell for cell in found if cell.dataset == dataset]
        for (title, group), panel in zip(groups, grid[:, column], strict=False):
            panel.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
            drawn = [cell for cell in own if cell.method in group]
            for index, cell in enumerate(drawn):
                _dodged(panel, _pooled_bins(cell), cell.method, shift=0.006 * (index - (len(drawn) - 1) / 2))
            panel.set_title(_panel_title(dataset, title))
            panel.set_xlabel("confidence in the answer")
            panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            panel.set_xlim(-0.03, 1.03)
            percent_axis(panel)
            panel.set_ylim(-0.03, 1.03)
        below = grid[-1][column]
        for cell in own:
            errors = [summary.ece for summary in cell.summaries.values() if summary.ece is not None]
            _across(below, [(methods.index(cell.method), mean_estimate(errors))], cell.method)
        name_rows(below, methods, last=column == len(datasets) - 1)
        if column > 0:
            below.set_yticklabels([])
        below.set_xlim(left=0)
        below.set_xlabel("expected calibration error")
    for row in range(len(groups)):
        grid[row][0].set_ylabel("accuracy")
    _legend_of(figure, list(grid[: len(groups), 0]))
    return figure


@styled
def error_breakdown(records: Sequence[Record]) -> Figure:
    """Draw the shares of right, wrong and missing answers as stacked bars, a panel a data set.

    Mean over seeds; the black bar is the interval of the right answers as in `share_estimate`. "In another form" are
    right answers that the flexible rules found where the marker was missing.

    Raises:
        NothingToDraw: if no record holds a measured method.
    """
    found = _measured(records)
    datasets, methods = dataset_order(found), in_order(cell.method for cell in found)
    figure, axes = panels(len(datasets), width=2.6, height=1.1 + 0.27 * len(methods))
    for panel, dataset in zip(axes, datasets, strict=True):
        for cell in (cell for cell in found if cell.dataset == dataset):
            place, left = methods.index(cell.method), 0.0
            parts = [_parts(summary) for summary in cell.summaries.values()]
            for (name, colour, hatch), shares in zip(OUTCOMES, zip(*parts, strict=True), strict=True):
                share = sum(shares) / len(shares)
                bar = panel.barh(place, share, left=left, height=0.72, color=colour, hatch=hatch, edgecolor="white")
                bar.set_label(name)
                left += share
            right = cell.accuracy
            panel.errorbar(right.mean, place, xerr=[[right.reach[0]], [right.reach[1]]], color="black", elinewidth=1.0)
        panel.set_title(dataset_label(dataset))
        name_rows(panel, methods, last=dataset == datasets[-1])
        panel.set_xlim(0, 1)
        panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panel.set_xlabel("share of problems")
        panel.grid(visible=False)
    legend_below(figure, axes[0], columns=4)
    return figure


def _parts(summary: Summary) -> tuple[float, ...]:
    """Return the shares that `OUTCOMES` names; they sum to 1."""
    wrong = summary.n - summary.num_right - summary.num_unparsed
    counts = (summary.num_right_strict, summary.num_right - summary.num_right_strict, wrong, summary.num_unparsed)
    return tuple(count / summary.n for count in counts)


def _measured(records: Sequence[Record]) -> list[Cell]:
    found = cells(records)
    if not found:
        raise NothingToDraw("no record holds a measured method")
    return found


def _pooled_bins(cell: Cell) -> list[tuple[float, Estimate]]:
    """Return (mean confidence, accuracy with Wilson's interval) of each bin, all seeds' problems together."""
    pooled: dict[float, list[tuple[int, float, float]]] = {}
    for summary in cell.summaries.values():
        for each in summary.calibration.bins if summary.calibration else ():
            pooled.setdefault(each.low, []).append((each.n, each.mean_confidence, each.accuracy))
    points = []
    for _, parts in sorted(pooled.items()):
        n = sum(count for count, _, _ in parts)
        right = round(sum(count * share for count, _, share in parts))
        low, high = wilson(right, n)
        points.append((sum(count * conf for count, conf, _ in parts) / n, Estimate(right / n, low, high, 1, n)))
    return points


def _panel_title(dataset: str, group: str) -> str:
    return dataset_label(dataset) + (f", methods that {group}" if group else "")


def _legend_of(figure: Figure, rows: Sequence[Axes]) -> None:
    """Put one legend of several panels' methods under them, in the order of the panels."""
    pairs = [pair for panel in rows for pair in zip(*panel.get_legend_handles_labels(), strict=True)]
    figure.legend(*zip(*pairs, strict=True), loc="outside lower center", ncols=min(4, len(pairs)))


def _dodged(panel: Axes, points: Sequence[tuple[float, Estimate]], method: str, *, shift: float) -> None:
    style = method_style(method)
    panel.errorbar(
        [at + shift for at, _ in points],
        [value.mean for _, value in points],
        yerr=list(zip(*(value.reach for _, value in points), strict=True)),
        **style.look,
        markersize=7 if method == OURS else 4.5,
        elinewidth=0.7,
        capsize=0,
        linewidth=1.1,
        label=style.label,
    )


def _subject_bars(panel: Axes, names: Sequence[str], cell: Cell, *, shift: float) -> None:
    _across(panel, [(names.index(name) + shift, share) for name, share in cell.by_subject().items()], cell.method)


def _across(panel: Axes, values: Sequence[tuple[float, Estimate]], method: str) -> None:
    """Draw values sideways with their intervals, each at its height."""
    panel.errorbar(
        [value.mean for _, value in values],
        [place for place, _ in values],
        xerr=list(zip(*(value.reach for _, value in values), strict=True)),
        **method_style(method).points,
        markersize=6 if method == OURS else 3.5,
        elinewidth=0.7,
        capsize=0,
    )
