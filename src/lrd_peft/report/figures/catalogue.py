"""Every figure: its file, the studies that it may be drawn from, its caption. Knows which function draws what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from lrd_peft.report.cells import NothingToDraw
from lrd_peft.report.figures.baseline import comprehensive_baseline, main_results
from lrd_peft.report.figures.cost import efficiency_pareto, radar_comparison
from lrd_peft.report.figures.layers import layer_similarity
from lrd_peft.report.figures.problems import calibration, domain_performance, error_breakdown
from lrd_peft.report.figures.sweeps import alpha_sensitivity, crossed, layer_selection, lora_rank_analysis, sweep
from lrd_peft.report.figures.training import training_curves
from lrd_peft.report.main_table import axis_label
from lrd_peft.report.results import QUICK, Study


@dataclass(frozen=True, slots=True)
class Entry:
    """One figure.

    Attributes:
        file: its name without ending; SPEC.md's where it has one.
        studies: the studies it may be drawn from, the best first.
        caption: what one sees.
        draw: from a study, and whether to add SPEC.md's claims where the figure has room for them.
        draw_on_page: the page has no table of its own that says the same.
    """

    file: str
    studies: tuple[str, ...]
    caption: str
    draw: Callable[[Study, bool], Figure]
    draw_on_page: bool = True


# A single run tells what a methods study tells, with less to compare.
METHODS = ("methods", "demo")

CATALOGUE: tuple[Entry, ...] = (
    Entry(
        "table1_main_results",
        METHODS,
        "Table 1. Accuracy of every method on the held-out problems, with 95% intervals and paired tests.",
        lambda study, reference: main_results(study.records, reference=reference),
        draw_on_page=False,
    ),
    Entry(
        "fig1_comprehensive_baseline",
        ("size", *METHODS),
        "Figure 1. Accuracy by student size and method.",
        lambda study, reference: comprehensive_baseline(study.records, reference=reference),
    ),
    Entry(
        "fig3_alpha_sensitivity",
        ("alpha",),
        "Figure 3. Accuracy by the distillation weight α.",
        lambda study, _: alpha_sensitivity(study.records),
    ),
    Entry(
        "fig4_lora_rank_analysis",
        ("rank",),
        "Figure 4. Accuracy, trained parameters and training time by the LoRA rank.",
        lambda study, _: lora_rank_analysis(study.records),
    ),
    Entry(
        "fig5_layer_selection",
        ("layers",),
        "Figure 5. Accuracy by the teacher layers that are aligned.",
        lambda study, _: layer_selection(study.records),
    ),
    Entry(
        "fig6_training_curves",
        METHODS,
        "Figure 6. The student's losses during its training.",
        lambda study, _: training_curves(study.records),
    ),
    Entry(
        "fig7_domain_performance",
        METHODS,
        "Figure 7. Accuracy by the number of reasoning steps of the problem, and by its subject.",
        lambda study, _: domain_performance(study.records),
    ),
    Entry(
        "fig8_efficiency_pareto",
        METHODS,
        "Figure 8. Accuracy against time; the bubble's area is that of the trained parameters.",
        lambda study, _: efficiency_pareto(study.records),
    ),
    Entry(
        "fig9_layer_similarity",
        METHODS,
        "Figure 9. How alike the layers of teacher and student are at the slots and the answer position.",
        lambda study, _: layer_similarity(study.similarity),
    ),
    Entry(
        "fig10_radar_comparison",
        METHODS,
        "Figure 10. The methods on five axes, each relative to the best of them (the rim); further out is better.",
        lambda study, _: radar_comparison(study.records),
    ),
    Entry(
        "calibration",
        METHODS,
        "Calibration. How often an answer is right, by the probability that the model gives it.",
        lambda study, _: calibration(study.records),
    ),
    Entry(
        "error_breakdown",
        METHODS,
        "What became of the problems.",
        lambda study, _: error_breakdown(study.records),
    ),
)


def entries_for(studies: Mapping[str, Study]) -> tuple[Entry, ...]:
    """Return the catalogue and, for each study with an axis that has no figure in it, one of its own."""
    named = {name for entry in CATALOGUE for study in entry.studies for name in (study, study + QUICK)}
    more = tuple(
        Entry(
            f"study_{study.name}",
            (study.name,),
            f"{study.title}: accuracy by {axis_label(study.axis)}.",
            lambda own, _: _along(own),
        )
        for study in studies.values()
        if study.axis is not None and study.name not in named
    )
    return CATALOGUE + more


def _along(study: Study) -> Figure:
    axis = study.axis
    assert axis is not None
    return sweep(study.records, axis) if isinstance(axis, str) or len(axis) != 2 else crossed(study.records, axis)


def in_preference(names: Sequence[str], studies: Mapping[str, Study]) -> list[Study]:
    """Return those of the named studies that are there, in their order, each before its quick variant."""
    return [studies[name] for wanted in names for name in (wanted, wanted + QUICK) if name in studies]


def draw(entry: Entry, studies: Mapping[str, Study], *, reference: bool = False) -> tuple[Figure, Study]:
    """Draw a figure from the first of its studies that is there and can be drawn; return that study too.

    Raises:
        NothingToDraw: if there is none; the message says which study is missing, or what its records lack.
    """
    present = in_preference(entry.studies, studies)
    if not present:
        names = " or ".join(f'"{name}"' for name in entry.studies)
        raise NothingToDraw(f"no records of the study {names}")
    reasons = []
    for study in present:
        try:
            return entry.draw(study, reference), study
        except NothingToDraw as error:
            reasons.append(f"{study.name}: {error}")
    raise NothingToDraw("; ".join(reasons))
