"""What the figures draw, read off the artists; when they are not drawn; that the same records give the same bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from lrd_peft import methods
from lrd_peft.evaluation.similarity import Similarity
from lrd_peft.records import Record
from lrd_peft.report.cells import NothingToDraw, cells
from lrd_peft.report.figures import catalogue
from lrd_peft.report.figures.baseline import comprehensive_baseline, main_results, short_count
from lrd_peft.report.figures.canvas import to_pdf, to_png
from lrd_peft.report.figures.cost import bubble_area, efficiency_pareto, pareto_front, radar_comparison
from lrd_peft.report.figures.layers import layer_similarity
from lrd_peft.report.figures.problems import calibration, domain_performance, error_breakdown
from lrd_peft.report.figures.sweeps import alpha_sensitivity, layer_selection, lora_rank_analysis, sweep
from lrd_peft.report.figures.training import training_curves
from lrd_peft.report.reference import LABEL
from lrd_peft.report.results import Study
from lrd_peft.report.style import METHODS as STYLES
from lrd_peft.report.style import in_groups, method_style
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


def test_what_thinks_and_what_writes_look_different_and_no_two_methods_alike() -> None:
    for name, method in methods.METHODS.items():
        style = method_style(name)
        assert style.thinks == method.thinks, name
        assert (style.look["markerfacecolor"] == "white") == (style.look["linestyle"] != "-") == (not style.thinks)
        assert ("hatch" in style.bar) == (not style.thinks)
    looks = [(look["markerfacecolor"], look["color"], look["marker"]) for look in (s.look for s in STYLES.values())]
    assert len(set(looks)) == len(looks) == len(methods.METHODS) + 1  # and alpha = 0
    kinds = [style.thinks for style in STYLES.values()]
    assert kinds == sorted(kinds)


ALL = [record(method, seed=seed) for method in made.METHODS for seed in (0, 1)]


def test_many_methods_have_panels_for_those_that_write_and_those_that_think() -> None:
    assert in_groups(["latent-lora", "base"]) == [("", ["base", "latent-lora"])]
    for draw in (domain_performance, calibration):
        titles = [panel.get_title() for panel in draw(ALL).axes[:4]]
        assert titles == [f"{name}, methods that {how}" for how in ("write", "think") for name in DATASETS]
    figure = domain_performance(ALL)
    drawn = [set(lines(panel)) for panel in figure.axes[:4:2]]
    assert drawn[0] == {s.label for name, s in STYLES.items() if name in made.METHODS and not s.thinks}
    assert drawn[1] == {s.label for name, s in STYLES.items() if name in made.METHODS and s.thinks}
    assert [panel.get_title() for panel in radar_comparison(ALL).axes] == ["methods that write", "methods that think"]
    for draw in (error_breakdown, comprehensive_baseline):
        assert [text.get_text() for text in draw(ALL).axes[1].texts if text.get_rotation()] == ["write", "think"]


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
    drawn = lines(alpha_sensitivity(records).axes[0])
    assert set(drawn) == set(DATASETS)
    for dataset in DATASETS:
        right = [each.metrics[dataset]["latent-lora"]["summary"]["accuracy"] for each in records]
        # data sets stand beside each other
        assert [alpha for alpha, _ in drawn[dataset]] == pytest.approx(list(ALPHAS), abs=0.01)
        assert [mean for _, mean in drawn[dataset]] == pytest.approx([sum(right[i : i + 2]) / 2 for i in (0, 2, 4)])


def test_every_point_of_a_sweep_has_an_interval() -> None:
    panel = alpha_sensitivity([record(distill_alpha=alpha) for alpha in ALPHAS]).axes[0]
    for container in panel.containers:
        assert isinstance(container, ErrorbarContainer)
        spans = container.lines[2][0].get_segments()
        assert len(spans) == len(ALPHAS)
        assert all(low[1] < high[1] for low, high in spans)


def test_rank_draws_parameters_and_time_beside_accuracy() -> None:
    figure = lora_rank_analysis([record(seed=seed, lora_r=r) for r in (1, 8) for seed in (0, 1)])
    assert [panel.get_title() for panel in figure.axes] == ["accuracy", "trained parameters", "training time, seconds"]
    assert np.asarray(figure.axes[1].lines[0].get_ydata()).tolist() == [160_528, 160_528]


def test_layers_stand_as_single_ones_then_ranges() -> None:
    layers = [(8, 9, 10, 11, 12), (4,), (1, 2, 3), (12,), (2, 8)]
    figure = layer_selection([record(distill_layers=layer) for layer in layers])
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["4", "12", "2, 8", "1–3", "8–12"]


def test_sizes_are_lines_and_one_size_is_bars() -> None:
    sizes = {"teacher:4": 330_000, "teacher:6": 500_000}
    records = [record(student=name, parameters=size, beside={"base": 0.3}) for name, size in sizes.items()]
    figure = comprehensive_baseline(records)
    ours = lines(figure.axes[0])["Latent + LoRA (ours)"]
    assert [size for size, _ in ours] == pytest.approx([330_000, 500_000], rel=0.02)
    bars = comprehensive_baseline(METHODS)
    widths = [patch.get_width() for patch in bars.axes[0].patches]  # pyright: ignore[reportAttributeAccessIssue]
    means = [cell.accuracy.mean for cell in cells(METHODS) if cell.dataset == "gsm-mini"]
    assert widths == pytest.approx(means)


def test_claims_are_drawn_only_when_asked_for_and_then_labelled() -> None:
    for draw in (comprehensive_baseline, main_results):
        plain, with_claims = draw(METHODS), draw(METHODS, reference=True)
        assert "claimed" not in texts(plain)
        assert LABEL.split(",")[0] in texts(with_claims)


def test_curves_are_means_over_seeds_with_a_band() -> None:
    figure = training_curves(METHODS)
    assert [panel.get_title() for panel in figure.axes] == [
        "task loss (nats a token)",
        "distillation loss",
        "total loss",
    ]
    names = [line.get_label() for line in figure.axes[0].lines]
    assert names == ["Distill + LoRA", "Latent + LoRA (ours)"]
    first = [next(row["task"] for row in each.curves) for each in METHODS if each.method == "distill-lora"]
    assert figure.axes[0].lines[0].get_ydata()[0] == pytest.approx(sum(first) / 2)  # pyright: ignore
    assert len(figure.axes[0].collections) == 2
    with pytest.raises(NothingToDraw, match="training log"):
        training_curves([record("base")])


def test_the_loss_of_written_steps_has_a_panel_where_it_was_logged() -> None:
    one = record()
    one = dataclasses.replace(one, curves=tuple({**row, "step_loss": 3.0} for row in one.curves))
    titles = [panel.get_title() for panel in training_curves([one]).axes]
    assert titles == ["task loss (nats a token)", "distillation loss", "loss of the written steps", "total loss"]


def test_steps_and_subjects_have_panels_of_their_own() -> None:
    figure = domain_performance(METHODS)
    above, below = figure.axes[0], figure.axes[2]
    assert [round(x) for x, _ in lines(above)["Base"]] == [1, 2, 3, 4]
    assert [label.get_text() for label in below.get_yticklabels()] == ["boxes", "events"]
    cell = next(cell for cell in cells(METHODS) if (cell.method, cell.dataset) == ("base", "gsm-mini"))
    assert [y for _, y in lines(above)["Base"]] == pytest.approx([each.mean for each in cell.by_steps().values()])


def test_calibration_pools_the_bins_of_the_seeds() -> None:
    figure = calibration([record(seed=0), record(seed=1)])
    points = lines(figure.axes[0])["Latent + LoRA (ours)"]
    bins = [
        each
        for seed in (0, 1)
        for each in record(seed=seed).metrics["gsm-mini"]["latent-lora"]["summary"]["calibration"]["bins"]
    ]
    assert len(points) == len({each["low"] for each in bins})
    first = [each for each in bins if each["low"] == min(each["low"] for each in bins)]
    n = sum(each["n"] for each in first)
    assert points[0][0] == pytest.approx(sum(each["n"] * each["mean_confidence"] for each in first) / n)


def test_the_parts_of_an_error_bar_sum_to_all_problems() -> None:
    panel = error_breakdown(METHODS).axes[0]
    widths = [patch.get_width() for patch in panel.patches]  # pyright: ignore[reportAttributeAccessIssue]
    assert sum(widths) == pytest.approx(3)  # one for each of the three methods


def test_pareto_front_by_hand() -> None:
    points = [(1.0, 0.3), (2.0, 0.5), (2.0, 0.6), (3.0, 0.55), (4.0, 0.9)]
    assert pareto_front(points) == [(1.0, 0.3), (2.0, 0.6), (4.0, 0.9)]
    assert bubble_area(100, 100) - bubble_area(0, 100) == pytest.approx(
        2 * (bubble_area(50, 100) - bubble_area(0, 100))
    )


def test_pareto_has_training_time_only_where_two_methods_left_it() -> None:
    assert len(efficiency_pareto(METHODS).axes) == 4
    assert len(efficiency_pareto([record(beside={"base": 0.5})]).axes) == 2


def test_radar_is_relative_to_the_best() -> None:
    figure = radar_comparison(METHODS)
    shares = {str(line.get_label()): np.asarray(line.get_ydata()).tolist() for line in figure.axes[0].lines}
    assert set(shares) == {"Distill + LoRA", "Latent + LoRA (ours)"}  # the base trains nothing
    assert [max(each) for each in zip(*shares.values(), strict=True)] == pytest.approx([1.0] * 6)
    with pytest.raises(NothingToDraw, match="fewer than two methods"):
        radar_comparison([record()])


def test_similarity_is_drawn_before_and_after_the_training() -> None:
    row = made.similarity_row()
    figure = layer_similarity(Similarity.from_dict(row))
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
    figure = layer_similarity(Similarity.from_dict(none))
    assert [panel.get_title() for panel in figure.axes] == ["linear CKA", ""]  # the map and its colour bar
    # with other widths there are cosines after the projectors only: of those layers, after the training
    few = [[0.5 if (t, s) in ((8, 4), (10, 6)) else None for s in range(7)] for t in range(13)]
    figure = layer_similarity(
        Similarity.from_dict(made.similarity_row() | {"cosine": few, "cosine_untrained": [[None] * 7] * 13})
    )
    panel = next(panel for panel in figure.axes if panel.get_title() == "mean cosine, after training")
    assert [label.get_text() for label in panel.get_yticklabels()] == ["8", "10"]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["4", "6"]
    assert "mean cosine, before" not in texts(figure)


def test_a_field_with_one_value_is_no_sweep() -> None:
    with pytest.raises(NothingToDraw, match="fewer than two values of positions"):
        sweep([record(), record(seed=1)], "positions")


def test_a_missing_study_is_named() -> None:
    entries = {entry.file: entry for entry in catalogue.CATALOGUE}
    with pytest.raises(NothingToDraw, match='no records of the study "alpha"'):
        catalogue.draw(entries["fig3_alpha_sensitivity"], {})
    quick = Study("alpha-quick", "Quick", tuple(record(distill_alpha=alpha) for alpha in ALPHAS), axis="distill_alpha")
    _, study = catalogue.draw(entries["fig3_alpha_sensitivity"], {"alpha-quick": quick})
    assert study is quick


def test_a_study_without_a_figure_in_the_catalogue_gets_its_own() -> None:
    records = tuple(record(positions=positions) for positions in ("all", "thoughts"))
    studies = {"positions": Study("positions", "Positions", records, axis="positions")}
    entry = catalogue.entries_for(studies)[-1]
    assert entry.file == "study_positions"
    figure, _ = catalogue.draw(entry, studies)
    assert figure.axes[0].get_xlabel() == "positions aligned"


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
