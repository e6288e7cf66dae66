"""The verdict of a report: one sentence that compares latent-lora with a text method, and the tests behind it."""

from __future__ import annotations

from collections.abc import Sequence

from lrd_peft.evaluation.records import Record
from lrd_peft.report.cells import CellRecords, against_ours, cells_of, dataset_order
from lrd_peft.report.style import OURS, dataset_label, in_order, method_style
from lrd_peft.report.tables import p_values, with_interval

SIGNIFICANT = 0.05


def verdict(records: Sequence[Record]) -> list[str]:
    """Return one sentence per data set that compares latent-lora with every other method.

    "Above" and "below" need p < 0.05 over the problems and, if there are several seeds, over the seeds too.
    Parentheses hold the other method's accuracy and p over the problems / over the seeds.
    """
    found = cells_of(records)
    tests = against_ours(found)
    sentences = []
    for dataset in dataset_order(found):
        ours = next((cell for cell in found if (cell.method, cell.dataset) == (OURS, dataset)), None)
        if ours is None:
            continue
        sides: dict[str, list[str]] = {"above": [], "not significantly different from": [], "below": []}
        for method in in_order(cell.method for cell in found if cell.dataset == dataset and cell.method != OURS):
            test = tests[method, dataset]
            sure = test.p_problems < SIGNIFICANT and (test.p_seeds is None or test.p_seeds < SIGNIFICANT)
            side = "not significantly different from" if not sure else "above" if test.difference > 0 else "below"
            other = next(cell for cell in found if (cell.method, cell.dataset) == (method, dataset))
            sides[side].append(f"{method_style(method).label} ({other.accuracy.mean:.1%}, p {p_values(test)})")
        parts = [f"{side} {_listed(names)}" for side, names in sides.items() if names]
        seeds = f"{ours.num_seeds} seed{'s' if ours.num_seeds > 1 else ''}"
        sentences.append(
            f"On {dataset_label(dataset)} {method_style(OURS).label} answers {with_interval(ours.accuracy)} of the "
            f"problems right ({seeds})" + (f": {'; '.join(parts)}." if parts else ".")
        )
    return sentences


# Text methods that latent-lora is compared with in one sentence, the most alike first.
_COUNTERPARTS = ("distill-lora", "standard-distill", "full-finetune", "teacher-cot", "base")


def headline(records: Sequence[Record]) -> str:
    """Return the main finding in one sentence: passes and accuracy of latent-lora against its text counterpart.

    The counterpart is the text method that is most like latent-lora: `distill-lora`, if it was measured. "" if
    latent-lora or all counterparts are missing.
    """
    found = cells_of(records)
    ours = {cell.dataset: cell for cell in found if cell.method == OURS}
    name = counterpart(found)
    if not ours or name is None:
        return ""
    other = {cell.dataset: cell for cell in found if cell.method == name and cell.dataset in ours}
    tests = against_ours(found)
    gains = [
        f"{points(tests[name, dataset].difference)} on {dataset_label(dataset)}"
        for dataset in dataset_order(found)
        if dataset in other
    ]
    return (
        f"{method_style(OURS).label} needs {_passes(ours):.1f} model passes per problem, {method_style(name).label} "
        f"{_passes(other):.1f}; its accuracy differs by {_listed(gains)}."
    )


def counterpart(found: Sequence[CellRecords]) -> str | None:
    """Return the measured text method that is most like latent-lora, or None."""
    measured = {cell.method for cell in found}
    return next((name for name in _COUNTERPARTS if name in measured), None)


def points(difference: float) -> str:
    """Return a difference of two accuracies in percentage points, with its sign: "+3.1 points"."""
    return f"{100 * difference:+.1f} points".replace("-", "\u2212")


def _passes(own: dict[str, CellRecords]) -> float:
    return sum(cell.mean("mean_passes").mean for cell in own.values()) / len(own)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
