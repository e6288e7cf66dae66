"""Figures 3, 4 and 5 and those of other studies: accuracy along fields of the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrd_peft.config.identity import has_use_for
from lrd_peft.evaluation.records import Record
from lrd_peft.report.cells import Axis, CellRecords, NothingToDraw, cells_of, dataset_order, sort_key
from lrd_peft.report.estimates import Estimate, paired_test
from lrd_peft.report.figures.baseline import short_count
from lrd_peft.report.figures.canvas import chance_line, finding, legend_below, panels, percent_axis, styled
from lrd_peft.report.style import (
    DATASET_COLORS,
    DATASET_MARKERS,
    GREY,
    OURS,
    dataset_label,
    field_label,
    method_style,
)
from lrd_peft.report.tables import axis_label, p_text, value_label
from lrd_peft.report.verdict import SIGNIFICANT, points


@styled
def alpha_sensitivity(records: Sequence[Record]) -> Figure:
    """Draw accuracy against the distillation weight, one panel per data set; see `sweep` for the intervals."""
    found = _cells(records, "distill_alpha")
    figure, axes = panels(len(dataset_order(found)), width=2.5, share_y=False)
    _panels(axes, found)
    for panel in axes:
        panel.set_xlabel(field_label("distill_alpha"))
    legend_below(figure, *axes, columns=2)
    finding(figure, _best_gain(found, "α"))
    return figure


@styled
def lora_rank_analysis(records: Sequence[Record]) -> Figure:
    """Draw accuracy and trained parameters against the rank, one panel each; see `sweep` for the intervals."""
    found = _cells(records, "lora_r")
    datasets = dataset_order(found)
    figure, axes = panels(len(datasets) + 1, width=1.95, share_y=False)
    _panels(axes, found)
    first = [cell for cell in found if cell.dataset == datasets[0]]
    ranks = [cell.value for cell in first]
    trained = [next(iter(cell.costs.values())).trainable_parameters for cell in first]
    axes[-1].plot(ranks, trained, color=GREY, marker="o")
    axes[-1].set_yscale("log")
    axes[-1].yaxis.set_major_formatter(lambda value, _: short_count(value))
    axes[-1].yaxis.set_minor_formatter(lambda value, _: "")
    axes[-1].set_title("trained parameters")
    for panel in axes:
        panel.set_xscale("log", base=2)
        panel.set_xticks(ranks, [str(rank) for rank in ranks], fontsize=8)
        panel.set_xlabel(field_label("lora_r"))
    legend_below(figure, *axes, columns=2)
    finding(figure, _best_gain(found, "rank"))
    return figure


@styled
def layer_selection(records: Sequence[Record]) -> Figure:
    """Draw accuracy by the aligned layers: single ones first, then ranges; see `sweep` for the intervals."""
    return sweep(records, "distill_layers")


@styled
def sweep(records: Sequence[Record], axis: Axis) -> Figure:
    """Draw accuracy by the values of a field (or several), as categories with the data sets side by side.

    Mean over seeds with the interval of `share_estimate`. Reference methods of the runs are left out.

    Raises:
        NothingToDraw: if the records have fewer than two values of the field.
    """
    found = _cells(records, axis)
    methods, datasets = list(dict.fromkeys(cell.method for cell in found)), dataset_order(found)
    values = sorted({value_label(cell.value): cell.value for cell in found}.items(), key=lambda item: sort_key(item[1]))
    places = {label: place for place, (label, _) in enumerate(values)}
    figure, axes = panels(len(methods), width=max(4.6, min(7.0, 1.2 + 0.55 * len(values))), height=3.0)
    for panel, method in zip(axes, methods, strict=True):
        for index, dataset in enumerate(datasets):
            own = [cell for cell in found if (cell.method, cell.dataset) == (method, dataset)]
            shift = 0.18 * (index - (len(datasets) - 1) / 2)
            at = [places[value_label(cell.value)] + shift for cell in own]
            look = {**_look(index), "linestyle": "none"}
            _errorbar(panel, at, [cell.accuracy for cell in own], dataset_label(dataset), **look)
        labels = [label for label, _ in values]
        crowded = max(map(len, labels)) * len(labels) > 45
        panel.set_xticks(range(len(values)), labels, rotation=40 if crowded else 0, ha="right" if crowded else "center")
        panel.set_xlim(-0.6, len(values) - 0.4)
        panel.grid(visible=False, axis="x")
        panel.set_xlabel(axis_label(axis))
        if len(methods) > 1:
            panel.set_title(method_style(method).label)
        for dataset in datasets:
            chance_line(panel, dataset, label=f"chance, {dataset_label(dataset)}")
    percent_axis(axes[0])
    axes[0].set_ylabel("accuracy")
    legend_below(figure, *axes, columns=4)
    finding(figure, _best_gain([cell for cell in found if cell.method == methods[-1]], axis_label(axis)))
    return figure


@styled
def crossed(records: Sequence[Record], axis: tuple[str, ...]) -> Figure:
    """Draw accuracy along the first of two fields, one line per value of the second, one panel per data set.

    A method that does not use the second field is a line of its own. Intervals as in `sweep`.

    Raises:
        NothingToDraw: if the records have fewer than two values.
    """
    along, across = axis
    found = _cells(records, axis)
    methods, datasets = list(dict.fromkeys(cell.method for cell in found)), dataset_order(found)
    values = sorted({value_label(cell.value[0]): cell.value[0] for cell in found}.values(), key=sort_key)
    places = {value_label(value): place for place, value in enumerate(values)}
    lines: dict[tuple[str, str], list[CellRecords]] = {}
    for cell in sorted(found, key=lambda cell: (methods.index(cell.method), sort_key(cell.value[1]))):
        lines.setdefault((cell.method, value_label(cell.value[1])), []).append(cell)
    looks = _line_looks(list(lines), across)
    figure, axes = panels(len(datasets), width=2.5)
    for panel, dataset in zip(axes, datasets, strict=True):
        chance_line(panel, dataset)
        for index, ((method, value), line) in enumerate(lines.items()):
            own = sorted((cell for cell in line if cell.dataset == dataset), key=lambda cell: sort_key(cell.value[0]))
            shift = 0.06 * (index - (len(lines) - 1) / 2)
            at = [places[value_label(cell.value[0])] + shift for cell in own]
            named = [method_style(method).label] if len(methods) > 1 else []
            if has_use_for(method, across):
                named.append(f"{field_label(across)} {value}")
            name = ", ".join(named) or value
            _errorbar(panel, at, [cell.accuracy for cell in own], name, **looks[method, value])
        panel.set_xticks(range(len(values)), [value_label(value) for value in values])
        panel.set_xlim(-0.5, len(values) - 0.5)
        panel.set_xlabel(field_label(along))
        panel.set_title(dataset_label(dataset))
    percent_axis(axes[0])
    axes[0].set_ylabel("accuracy")
    legend_below(figure, *axes, columns=2)
    finding(figure, _crossed_finding(found, axis))
    return figure


def _crossed_finding(found: Sequence[CellRecords], axis: tuple[str, ...]) -> str:
    """Return, for each value of the first field, what the second field's last value gains over its first."""
    ours = [cell for cell in found if cell.method == OURS and cell.dataset == found[0].dataset]
    rows: dict[str, list[CellRecords]] = {}
    for cell in sorted(ours, key=lambda cell: sort_key(cell.value)):
        rows.setdefault(value_label(cell.value[0]), []).append(cell)
    gains = [
        f"{points(line[-1].accuracy.mean - line[0].accuracy.mean)} at {value}"
        for value, line in rows.items()
        if len(line) > 1
    ]
    if not gains:
        return f"Accuracy by {axis_label(axis)}"
    low, high = (value_label(next(iter(rows.values()))[end].value[1]) for end in (0, -1))
    return (
        f"On {dataset_label(found[0].dataset)}, {field_label(axis[1])} {high} instead of {low} changes accuracy by "
        f"{', '.join(gains)} {field_label(axis[0])}"
    )


def _best_gain(found: Sequence[CellRecords], name: str) -> str:
    """Return how far the best value of an axis is above its first, on the data set where that is the most."""
    best: tuple[float, CellRecords, CellRecords] | None = None
    for dataset in dataset_order(found):
        line = [cell for cell in found if cell.dataset == dataset]
        top = max(line, key=lambda cell: cell.accuracy.mean)
        gain = top.accuracy.mean - line[0].accuracy.mean
        if top is not line[0] and (best is None or gain > best[0]):
            best = gain, top, line[0]
    if best is None:
        return f"No value of {name} is above {value_label(found[0].value)}"
    gain, top, first = best
    test = paired_test(top.outcomes, first.outcomes)
    p = test.p_problems if test.p_seeds is None else max(test.p_problems, test.p_seeds)
    begin = "The largest gain" if p < SIGNIFICANT else "No significant gain"
    return (
        f"{begin} over {name} = {value_label(first.value)}: {points(gain)} on {dataset_label(top.dataset)} at "
        f"{value_label(top.value)} (p = {p_text(p)})"
    )


def _line_looks(lines: Sequence[tuple[str, str]], across: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return how each line of (method, value) looks: as the method does everywhere, if it has one such line."""
    without_alignment = (OURS, "0") if across == "distill_alpha" else None
    styles = {line: "latent-lora-alpha0" if line == without_alignment else line[0] for line in lines}
    looks: dict[tuple[str, str], dict[str, Any]] = {}
    for index, (line, style) in enumerate(styles.items()):
        alone = list(styles.values()).count(style) == 1
        looks[line] = method_style(style).look if alone else _look(index)
    return looks


def _cells(records: Sequence[Record], axis: Axis) -> list[CellRecords]:
    found = cells_of(records, by=axis, own=True)
    if len({value_label(cell.value) for cell in found}) < 2:
        raise NothingToDraw(f"the records have fewer than two values of {axis_label(axis)}")
    return found


def _panels(axes: Sequence[Axes], found: Sequence[CellRecords]) -> None:
    """Draw one line per panel and data set along a numeric axis."""
    for index, (dataset, panel) in enumerate(zip(dataset_order(found), axes, strict=False)):
        own = [cell for cell in found if cell.dataset == dataset and cell.value is not None]
        chance_line(panel, dataset)
        _errorbar(panel, [cell.value for cell in own], [cell.accuracy for cell in own], None, **_look(index))
        panel.set_title(dataset_label(dataset))
        percent_axis(panel, low=None)
    axes[0].set_ylabel("accuracy")


def _errorbar(panel: Axes, at: Sequence[float], values: Sequence[Estimate], label: str | None, **look: Any) -> None:
    """Draw means with their intervals; `look` is matplotlib's."""
    panel.errorbar(
        at,
        [value.mean for value in values],
        yerr=list(zip(*(value.reach for value in values), strict=True)),
        elinewidth=0.9,
        label=label,
        **look,
    )


def _look(index: int) -> dict[str, str]:
    colors, markers = DATASET_COLORS, DATASET_MARKERS
    return {"color": colors[index % len(colors)], "marker": markers[index % len(markers)]}
