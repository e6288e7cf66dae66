"""Figure 1 (accuracy by student size and method) and table 1 as a picture. Knows records, not files."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lrd_peft.records import Record
from lrd_peft.report.cells import Cell, NothingToDraw, cells, dataset_order
from lrd_peft.report.figures.canvas import legend_below, name_rows, panels, percent_axis, styled
from lrd_peft.report.main_table import Table, main_table
from lrd_peft.report.reference import CLAIMED, LABEL
from lrd_peft.report.style import GREY, OURS, dataset_label, in_order, method_style


@styled
def comprehensive_baseline(records: Sequence[Record], *, reference: bool = False) -> Figure:
    """Draw accuracy by student size and method, a panel a data set; bars where every method has one size only.

    Mean over seeds with the interval of `share_estimate` (the wider of Wilson's over the problems and Student's t over
    the seeds).

    Args:
        records: of the study `size`, or of `methods`.
        reference: add a panel of SPEC.md's claims, labelled so.

    Raises:
        NothingToDraw: if no record holds a measured method.
    """
    found = cells(records, by="student")
    if not found:
        raise NothingToDraw("no record holds a measured method")
    datasets = dataset_order(found)
    sizes = {method: {c.total_parameters for c in found if c.method == method} for method in {c.method for c in found}}
    several = max(map(len, sizes.values())) > 1
    methods = in_order(sizes)
    figure, axes = panels(
        len(datasets) + reference, width=2.6, height=3.0 if several else 0.9 + 0.26 * len(methods), share_y=several
    )
    for panel, dataset in zip(axes, datasets, strict=False):
        own = [cell for cell in found if cell.dataset == dataset]
        panel.set_title(dataset_label(dataset))
        if several:
            _lines(panel, own)
        else:
            _bars(panel, {cell.method: cell for cell in own}, methods, last=dataset == datasets[-1])
    if several:
        percent_axis(axes[0])
        axes[0].set_ylabel("accuracy")
        legend_below(figure, axes[0], columns=4)
    else:
        top = min(1.25, 0.22 + max(cell.accuracy.high for cell in found))
        for panel in axes[: len(datasets)]:
            panel.set_xlim(0, top)
        for panel in axes[1 : len(datasets)]:
            panel.set_yticklabels([])
    if reference:
        _claims(axes[-1])
    return figure


def _lines(panel: Axes, own: Sequence[Cell]) -> None:
    methods = in_order(cell.method for cell in own)
    for index, method in enumerate(methods):
        line = sorted((cell for cell in own if cell.method == method), key=lambda cell: cell.total_parameters)
        style, shares = method_style(method), [cell.accuracy for cell in line]
        shift = 1.012 ** (index - (len(methods) - 1) / 2)  # intervals stand beside each other
        panel.errorbar(
            [cell.total_parameters * shift for cell in line],
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


def _bars(panel: Axes, own: dict[str, Cell], methods: Sequence[str], *, last: bool) -> None:
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
        panel.text(share.high + 0.02, place, f"{share.mean:.1%}", va="center", fontsize=7)
    name_rows(panel, methods, last=last)
    panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    panel.set_xlabel("accuracy")
    panel.grid(visible=False, axis="y")


def _claims(panel: Axes) -> None:
    for place, claim in enumerate(CLAIMED.values()):
        mean = sum(claim.accuracy.values()) / len(claim.accuracy)
        panel.barh(place, mean, color="white", edgecolor=GREY, hatch="///", height=0.7)
        panel.text(mean + 0.01, place, f"{mean:.1%}", va="center", fontsize=7)
    panel.set_yticks(range(len(CLAIMED)), [method_style(method).label for method in CLAIMED])
    panel.set_ylim(len(CLAIMED) - 0.4, -0.6)
    panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    panel.set_title(LABEL.replace(", ", ",\n") + "\n(mean of GSM8K, MATH and AQuA-RAT)", fontsize=6.5)
    panel.set_xlim(0, 0.6)


@styled
def main_results(records: Sequence[Record], *, reference: bool = False) -> Figure:
    """Draw table 1 as a picture; what stands in it, `main_table` says.

    Raises:
        NothingToDraw: if no record holds a measured method.
    """
    return table_picture(main_table(records, reference=reference), bold=method_style(OURS).label)


def table_picture(table: Table, *, bold: str) -> Figure:
    """Return a table as a figure, its columns as wide as their text; the row that begins with `bold` is bold."""
    lines = [table.header, *table.rows]
    # A row that has only its first text (a claim) runs over the whole width.
    full = [line for line in lines if any(line[1:])]
    widths = [max(len(line[column]) for line in full) + 2 for column in range(len(table.header))]
    inches, row_height = 0.068 * sum(widths), 0.23
    figure = Figure(figsize=(inches, row_height * (len(lines) + 2)), layout=None)
    axes = figure.add_axes((0.01, 0.0, 0.98, 1.0))
    axes.set_axis_off()
    axes.set_xlim(0, sum(widths))
    axes.set_ylim(len(lines) + 1, -1)
    for row, line in enumerate(lines):
        at = 0
        for column, (text, width) in enumerate(zip(line, widths, strict=True)):
            axes.text(
                at if column == 0 else at + width - 1,
                row,
                text,
                ha="left" if column == 0 else "right",
                va="center",
                fontsize=7.5,
                fontweight="bold" if row == 0 or line[0] == bold else "normal",
                color=GREY if line not in full else "black",
            )
            at += width
    for place, thickness in ((-0.6, 1.2), (0.5, 0.7), (len(lines) - 0.4, 1.2)):
        axes.axhline(place, color="black", linewidth=thickness)
    axes.text(0, len(lines) + 0.2, table.note, fontsize=6.5, va="center", color="#444444")
    return figure


def short_count(value: float) -> str:
    """Return 424008 as "0.42M" and 2.9e9 as "2.9B"."""
    for limit, unit in ((1e9, "B"), (1e5, "M"), (1e3, "k")):
        if value >= limit:
            scaled = value / (1e6 if unit == "M" else limit)
            return f"{scaled:.2g}{unit}"
    return f"{value:.0f}"
