"""Figure 7 (accuracy by number of steps and subject), the calibration curve and the error breakdown."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lrd_peft.evaluation.metrics import Summary, wilson
from lrd_peft.records import Record
from lrd_peft.report.cells import Cell, NothingToDraw, cells, dataset_order
from lrd_peft.report.estimates import Estimate
from lrd_peft.report.figures.canvas import legend_below, panels, percent_axis, styled
from lrd_peft.report.style import BLUE, GREY, ORANGE, OURS, SKY, dataset_label, in_order, method_style

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

    Mean over seeds with the interval of `share_estimate` (the wider of Wilson's over the group's problems and
    Student's t over the seeds). The number of steps is that of the problem's own solution.

    Raises:
        NothingToDraw: if no record holds a measured method.
    """
    found = _measured(records)
    datasets, methods = dataset_order(found), in_order(cell.method for cell in found)
    subjects = {d: sorted({s for c in found if c.dataset == d for s in c.by_subject()}) for d in datasets}
    most = max(map(len, subjects.values()))
    rows = 2 if most else 1
    figure = Figure(
        figsize=(2.9 * len(datasets), 2.6 + (0.9 + 0.1 * most * len(methods) if most else 0)), layout="constrained"
    )
    ratios = [2.4, 0.5 + 0.1 * most * len(methods)][:rows]
    grid = figure.subplots(rows, len(datasets), squeeze=False, height_ratios=ratios)
    for column, dataset in enumerate(datasets):
        own = [cell for cell in found if cell.dataset == dataset]
        above = grid[0][column]
        for index, cell in enumerate(own):
            _dodged(above, list(cell.by_steps().items()), cell.method, shift=0.05 * (index - (len(own) - 1) / 2))
        above.set_title(dataset_label(dataset))
        above.set_xlabel("reasoning steps of the problem")
        above.xaxis.set_major_locator(MaxNLocator(integer=True))
        percent_axis(above)
        above.set_ylim(-0.03, 1.03)
        if rows == 2 and not subjects[dataset]:
            grid[1][column].set_axis_off()
        elif rows == 2:
            names, below = subjects[dataset], grid[1][column]
            for index, cell in enumerate(own):
                shift = 0.8 * ((index + 0.5) / len(own) - 0.5)
                _subject_bars(below, names, cell, shift=shift)
            below.set_yticks(range(len(names)), names)
            below.set_ylim(len(names) - 0.5, -0.5)
            below.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            below.set_xlim(-0.03, 1.03)
            below.set_xlabel("accuracy by subject")
    grid[0][0].set_ylabel("accuracy")
    legend_below(figure, grid[0][0], columns=4)
    return figure


@styled
def calibration(records: Sequence[Record]) -> Figure:
    """Draw accuracy against confidence, a panel a data set; the legend gives the expected calibration error (ECE).

    Points are the bins of all seeds together: their problems are pooled, weighted by their number; the bars are
    Wilson's 95% interval of a bin's pooled answers. On the diagonal a model is right as often as it says. ECE is the
    mean over seeds.

    Raises:
        NothingToDraw: if no record holds confidences.
    """
    found = [cell for cell in _measured(records) if any(s.calibration for s in cell.summaries.values())]
    if not found:
        raise NothingToDraw("no record holds confidences")
    datasets = dataset_order(found)
    figure, axes = panels(len(datasets), width=3.0, height=3.6)
    for panel, dataset in zip(axes, datasets, strict=True):
        panel.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
        lines = []
        for cell in (cell for cell in found if cell.dataset == dataset):
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
            errors = [summary.ece for summary in cell.summaries.values() if summary.ece is not None]
            style = method_style(cell.method)
            line = _dodged(panel, points, cell.method, shift=0.0)
            lines.append((line, f"{style.label}: ECE {sum(errors) / len(errors):.2f}"))
        panel.set_title(dataset_label(dataset))
        panel.set_xlabel("confidence in the answer")
        panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panel.legend(*zip(*lines, strict=True), loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=6.5)
    percent_axis(axes[0])
    axes[0].set_ylim(-0.02, 1.02)
    axes[0].set_ylabel("accuracy")
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
        panel.set_yticks(range(len(methods)), [method_style(method).label for method in methods])
        panel.set_ylim(len(methods) - 0.5, -0.5)
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


def _dodged(panel: Axes, points: Sequence[tuple[float, Estimate]], method: str, *, shift: float) -> ErrorbarContainer:
    style = method_style(method)
    return panel.errorbar(
        [at + shift for at, _ in points],
        [value.mean for _, value in points],
        yerr=list(zip(*(value.reach for _, value in points), strict=True)),
        color=style.colour,
        marker=style.marker,
        markersize=7 if method == OURS else 4.5,
        elinewidth=0.7,
        capsize=0,
        linewidth=1.1,
        label=style.label,
    )


def _subject_bars(panel: Axes, names: Sequence[str], cell: Cell, *, shift: float) -> None:
    shares = [(names.index(name) + shift, share) for name, share in cell.by_subject().items()]
    style = method_style(cell.method)
    panel.errorbar(
        [share.mean for _, share in shares],
        [place for place, _ in shares],
        xerr=list(zip(*(share.reach for _, share in shares), strict=True)),
        color=style.colour,
        marker=style.marker,
        markersize=6 if cell.method == OURS else 3.5,
        elinewidth=0.7,
        capsize=0,
        linestyle="none",
    )
