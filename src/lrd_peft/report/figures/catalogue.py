"""List of all figures: file names, captions, and the studies that each one is drawn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from lrd_peft.report.cells import NothingToDraw
from lrd_peft.report.figures.baseline import comprehensive_baseline, main_results
from lrd_peft.report.figures.cost import efficiency_pareto, radar_comparison
from lrd_peft.report.figures.differences import is_comparison, study_differences
from lrd_peft.report.figures.layers import layer_similarity
from lrd_peft.report.figures.probes import probe_maps
from lrd_peft.report.figures.problems import calibration, domain_performance, error_breakdown
from lrd_peft.report.figures.sweeps import alpha_sensitivity, crossed, layer_selection, lora_rank_analysis, sweep
from lrd_peft.report.figures.training_curves import training_curves
from lrd_peft.report.study_records import QUICK, StudyRecords
from lrd_peft.report.tables import axis_label


@dataclass(frozen=True, slots=True)
class FigureEntry:
    """One figure.

    Attributes:
        file: its name without extension; SPEC.md's if it has one.
        studies: the studies it may be drawn from, the best first.
        caption: what it shows.
        draw: draws from one study, with SPEC.md's claims if asked for and there is room.
        draw_together: draws from all of `studies`; replaces `draw`.
        draw_on_page: false if the page has a table with the same content.
    """

    file: str
    studies: tuple[str, ...]
    caption: str
    draw: Callable[[StudyRecords, bool], Figure] | None = None
    draw_together: Callable[[Sequence[StudyRecords]], Figure] | None = None
    draw_on_page: bool = True


# The studies of all methods; a single run stands in for them.
MAIN_STUDIES = ("methods", "demo")

CATALOGUE: tuple[FigureEntry, ...] = (
    FigureEntry(
        "table1_main_results",
        MAIN_STUDIES,
        "Table 1. Accuracy of every method on the held-out problems with 95% intervals, tokens and model passes.",
        lambda study, reference: main_results(study.records, reference=reference),
        draw_on_page=False,
    ),
    FigureEntry(
        "fig1_comprehensive_baseline",
        ("size", *MAIN_STUDIES),
        "Figure 1. Accuracy by student size and method.",
        lambda study, reference: comprehensive_baseline(study.records, reference=reference),
    ),
    FigureEntry(
        "fig3_alpha_sensitivity",
        ("alpha",),
        "Figure 3. Accuracy by the distillation weight α.",
        lambda study, _: alpha_sensitivity(study.records),
    ),
    FigureEntry(
        "fig4_lora_rank_analysis",
        ("rank",),
        "Figure 4. Accuracy and trained parameters by LoRA rank.",
        lambda study, _: lora_rank_analysis(study.records),
    ),
    FigureEntry(
        "fig5_layer_selection",
        ("layers",),
        "Figure 5. Accuracy by aligned teacher layers.",
        lambda study, _: layer_selection(study.records),
    ),
    FigureEntry(
        "fig6_training_curves",
        MAIN_STUDIES,
        "Figure 6. Losses of the students during training.",
        lambda study, _: training_curves(study.records),
    ),
    FigureEntry(
        "fig7_domain_performance",
        MAIN_STUDIES,
        "Figure 7. Accuracy of five methods by number of reasoning steps and by subject.",
        lambda study, _: domain_performance(study.records),
    ),
    FigureEntry(
        "fig8_efficiency_pareto",
        MAIN_STUDIES,
        "Figure 8. Accuracy against training time (including the teacher and the store) and time per problem.",
        lambda study, _: efficiency_pareto(study.records),
    ),
    FigureEntry(
        "fig9_layer_similarity",
        MAIN_STUDIES,
        "Figure 9. Similarity of the layers of teacher and student at the slots and the answer position.",
        lambda study, _: layer_similarity(study.similarity),
    ),
    FigureEntry(
        "fig10_radar_comparison",
        MAIN_STUDIES,
        "Figure 10. Accuracy and costs of every method; darker is closer to the best, which is bold.",
        lambda study, _: radar_comparison(study.records),
    ),
    FigureEntry(
        "probe_maps",
        MAIN_STUDIES,
        "What can be read in the states: linear probes, their control and the logit lens. Q: the last position of the "
        "question; numbers: thoughts; A: the position that predicts the answer.",
        lambda study, _: probe_maps(study.probes),
    ),
    FigureEntry(
        "calibration",
        MAIN_STUDIES,
        "Calibration. How often an answer is right, given the probability that the model assigns to it.",
        lambda study, _: calibration(study.records),
    ),
    FigureEntry(
        "error_breakdown",
        MAIN_STUDIES,
        "Right, wrong and missing answers of every method.",
        lambda study, _: error_breakdown(study.records),
    ),
)


def entries_for(studies: Mapping[str, StudyRecords]) -> tuple[FigureEntry, ...]:
    """Return the catalogue and the figures of further studies.

    Studies with two or three values of one field share a forest plot; each of the others has a figure of its own.
    """
    named = {name for entry in CATALOGUE for study in entry.studies for name in (study, study + QUICK)}
    further = [study for study in studies.values() if study.axis is not None and study.name not in named]
    compared = [study for study in further if is_comparison(study)]
    more = [
        FigureEntry(
            f"study_{study.name}",
            (study.name,),
            f"{study.title}: accuracy by {axis_label(study.axis)}.",
            lambda own, _: _along(own),
        )
        for study in further
        if study.axis is not None and study not in compared
    ]
    if compared:
        names = tuple(study.name for study in compared)
        caption = "What one change of the configuration is worth: differences in accuracy with 95% intervals."
        more.insert(0, FigureEntry("study_differences", names, caption, draw_together=study_differences))
    return CATALOGUE + tuple(more)


def _along(study: StudyRecords) -> Figure:
    axis = study.axis
    assert axis is not None
    return sweep(study.records, axis) if isinstance(axis, str) or len(axis) != 2 else crossed(study.records, axis)


def in_preference(names: Sequence[str], studies: Mapping[str, StudyRecords]) -> list[StudyRecords]:
    """Return the named studies that exist, in the order of the names, each before its quick variant."""
    return [studies[name] for wanted in names for name in (wanted, wanted + QUICK) if name in studies]


def draw_figure(
    entry: FigureEntry, studies: Mapping[str, StudyRecords], *, reference: bool = False
) -> tuple[Figure, tuple[StudyRecords, ...]]:
    """Draw a figure from the first of its studies that exists and has the data, or from all of them together.

    Returns:
        The figure and the studies it is drawn from.

    Raises:
        NothingToDraw: if there is none; the message says which study is missing, or what its records lack.
    """
    present = in_preference(entry.studies, studies)
    if not present:
        names = " or ".join(f'"{name}"' for name in entry.studies)
        raise NothingToDraw(f"no records of the study {names}")
    if entry.draw_together is not None:
        return entry.draw_together(present), tuple(present)
    assert entry.draw is not None
    reasons = []
    for study in present:
        try:
            return entry.draw(study, reference), (study,)
        except NothingToDraw as error:
            reasons.append(f"{study.name}: {error}")
    raise NothingToDraw("; ".join(reasons))
