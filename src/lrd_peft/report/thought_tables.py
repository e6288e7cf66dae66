"""What thoughts are worth and what they hold, as tables."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from statistics import mean

from rich import box
from rich.table import Table as TerminalTable

from lrd_peft.evaluation.ablation_results import Ablated, Ablation
from lrd_peft.evaluation.metrics import wilson
from lrd_peft.evaluation.parallel_results import ParallelThoughts
from lrd_peft.evaluation.probe_results import Probed, ProbedTarget
from lrd_peft.report.run_summary import table_text, told
from lrd_peft.report.study_records import CellLooks
from lrd_peft.report.tables import Table, cell_label, p_text

_HEADER = ("thoughts", "accuracy", "95% interval", "points lost", "p", "answers changed", "KL", "of the donor")


def ablation_table(ablation: Ablation) -> Table:
    """Return the interventions on one model and data set, the untouched model first."""
    whole = ablation.untouched
    first = ("its own", f"{whole.accuracy:.1%}", _interval(whole.interval), "", "", "", "", "")
    notes = [
        f"{whole.n} held-out problems. p: McNemar's exact test against the model's own thoughts. KL: of the first "
        "answer token, in nats. Of the donor: answers that are now those of the problem whose thoughts were given."
    ]
    notes += left_out_notes(ablation)
    return Table(header=_HEADER, rows=(first, *map(_row, ablation.rows)), note=" ".join(notes))


_COMPARED = (
    ("none", "no thoughts"),
    ("zeros", "zeros"),
    ("filler", "filler token"),
    ("other-answer", "another problem's"),
    ("repeat-first", "first in every slot"),
)


def ablation_summary(looks: CellLooks) -> Table:
    """Return what the thoughts of each cell of a study are worth: mean accuracies over seeds.

    A star marks a difference from the model's own thoughts that McNemar's exact test finds (p < 0.05) for every seed.
    """
    rows = []
    for cell, by_seed in looks.ablations.items():
        groups: dict[tuple[str, str], list[Ablation]] = {}
        for found in by_seed.values():
            for each in found.found:
                groups.setdefault((each.model, each.dataset), []).append(each)
        for (_, dataset), group in groups.items():
            own = mean(each.untouched.accuracy for each in group)
            rows.append(
                (
                    cell_label(cell),
                    dataset,
                    f"{own:.1%}",
                    *(_compared(group, name) for name, _ in _COMPARED),
                    str(len(group)),
                )
            )
    sizes = sorted({each.untouched.n for cell in looks.ablations.values() for a in cell.values() for each in a.found})
    note = (
        f"Mean accuracy over seeds on {' or '.join(map(str, sizes))} held-out problems. *: differs from the model's "
        "own thoughts for every seed (McNemar's exact test, p < 0.05)."
    )
    header = ("cell", "set", "its own thoughts", *(title for _, title in _COMPARED), "seeds")
    return Table(header=header, rows=tuple(rows), note=note)


def _compared(group: Sequence[Ablation], name: str) -> str:
    found = [row for each in group if (row := each.row(name)) is not None]
    if not found:
        return ""
    star = "*" if all(row.p_value < 0.05 for row in found) else ""
    return f"{mean(row.accuracy.accuracy for row in found):.1%}{star}"


def probe_summary(looks: CellLooks) -> Table:
    """Return what linear probes read in the thoughts of each cell of a study: mean accuracies over seeds."""
    rows = []
    for cell, by_seed in looks.probes.items():
        groups: dict[tuple[str, str], list[ProbedTarget]] = {}
        for found in by_seed.values():
            for each in found.found:
                for target in each.targets:
                    groups.setdefault((each.dataset, target.name), []).append(target)
        for (dataset, name), group in groups.items():
            best = [(t.accuracy, t.shuffled, t.best) for t in group if t.best is not None]
            read = [accuracy[layer][place] or 0.0 for accuracy, _, (layer, place) in best]
            shuffled = [chance[layer][place] or 0.0 for _, chance, (layer, place) in best]
            question = [target.accuracy[target.best_question][0] or 0.0 for target in group]
            majority = [target.majority for target in group]
            shares = (f"{mean(values):.1%}" if values else "" for values in (read, question, shuffled, majority))
            rows.append((cell_label(cell), dataset, name, *shares, str(len(group))))
    note = (
        "Mean accuracy over seeds of linear probes at the thought and layer that were best on problems kept aside, "
        "beside the best layer at the question's last position, probes on shuffled labels, and the most frequent value."
    )
    header = ("cell", "set", "read", "best thought", "question", "shuffled", "majority", "seeds")
    return Table(header=header, rows=tuple(rows), note=note)


def left_out_notes(ablation: Ablation) -> list[str]:
    """Return a sentence for each intervention that some problems lack, and one for problems that are too long."""
    notes = [
        f"{row.title}: n = {row.accuracy.n}; {row.num_left_out} problems have no such donor."
        for row in ablation.rows
        if row.num_left_out
    ]
    notes += [f"{title}: no problem has such a donor." for title in ablation.impossible]
    if ablation.num_too_long:
        notes.append(f"Left out because they do not fit into the model's context: {ablation.num_too_long}.")
    return notes


def ablation_text(ablation: Ablation) -> str:
    """Return the same for a terminal, with the verdict below it."""
    title = f"{ablation.model} on {ablation.dataset} (n = {ablation.untouched.n} held-out problems)"
    left_out = textwrap.fill(" ".join(left_out_notes(ablation)), 118)
    return "\n".join(filter(None, (_shown(title, ablation_table(ablation)), left_out, told(f"{ablation.verdict()}."))))


def _row(row: Ablated) -> tuple[str, ...]:
    changed = row.num_changed / row.accuracy.n
    donor = f"{row.num_of_donor} of {row.num_compared}" if row.num_compared else ""
    return (
        row.title,
        f"{row.accuracy.accuracy:.1%}",
        _interval(row.accuracy.interval),
        f"{row.cost:.1f}",
        p_text(row.p_value),
        f"{changed:.0%}",
        f"{row.divergence:.3f}",
        donor,
    )


def _interval(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.1%} to {interval[1]:.1%}"


_PROBED = (
    "read",
    "best thought",
    "layer",
    "probe",
    "95% interval",
    "shuffled",
    "question",
    "majority",
    "lens",
    "n",
    "values",
)


def probe_table(probed: Probed) -> Table:
    """Return, for each quantity, the thought and layer where it is read best, and the controls."""
    notes = [
        "Accuracy of a linear probe on test problems at the thought and layer that were best on problems kept aside. "
        "Shuffled: the same cell, fitted on shuffled labels. Question: the best layer at the last position before the "
        "thoughts. Majority: the most frequent value. Lens: the most that the LM head reads at a layer of that thought."
    ]
    if probed.skipped:
        notes.append(f"Not probed: {'; '.join(probed.skipped)}.")
    return Table(header=_PROBED, rows=tuple(_probed_row(probed, each) for each in probed.targets), note=" ".join(notes))


def probe_text(probed: Probed) -> str:
    """Return the same for a terminal, with the verdict below it."""
    lines = [_shown(f"{probed.model} on {probed.dataset}", probe_table(probed)), told(f"{probed.verdict()}.")]
    return "\n".join([*lines, *(f"not probed: {reason}" for reason in probed.skipped)])


def parallel_text(found: ParallelThoughts) -> str:
    """Return what parallel refinement gave for a terminal, with the verdict below it."""
    whole, before = found.sequential, found.num_thoughts + 1
    rows = [("one after another", "", f"{before:.1f}", f"{whole.accuracy:.1%}", _interval(whole.interval), "", "", "0")]
    for row in found.rows:
        until = f"{row.max_passes + 1} passes" if row.tolerance is None else f"change below {row.tolerance:g}"
        accuracy = row.accuracy
        rows.append(
            (
                row.start,
                until,
                f"{row.mean_passes:.1f}",
                f"{accuracy.accuracy:.1%}",
                _interval(accuracy.interval),
                p_text(row.p_value),
                f"{row.num_changed / accuracy.n:.0%}",
                f"{row.distance:.3f}",
            )
        )
    note = (
        f"{whole.n} held-out problems; mean and linear starts fitted on {found.num_fitted} training problems. Passes: "
        "before the answer's first token, the question's included. p: McNemar's exact test against sequential "
        "thoughts. Distance: mean squared distance from these, divided by their variance."
    )
    table = Table(header=_PARALLEL_HEADER, rows=tuple(rows))
    left_out = f"{found.num_too_long} problems exceed the model's context" if found.num_too_long else ""
    title = f"{found.model} on {found.dataset}"
    return "\n".join(
        filter(None, (_shown(title, table), textwrap.fill(note, 118), left_out, told(f"{found.verdict()}.")))
    )


_PARALLEL_HEADER = ("start", "until", "passes", "accuracy", "95% interval", "p", "answers changed", "distance")


def _probed_row(probed: Probed, target: ProbedTarget) -> tuple[str, ...]:
    question = _percent(target.accuracy[target.best_question][0])
    tail = (question, f"{target.majority:.1%}")
    values = str(target.num_classes) if target.num_choices is None else f"{target.num_choices} of {target.num_classes}"
    size = (str(target.num_test), values)
    if target.best is None:
        return (target.name, "", "", "", "", "", *tail, "", *size)
    layer, place = target.best
    share = target.accuracy[layer][place] or 0.0
    lens = [line[place] for line in target.lens]
    read = [value for value in lens if value is not None]
    return (
        target.name,
        probed.positions[place],
        str(probed.layers[layer]),
        f"{share:.1%}",
        _interval(wilson(round(share * target.num_test), target.num_test)),
        _percent(target.shuffled[layer][place]),
        *tail,
        _percent(max(read) if read else None),
        *size,
    )


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _shown(title: str, table: Table) -> str:
    shown = TerminalTable(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for place, name in enumerate(table.header):
        shown.add_column(name, justify="right" if place else "left")
    for row in table.rows:
        shown.add_row(*row)
    return table_text(shown)
