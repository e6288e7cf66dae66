"""Figures 3, 4 and 5 and those of the other studies: accuracy along one field of the configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrd_peft.config.identity import has_use_for
from lrd_peft.records import Record
from lrd_peft.report.cells import Axis, Cell, NothingToDraw, cells, dataset_order, sort_key
from lrd_peft.report.estimates import Estimate
from lrd_peft.report.figures.baseline import short_count
from lrd_peft.report.figures.canvas import legend_below, panels, percent_axis, styled
from lrd_peft.report.main_table import axis_label, value_label
from lrd_peft.report.style import (
    DATASET_COLOURS,
    DATASET_MARKERS,
    GREY,
    OURS,
    dataset_label,
    field_label,
    method_style,
)


@styled
def alpha_sensitivity(records: Sequence[Record]) -> Figure:
    """Draw accuracy against the distillation weight, a line a data set; see `sweep` for the intervals."""
    figure, axes = panels(1, width=4.6)
    _lines(axes[0], _cells(records, "distill_alpha"), beside=lambda alpha, place: alpha + 0.007 * place)
    axes[0].set_xlabel(field_label("distill_alpha"))
    legend_below(figure, axes[0], columns=4)
    return figure


@styled
def lora_rank_analysis(records: Sequence[Record]) -> Figure:
    """Draw accuracy, trained parameters and training time against the rank; see `sweep` for the intervals.

    The interval of the time is Student's t over seeds.
    """
    found = _cells(records, "lora_r")
    figure, axes = panels(3, width=2.7, share_y=False)
    _lines(axes[0], found, beside=lambda rank, place: rank * 1.07**place)
    first = [cell for cell in found if cell.dataset == found[0].dataset]
    ranks = [cell.value for cell in first]
    trained = [next(iter(cell.costs.values())).trainable_parameters for cell in first]
    axes[1].plot(ranks, trained, color=GREY, marker="o")
    axes[1].set_yscale("log")
    axes[1].yaxis.set_major_formatter(lambda value, _: short_count(value))
    axes[1].set_title("trained parameters")
    timed = [(cell.value, time) for cell in first if (time := cell.training_seconds()) is not None]
    if timed:
        _errorbar(axes[2], [rank for rank, _ in timed], [time for _, time in timed], None, color=GREY, marker="o")
        axes[2].set_ylim(0, 1.1 * max(time.high for _, time in timed))
    axes[2].set_title("training time, seconds")
    for panel in axes:
        panel.set_xscale("log", base=2)
        panel.set_xticks(ranks, [str(rank) for rank in ranks])
        panel.set_xlabel(field_label("lora_r"))
    axes[0].set_title("accuracy")
    axes[0].set_ylabel("")
    legend_below(figure, axes[0], columns=4)
    return figure


@styled
def layer_selection(records: Sequence[Record]) -> Figure:
    """Draw accuracy by the layers aligned: single ones first, then ranges; see `sweep` for the intervals."""
    return sweep(records, "distill_layers")


@styled
def sweep(records: Sequence[Record], axis: Axis) -> Figure:
    """Draw accuracy by the values of a field, or of several, as categories, side by side for each data set.

    Mean over seeds with the interval of `share_estimate` (the wider of Wilson's over the problems and Student's t over
    the seeds); what runs measured beside their own method is left out.

    Raises:
        NothingToDraw: if the records have fewer than two values of the field.
    """
    found = _cells(records, axis)
    methods, datasets = list(dict.fromkeys(cell.method for cell in found)), dataset_order(found)
    values = sorted({value_label(cell.value): cell.value for cell in found}.items(), key=lambda item: sort_key(item[1]))
    places = {label: place for place, (label, _) in enumerate(values)}
    figure, axes = panels(len(methods), width=max(3.4, min(7.0, 1.2 + 0.5 * len(values))), height=3.0)
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
            panel.set_title(method)
    percent_axis(axes[0])
    axes[0].set_ylabel("accuracy")
    legend_below(figure, axes[0], columns=4)
    return figure


@styled
def crossed(records: Sequence[Record], axis: tuple[str, ...]) -> Figure:
    """Draw accuracy along the first of two fields, a line for each value of the second, a panel a data set.

    A method that has no use for the second field is a line of its own. Intervals as in `sweep`.

    Raises:
        NothingToDraw: if the records have fewer than two values.
    """
    along, across = axis
    found = _cells(records, axis)
    methods, datasets = list(dict.fromkeys(cell.method for cell in found)), dataset_order(found)
    values = sorted({value_label(cell.value[0]): cell.value[0] for cell in found}.values(), key=sort_key)
    places = {value_label(value): place for place, value in enumerate(values)}
    lines: dict[tuple[str, str], list[Cell]] = {}
    for cell in sorted(found, key=lambda cell: (methods.index(cell.method), sort_key(cell.value[1]))):
        lines.setdefault((cell.method, value_label(cell.value[1])), []).append(cell)
    looks = _line_looks(list(lines), across)
    figure, axes = panels(len(datasets), width=2.6)
    for panel, dataset in zip(axes, datasets, strict=True):
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
    legend_below(figure, axes[0], columns=2)
    return figure


def _line_looks(lines: Sequence[tuple[str, str]], across: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return how each line of (method, value) looks: as the method does everywhere, if it has one such line."""
    without_alignment = (OURS, "0") if across == "distill_alpha" else None
    styles = {line: "latent-lora-alpha0" if line == without_alignment else line[0] for line in lines}
    looks: dict[tuple[str, str], dict[str, Any]] = {}
    for index, (line, style) in enumerate(styles.items()):
        alone = list(styles.values()).count(style) == 1
        looks[line] = method_style(style).look if alone else _look(index)
    return looks


def _cells(records: Sequence[Record], axis: Axis) -> list[Cell]:
    found = cells(records, by=axis, own=True)
    if len({value_label(cell.value) for cell in found}) < 2:
        raise NothingToDraw(f"the records have fewer than two values of {axis_label(axis)}")
    return found


def _lines(panel: Axes, found: Sequence[Cell], *, beside: Callable[[float, float], float]) -> None:
    """Draw a line a data set; `beside` moves a value by a place or so, for intervals to stand beside each other."""
    datasets = dataset_order(found)
    for index, dataset in enumerate(datasets):
        own = [cell for cell in found if cell.dataset == dataset and cell.value is not None]
        at = [beside(cell.value, index - (len(datasets) - 1) / 2) for cell in own]
        _errorbar(panel, at, [cell.accuracy for cell in own], dataset_label(dataset), **_look(index))
    percent_axis(panel)
    panel.set_ylabel("accuracy")


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
    colours, markers = DATASET_COLOURS, DATASET_MARKERS
    return {"color": colours[index % len(colours)], "marker": markers[index % len(markers)]}
