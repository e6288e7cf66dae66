"""Forest plot: what one change of the configuration is worth, for every study with a few values of one field."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from lrd_peft.report.cells import CellRecords, NothingToDraw, cells_of
from lrd_peft.report.estimates import PairedTest, paired_test
from lrd_peft.report.figures.canvas import finding, legend_below, styled
from lrd_peft.report.study_records import StudyRecords
from lrd_peft.report.style import DATASET_COLORS, DATASET_MARKERS, dataset_label, field_label
from lrd_peft.report.tables import value_label
from lrd_peft.report.verdict import SIGNIFICANT

# Studies with more values are drawn along their field.
MOST_VALUES = 3


def is_comparison(study: StudyRecords) -> bool:
    """Whether a study varies one field over two or three values, so that its differences say everything."""
    if not isinstance(study.axis, str):
        return False
    values = {value_label(cell.value) for cell in cells_of(study.records, by=study.axis, own=True)}
    return 1 < len(values) <= MOST_VALUES


@styled
def study_differences(studies: Sequence[StudyRecords]) -> Figure:
    """Draw the accuracy of each value of a field minus that of the study's base configuration, one row per value.

    If the base has a value that was not run, the first one takes its place.

    Bars are the 95% interval of the difference, Student's t over problems or over seeds, the wider one; filled markers
    are significant over both (p < 0.05, not corrected for the number of rows).

    Raises:
        NothingToDraw: if no study can be compared.
    """
    rows: dict[str, dict[str, PairedTest]] = {}
    for study in studies:
        axis = study.axis
        if not isinstance(axis, str) or not is_comparison(study):
            continue
        found = cells_of(study.records, by=axis, own=True)
        repeated = [other.axis for other in studies].count(axis) > 1
        bases: dict[tuple[str, str], CellRecords] = {}
        for cell in sorted(found, key=lambda cell: cell.value != study.baseline):
            base = bases.setdefault((cell.method, cell.dataset), cell)
            if base is not cell:
                change = f"{value_label(cell.value)} instead of {value_label(base.value)}"
                label = f"{field_label(axis)}\n{change}" + (f" ({study.name})" if repeated else "")
                rows.setdefault(label, {})[cell.dataset] = paired_test(cell.outcomes, base.outcomes)
    if not rows:
        raise NothingToDraw("no study compares two or three values of one field")
    datasets = list(dict.fromkeys(dataset for tests in rows.values() for dataset in tests))
    figure = Figure(figsize=(7.2, 1.4 + 0.43 * len(rows)), layout="constrained")
    panel = figure.subplots()
    for place, tests in enumerate(rows.values()):
        for dataset, test in tests.items():
            index = datasets.index(dataset)
            at = place + 0.22 * (index - (len(datasets) - 1) / 2)
            color = DATASET_COLORS[index % len(DATASET_COLORS)]
            panel.errorbar(
                test.difference * 100,
                at,
                xerr=[[(test.difference - test.low) * 100], [(test.high - test.difference) * 100]],
                color=color,
                marker=DATASET_MARKERS[index % len(DATASET_MARKERS)],
                markerfacecolor=color if _is_sure(test) else "white",
                linestyle="none",
                elinewidth=1.0,
                label=dataset_label(dataset),
            )
    panel.axvline(0, color="#444444", linewidth=0.9)
    panel.set_yticks(range(len(rows)), list(rows), fontsize=8)
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.grid(visible=False, axis="y")
    for place in range(1, len(rows)):
        panel.axhline(place - 0.5, color="#EEEEEE", linewidth=0.8)
    panel.set_xlabel("accuracy difference, percentage points (filled: p < 0.05)")
    legend_below(figure, panel, columns=4)
    sure = [test for tests in rows.values() for test in tests.values() if _is_sure(test)]
    total = sum(map(len, rows.values()))
    up = sum(test.difference > 0 for test in sure)
    finding(figure, f"{len(sure)} of {total} changes are significant: {up} raise accuracy, {len(sure) - up} lower it")
    return figure


def _is_sure(test: PairedTest) -> bool:
    return test.p_problems < SIGNIFICANT and (test.p_seeds is None or test.p_seeds < SIGNIFICANT)
