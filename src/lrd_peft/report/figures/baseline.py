"""Figure 1 (accuracy by student size and method), the chart of the verdict, and tables as pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lrd_peft.evaluation.records import Record
from lrd_peft.report.cells import CellRecords, NothingToDraw, cells_of, dataset_order
from lrd_peft.report.figures.canvas import chance_line, finding, legend_below, name_rows, panels, percent_axis, styled
from lrd_peft.report.reference import CLAIMED, LABEL
from lrd_peft.report.style import GREY, OURS, dataset_label, in_order, method_style
from lrd_peft.report.tables import Table, main_table
from lrd_peft.report.verdict import headline


@styled
def comprehensive_baseline(records: Sequence[Record], *, reference: bool = False) -> Figure:
    """Draw accuracy by student size and method, one panel per data set; bars if every method has one size only.

    Mean over seeds with the interval of `share_estimate`.

    Args:
        records: of the study `size`, or of `methods`.
        reference: add a panel of SPEC.md's claims, labeled as such.

    Raises:
        NothingToDraw: if no record holds a measured method.
    """
    found = cells_of(records, by="student")
    if not found:
        raise NothingToDraw("no record holds a measured method")
    datasets = dataset_order(found)
    sizes = {method: {c.total_parameters for c in found if c.method == method} for method in {c.method for c in found}}
    several = max(map(len, sizes.values())) > 1
    methods = in_order(sizes)
    height = 3.0 if several else 1.2 + 0.22 * len(methods)
    figure, axes = panels(len(datasets) + reference, width=2.5, height=height, share_y=several)
    for panel, dataset in zip(axes, datasets, strict=False):
        own = [cell for cell in found if cell.dataset == dataset]
        panel.set_title(dataset_label(dataset))
        chance_line(panel, dataset, sideways=not several)
        if several:
            _lines(panel, own)
        else:
            _bars(panel, {cell.method: cell for cell in own}, methods, last=dataset == datasets[-1])
    if several:
        percent_axis(axes[0])
        axes[0].set_ylabel("accuracy")
        legend_below(figure, *axes[: len(datasets)], columns=4)
        finding(figure, _size_finding(found, datasets[0]) or "Accuracy by student size")
    else:
        top = min(1.3, 0.3 + max(cell.accuracy.high for cell in found))
        for panel in axes[: len(datasets)]:
            panel.set_xlim(0, top)
        for panel in axes[1 : len(datasets)]:
            panel.set_yticklabels([])
        legend_below(figure, *axes[: len(datasets)], columns=1)
        finding(figure, headline(records) or "Accuracy by method")
    if reference:
        _claims(axes[-1])
    return figure


def _size_finding(found: Sequence[CellRecords], dataset: str) -> str:
    """Return how far the best text student is ahead of latent-lora, at each size."""
    gaps = []
    for size in sorted({cell.total_parameters for cell in found if cell.method == OURS}):
        level = [cell for cell in found if cell.dataset == dataset and cell.total_parameters == size]
        ours = next((cell.accuracy.mean for cell in level if cell.method == OURS), None)
        text = [cell.accuracy.mean for cell in level if not method_style(cell.method).latent]
        if ours is not None and text:
            gaps.append(ours - max(text))
    if not gaps:
        return ""
    side = "below" if max(gaps) < 0 else "above" if min(gaps) > 0 else "from"
    low, high = sorted(abs(gap) if side != "from" else gap for gap in (min(gaps), max(gaps)))
    return (
        f"{method_style(OURS).label} is {100 * low:.0f} to {100 * high:.0f} points {side} the best text student of its "
        f"size on {dataset_label(dataset)}"
    )


def _lines(panel: Axes, own: Sequence[CellRecords]) -> None:
    for method in in_order(cell.method for cell in own):
        line = sorted((cell for cell in own if cell.method == method), key=lambda cell: cell.total_parameters)
        style, shares = method_style(method), [cell.accuracy for cell in line]
        panel.errorbar(
            [cell.total_parameters for cell in line],
            [share.mean for share in shares],
            yerr=list(zip(*(share.reach for share in shares), strict=True)),
            **(style.look if len(line) > 1 else style.points),
            markersize=8 if method == OURS else 5,
            elinewidth=0.8,
            label=style.label,
        )
    sizes = sorted({cell.total_parameters for cell in own})
    panel.set_xscale("log")
    panel.set_xticks(sizes, [short_count(size) for size in sizes], rotation=40, ha="right")
    panel.set_xticks([], minor=True)
    panel.set_xlabel("parameters")


def _bars(panel: Axes, own: dict[str, CellRecords], methods: Sequence[str], *, last: bool) -> None:
    for place, method in enumerate(methods):
        if method not in own:
            continue
        share, style = own[method].accuracy, method_style(method)
        panel.barh(
            place,
            share.mean,
            xerr=[[share.reach[0]], [share.reach[1]]],
            **style.bar,
            height=0.7,
            error_kw={"ecolor": "#444444", "elinewidth": 0.9},
        )
        panel.text(share.high + 0.02, place, f"{share.mean:.1%}", va="center", fontsize=8)
    name_rows(panel, methods, last=last)
    panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    panel.set_xlabel("accuracy")
    panel.grid(visible=False, axis="y")


def _claims(panel: Axes) -> None:
    for place, claim in enumerate(CLAIMED.values()):
        mean = sum(claim.accuracy.values()) / len(claim.accuracy)
        panel.barh(place, mean, color="white", edgecolor=GREY, hatch="///", height=0.7)
        panel.text(mean + 0.01, place, f"{mean:.1%}", va="center", fontsize=8)
    panel.set_yticks(range(len(CLAIMED)), [method_style(method).label for method in CLAIMED])
    panel.set_ylim(len(CLAIMED) - 0.4, -0.6)
    panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    panel.set_title(LABEL.replace(", ", ",\n") + "\n(mean of GSM8K, MATH and AQuA-RAT)", fontsize=8)
    panel.set_xlim(0, 0.6)


@styled
def verdict_chart(records: Sequence[Record]) -> Figure:
    """Draw accuracy against sequential model passes, one panel per data set: the trade-off of the verdict.

    Means over seeds; bars are the interval of `share_estimate`.

    Raises:
        NothingToDraw: if no record holds a measured method.
    """
    found = cells_of(records)
    if not found:
        raise NothingToDraw("no record holds a measured method")
    datasets = dataset_order(found)
    figure, axes = panels(len(datasets), width=2.5, height=3.4)
    for panel, dataset in zip(axes, datasets, strict=True):
        chance_line(panel, dataset)
        for cell in (cell for cell in found if cell.dataset == dataset):
            style, share = method_style(cell.method), cell.accuracy
            panel.errorbar(
                cell.mean("mean_passes").mean,
                share.mean,
                yerr=[[share.reach[0]], [share.reach[1]]],
                **style.points,
                markersize=9 if cell.method == OURS else 6,
                elinewidth=0.8,
                label=style.label,
            )
        panel.set_title(dataset_label(dataset))
        panel.set_xlabel("model passes per problem")
        panel.set_xlim(left=0)
    percent_axis(axes[0])
    axes[0].set_ylabel("accuracy")
    legend_below(figure, *axes, columns=4)
    finding(figure, "Accuracy against sequential model passes")
    return figure


@styled
def main_results(records: Sequence[Record], *, reference: bool = False) -> Figure:
    """Draw table 1 as a picture; see `main_table` for its contents.

    Raises:
        NothingToDraw: if no record holds a measured method.
    """
    return table_picture(main_table(records, reference=reference), title=headline(records))


def table_picture(table: Table, *, title: str = "") -> Figure:
    """Return a table as a figure, its columns as wide as their text and its best values in bold."""
    lines = [table.header, *table.rows]
    # A row with only its first text (a claim) spans the whole width.
    full = [line for line in lines if any(line[1:])]
    widths = [max(len(line[column]) for line in full) + 2 for column in range(len(table.header))]
    inches, row_height = 0.075 * sum(widths), 0.21
    heading = textwrap.wrap(title, int(12.5 * inches))
    top = 0.9 * len(heading) + 1
    figure = Figure(figsize=(inches, row_height * (len(lines) + top + 2)), layout=None)
    axes = figure.add_axes((0.01, 0.0, 0.98, 1.0))
    axes.set_axis_off()
    axes.set_xlim(0, sum(widths))
    axes.set_ylim(len(lines) + 2, -top)
    for row, line in enumerate(lines):
        at = 0
        for column, (text, width) in enumerate(zip(line, widths, strict=True)):
            axes.text(
                at if column == 0 else at + width - 1,
                row,
                text,
                ha="left" if column == 0 else "right",
                va="center",
                fontsize=8.5,
                fontweight="bold" if row == 0 or (row - 1, column) in table.best else "normal",
                color=GREY if line not in full else "black",
            )
            at += width
    for place, thickness in ((-0.6, 1.2), (0.5, 0.7), (len(lines) - 0.4, 1.2)):
        axes.axhline(place, color="black", linewidth=thickness)
    axes.text(0, -top + 0.1, "\n".join(heading), fontsize=9.5, fontweight="bold", va="top")
    wrapped = "\n".join(textwrap.wrap(table.note, int(17 * inches)))
    axes.text(0, len(lines), wrapped, fontsize=8, va="top", color="#444444")
    return figure


def short_count(value: float) -> str:
    """Return 424008 as "0.42M" and 2.9e9 as "2.9B"."""
    for limit, unit in ((1e9, "B"), (1e5, "M"), (1e3, "k")):
        if value >= limit:
            scaled = value / (1e6 if unit == "M" else limit)
            return f"{scaled:.2g}{unit}"
    return f"{value:.0f}"
