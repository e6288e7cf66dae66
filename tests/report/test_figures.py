"""What the figures draw, read off the artists; when they are not drawn; that the same records give the same bytes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from lrd_peft.config import methods
from lrd_peft.evaluation.records import Record
from lrd_peft.evaluation.similarity import Similarity
from lrd_peft.report.cells import NothingToDraw, cells_of
from lrd_peft.report.estimates import paired_test
from lrd_peft.report.figures import catalogue
from lrd_peft.report.figures.baseline import comprehensive_baseline, main_results, short_count, verdict_chart
from lrd_peft.report.figures.canvas import to_pdf, to_png
from lrd_peft.report.figures.cost import efficiency_pareto, pareto_front, radar_comparison
from lrd_peft.report.figures.differences import study_differences
from lrd_peft.report.figures.layers import layer_similarity
from lrd_peft.report.figures.problems import LEAST_IN_BIN, calibration, domain_performance, error_breakdown
from lrd_peft.report.figures.sweeps import alpha_sensitivity, layer_selection, lora_rank_analysis, sweep
from lrd_peft.report.figures.training_curves import training_curves
from lrd_peft.report.reference import LABEL
from lrd_peft.report.study_records import StudyRecords
from lrd_peft.report.style import METHOD_STYLES as STYLES
from lrd_peft.report.style import chance, focus, method_style
from tests.report import made

DATASETS = ("gsm-mini", "math-mini")
ALPHAS = (0.0, 0.1, 0.5)


def record(method: str = "latent-lora", **settings: Any) -> Record:
    return made.record(method, datasets=DATASETS, n=40, **settings)


METHODS = [record(method, seed=seed) for method in ("base", "distill-lora", "latent-lora") for seed in (0, 1)]


def lines(panel: Axes) -> dict[str, list[tuple[float, float]]]:
    """Return label -> points of the lines with intervals."""
    found = {}
    for container in panel.containers:
        if isinstance(container, ErrorbarContainer):
            data = container.lines[0]
            assert data is not None
            found[container.get_label()] = [(float(x), float(y)) for x, y in data.get_xydata()]  # pyright: ignore
    return found


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))  # pyright: ignore


def test_text_and_latent_methods_look_different_and_no_two_share_a_color_or_marker() -> None:
    for name, method in methods.METHODS.items():
        style = method_style(name)
        assert style.latent == method.thinks, name
        assert (style.look["markerfacecolor"] == "white") == (style.look["linestyle"] != "-") == (not style.latent)
        assert ("hatch" in style.bar) == (not style.latent)
    for looks in ([style.color for style in STYLES.values()], [style.marker for style in STYLES.values()]):
        assert len(set(looks)) == len(looks) == len(methods.METHODS) + 1  # and alpha = 0
    kinds = [style.latent for style in STYLES.values()]
    assert kinds == sorted(kinds)


ALL = [record(method, seed=seed) for method in made.METHODS for seed in (0, 1)]


def test_figures_with_little_room_show_five_methods() -> None:
    assert focus(["latent-lora", "base"]) == ["base", "latent-lora"]
    shown = [method_style(name).label for name in focus(made.METHODS)]
    assert len(shown) == 5
    assert set(lines(domain_performance(ALL).axes[0])) == set(shown)
    assert set(lines(calibration(ALL).axes[0])) == set(shown)
    for draw in (error_breakdown, comprehensive_baseline):
        assert [text.get_text() for text in draw(ALL).axes[1].texts if text.get_rotation()] == ["text", "latent"]


@pytest.mark.parametrize(
    "draw", [efficiency_pareto, domain_performance, comprehensive_baseline, error_breakdown, calibration]
)
def test_every_figure_has_a_title_that_says_its_finding(draw: Callable[[list[Record]], Figure]) -> None:
    title = draw(ALL).get_suptitle()
    assert re.search(r"\d", title), title


def test_the_chart_of_the_verdict_has_every_method_at_its_passes() -> None:
    drawn = lines(verdict_chart(ALL).axes[0])
    assert set(drawn) == {method_style(name).label for name in made.METHODS}
    assert drawn["Latent + LoRA (ours)"][0][0] == 6 and drawn["Distill + LoRA"][0][0] == 24


def test_chance_is_marked_on_multiple_choice_sets_alone() -> None:
    figure = comprehensive_baseline([made.record(method, n=40) for method in ("base", "latent-lora")])
    marked = [
        [float(np.asarray(line.get_xdata())[0]) for line in panel.lines if line.get_label() == "chance"]
        for panel in figure.axes
    ]
    assert marked == [[], [], [0.2]]
    names = ("gsm-mini", "aqua", "graph-mini", "graph-mini-deep", "graph-mini:nodes=20,depth=4")
    assert [chance(name) for name in names] == [None, 0.2, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("draw", [efficiency_pareto, domain_performance, comprehensive_baseline, lora_rank_analysis])
def test_no_interval_leaves_its_panel(draw: Callable[[list[Record]], Figure]) -> None:
    records = [record(seed=seed, share=share, lora_r=r) for seed, share in enumerate((0.1, 0.95)) for r in (1, 8)]
    figure = draw(ALL if draw is not lora_rank_analysis else records)
    for panel in figure.axes:
        for container in panel.containers:
            if not isinstance(container, ErrorbarContainer):
                continue
            for bars in container.lines[2]:
                ends = np.concatenate([np.asarray(line) for line in bars.get_segments()])
                assert panel.get_xlim()[0] <= ends[:, 0].min() and ends[:, 0].max() <= panel.get_xlim()[1]
                assert min(panel.get_ylim()) <= ends[:, 1].min() and ends[:, 1].max() <= max(panel.get_ylim())


def test_alpha_points_are_the_means_over_seeds() -> None:
    records = [record(seed=seed, share=0.4 + alpha / 2, distill_alpha=alpha) for alpha in ALPHAS for seed in (0, 1)]
    panels = alpha_sensitivity(records).axes
    assert [panel.get_title() for panel in panels] == list(DATASETS)
    for dataset, panel in zip(DATASETS, panels, strict=True):
        (drawn,) = lines(panel).values()
        right = [each.metrics[dataset]["latent-lora"]["summary"]["accuracy"] for each in records]
        assert [alpha for alpha, _ in drawn] == list(ALPHAS)
        assert [mean for _, mean in drawn] == pytest.approx([sum(right[i : i + 2]) / 2 for i in (0, 2, 4)])


def test_every_point_of_a_sweep_has_an_interval() -> None:
    panel = alpha_sensitivity([record(distill_alpha=alpha) for alpha in ALPHAS]).axes[0]
    for container in panel.containers:
        assert isinstance(container, ErrorbarContainer)
        spans = container.lines[2][0].get_segments()
        assert len(spans) == len(ALPHAS)
        assert all(low[1] < high[1] for low, high in spans)


def test_rank_draws_accuracy_and_parameters() -> None:
    figure = lora_rank_analysis([record(seed=seed, lora_r=r) for r in (1, 8) for seed in (0, 1)])
    assert [panel.get_title() for panel in figure.axes] == [*DATASETS, "trained parameters"]
    assert np.asarray(figure.axes[-1].lines[0].get_ydata()).tolist() == [160_528, 160_528]


def test_layers_stand_as_single_ones_then_ranges() -> None:
    layers = [(8, 9, 10, 11, 12), (4,), (1, 2, 3), (12,), (2, 8)]
    figure = layer_selection([record(distill_layers=layer) for layer in layers])
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["4", "12", "2, 8", "1–3", "8–12"]


def test_sizes_are_lines_and_one_size_is_bars() -> None:
    sizes = {"teacher:4": 330_000, "teacher:6": 500_000}
    records = [record(student=name, parameters=size, beside={"base": 0.3}) for name, size in sizes.items()]
    figure = comprehensive_baseline(records)
    ours = lines(figure.axes[0])["Latent + LoRA (ours)"]
    assert [size for size, _ in ours] == [330_000, 500_000]
    bars = comprehensive_baseline(METHODS)
    widths = [patch.get_width() for patch in bars.axes[0].patches]  # pyright: ignore[reportAttributeAccessIssue]
    means = [cell.accuracy.mean for cell in cells_of(METHODS) if cell.dataset == "gsm-mini"]
    assert widths == pytest.approx(means)


def test_claims_are_drawn_only_when_asked_for_and_then_labelled() -> None:
    for draw in (comprehensive_baseline, main_results):
        plain, with_claims = draw(METHODS), draw(METHODS, reference=True)
        assert "claimed" not in texts(plain)
        assert LABEL.split(",")[0] in texts(with_claims)


def test_curves_are_means_over_seeds_with_a_band() -> None:
    figure = training_curves(METHODS)
    assert [panel.get_title() for panel in figure.axes if panel.get_title()] == [
        "task loss (nats per token), text methods",
        "task loss (nats per token), latent methods",
        "distillation loss, latent methods",
        "total loss, text methods",
        "total loss, latent methods",
    ]
    names = [line.get_label() for panel in figure.axes[:2] for line in panel.lines]
    assert names == ["Distill + LoRA", "Latent + LoRA (ours)"]
    first = [next(row["task"] for row in each.curves) for each in METHODS if each.method == "distill-lora"]
    assert figure.axes[0].lines[0].get_ydata()[0] == pytest.approx(sum(first) / 2)  # pyright: ignore
    assert [len(panel.collections) for panel in figure.axes[:2]] == [1, 1]
    with pytest.raises(NothingToDraw, match="training log"):
        training_curves([record("base")])


def test_the_loss_of_written_steps_has_a_panel_where_it_was_logged() -> None:
    one = record()
    one = dataclasses.replace(one, curves=tuple({**row, "step_loss": 3.0} for row in one.curves))
    titles = [panel.get_title().split(",")[0] for panel in training_curves([one]).axes]
    assert titles == ["task loss (nats per token)", "distillation loss", "step loss", "total loss"]


def test_steps_and_subjects_have_panels_of_their_own() -> None:
    figure = domain_performance(METHODS)
    above, below = figure.axes[0], figure.axes[2]
    assert [round(x) for x, _ in lines(above)["Base"]] == [1, 2, 3, 4]
    assert [label.get_text() for label in below.get_yticklabels()] == ["boxes", "events"]
    cell = next(cell for cell in cells_of(METHODS) if (cell.method, cell.dataset) == ("base", "gsm-mini"))
    assert [y for _, y in lines(above)["Base"]] == pytest.approx([each.mean for each in cell.by_steps().values()])


def test_calibration_pools_the_bins_of_the_seeds() -> None:
    records = [made.record(datasets=DATASETS, seed=seed) for seed in (0, 1)]
    figure = calibration(records)
    points = lines(figure.axes[0])["Latent + LoRA (ours)"]
    bins = [
        each for one in records for each in one.metrics["gsm-mini"]["latent-lora"]["summary"]["calibration"]["bins"]
    ]
    sizes = {low: sum(each["n"] for each in bins if each["low"] == low) for low in {each["low"] for each in bins}}
    large = [low for low, size in sizes.items() if size >= LEAST_IN_BIN]
    assert 0 < len(points) == len(large) < len(sizes)
    first = [each for each in bins if each["low"] == min(large)]
    n = sum(each["n"] for each in first)
    assert points[0][0] == pytest.approx(sum(each["n"] * each["mean_confidence"] for each in first) / n)


def test_the_parts_of_an_error_bar_sum_to_all_problems() -> None:
    panel = error_breakdown(METHODS).axes[0]
    widths = [patch.get_width() for patch in panel.patches]  # pyright: ignore[reportAttributeAccessIssue]
    assert sum(widths) == pytest.approx(3)  # one for each of the three methods


def test_pareto_front_by_hand() -> None:
    points = [(1.0, 0.3), (2.0, 0.5), (2.0, 0.6), (3.0, 0.55), (4.0, 0.9)]
    assert pareto_front(points) == [(1.0, 0.3), (2.0, 0.6), (4.0, 0.9)]


def test_pareto_has_training_time_only_where_two_methods_left_it() -> None:
    assert len(efficiency_pareto(METHODS).axes) == 4
    assert len(efficiency_pareto([record(beside={"base": 0.5})]).axes) == 2


def test_student_time_includes_the_teacher() -> None:
    shared = [
        dataclasses.replace(each, costs=dataclasses.replace(each.costs, wall_seconds={"teacher": 600, "student": 60}))
        for each in (record(), record("distill-lora"))
    ]
    assert lines(efficiency_pareto(shared).axes[0])["Latent + LoRA (ours)"][0][0] == pytest.approx(11)


def test_costs_are_shaded_relative_to_the_best() -> None:
    panel = radar_comparison(METHODS).axes[0]
    labels = [label.get_text() for label in panel.get_yticklabels()]
    assert labels == ["Distill + LoRA", "Latent + LoRA (ours)"]  # the base trains nothing
    shares = np.asarray(panel.images[0].get_array(), dtype=float)
    assert shares.max(axis=0).tolist() == [1.0] * 6
    cell = next(cell for cell in cells_of(METHODS) if cell.method == "latent-lora")
    trained = next(iter(cell.costs.values())).trainable_parameters
    assert f"{trained:,}" in [text.get_text() for text in panel.texts]
    with pytest.raises(NothingToDraw, match="fewer than two methods"):
        radar_comparison([record()])


def test_differences_are_against_the_base_configuration() -> None:
    records = tuple(
        record(positions=where, share=share, seed=seed)
        for where, share in (("all", 0.1), ("thoughts", 0.9))
        for seed in (0, 1, 2, 3)
    )
    study = StudyRecords("positions", "Positions", records, axis="positions", baseline="thoughts")
    figure = study_differences([study])
    panel = figure.axes[0]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["aligned positions\nall instead of thoughts"]
    found = {cell.value: cell for cell in cells_of(records, by="positions") if cell.dataset == DATASETS[0]}
    test = paired_test(found["all"].outcomes, found["thoughts"].outcomes)
    ((difference, _),) = lines(panel)[DATASETS[0]]
    assert difference == pytest.approx(100 * test.difference) and difference < 0
    first = next(each for each in panel.containers if isinstance(each, ErrorbarContainer))
    ends = first.lines[2][0].get_segments()[0][:, 0]
    assert ends.tolist() == pytest.approx([100 * test.low, 100 * test.high])
    assert figure.get_suptitle().startswith("2 of 2 changes are significant: 0 raise")
    with pytest.raises(NothingToDraw):
        study_differences([])


def test_similarity_is_drawn_before_and_after_the_training() -> None:
    row = made.similarity_row()
    figure = layer_similarity(Similarity.from_json(row))
    titles = [panel.get_title() for panel in figure.axes]
    kinds = ("linear CKA", "mean cosine")
    assert titles[:4] == [f"{kind}, {when} training" for kind in kinds for when in ("before", "after")]
    assert row["source"] in texts(figure) and "1500 positions" in texts(figure)
    images = [np.asarray(panel.images[0].get_array(), dtype=float) for panel in figure.axes[:2]]
    assert [float(image[0, 0]) for image in images] == [0.475, 0.95]
    with pytest.raises(NothingToDraw, match="lrd inspect RUN"):
        layer_similarity(None)


def test_similarity_leaves_out_what_was_not_measured() -> None:
    none = made.similarity_row() | {"cosine": [[None] * 7] * 13, "cka_untrained": None, "cosine_untrained": None}
    figure = layer_similarity(Similarity.from_json(none))
    assert [panel.get_title() for panel in figure.axes] == ["linear CKA", ""]  # the map and its colour bar
    # with other widths there are cosines after the projectors only: of those layers, after the training
    few = [[0.5 if (t, s) in ((8, 4), (10, 6)) else None for s in range(7)] for t in range(13)]
    figure = layer_similarity(
        Similarity.from_json(made.similarity_row() | {"cosine": few, "cosine_untrained": [[None] * 7] * 13})
    )
    panel = next(panel for panel in figure.axes if panel.get_title() == "mean cosine, after training")
    assert [label.get_text() for label in panel.get_yticklabels()] == ["8", "10"]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["4", "6"]
    assert "mean cosine, before" not in texts(figure)


def test_a_field_with_one_value_is_no_sweep() -> None:
    with pytest.raises(NothingToDraw, match="fewer than two values of aligned positions"):
        sweep([record(), record(seed=1)], "positions")


def test_a_missing_study_is_named() -> None:
    entries = {entry.file: entry for entry in catalogue.CATALOGUE}
    with pytest.raises(NothingToDraw, match='no records of the study "alpha"'):
        catalogue.draw_figure(entries["fig3_alpha_sensitivity"], {})
    quick = StudyRecords(
        "alpha-quick", "Quick", tuple(record(distill_alpha=alpha) for alpha in ALPHAS), axis="distill_alpha"
    )
    _, drawn_from = catalogue.draw_figure(entries["fig3_alpha_sensitivity"], {"alpha-quick": quick})
    assert len(drawn_from) == 1 and drawn_from[0] is quick


def test_studies_of_two_or_three_values_share_a_figure_and_others_get_their_own() -> None:
    few = tuple(record(positions=positions) for positions in ("all", "thoughts"))
    many = tuple(record(learning_rate=rate) for rate in (1e-4, 2e-4, 4e-4, 8e-4))
    studies = {
        "positions": StudyRecords("positions", "Positions", few, axis="positions"),
        "learning_rate": StudyRecords("learning_rate", "Rate", many, axis="learning_rate"),
    }
    entries = catalogue.entries_for(studies)[len(catalogue.CATALOGUE) :]
    assert [entry.file for entry in entries] == ["study_differences", "study_learning_rate"]
    _, drawn_from = catalogue.draw_figure(entries[0], studies)
    assert [study.name for study in drawn_from] == ["positions"]
    figure, _ = catalogue.draw_figure(entries[1], studies)
    assert figure.axes[0].get_xlabel() == "learning rate of the student"


def test_the_file_names_are_those_of_the_specification() -> None:
    assert {entry.file for entry in catalogue.CATALOGUE} >= {
        "fig1_comprehensive_baseline",
        "table1_main_results",
        "fig3_alpha_sensitivity",
        "fig4_lora_rank_analysis",
        "fig5_layer_selection",
        "fig6_training_curves",
        "fig7_domain_performance",
        "fig8_efficiency_pareto",
        "fig9_layer_similarity",
        "fig10_radar_comparison",
    }


def test_the_same_records_give_the_same_bytes_whatever_the_caller_has_set() -> None:
    records = [record(distill_alpha=alpha) for alpha in ALPHAS]
    first = alpha_sensitivity(records)
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red"}):
        second = alpha_sensitivity(records)
        assert to_png(second, dpi=80) == to_png(first, dpi=80)
        assert to_pdf(second) == to_pdf(first)
        assert matplotlib.rcParams["font.size"] == 20


@pytest.mark.parametrize(
    ("count", "text"), [(424_008, "0.42M"), (2_900_000_000, "2.9B"), (986_640, "0.99M"), (1500, "1.5k"), (12, "12")]
)
def test_short_counts(count: int, text: str) -> None:
    assert short_count(count) == text
