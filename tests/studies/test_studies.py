"""Studies as files and grids: cells, names, what they share, shards, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lrd_peft.config.recipes import find_yaml
from lrd_peft.evaluation.study_description import Trial, TunedCell
from lrd_peft.runtime.errors import UserError
from lrd_peft.studies.grid import Study, make_study, read_study, shard_of
from lrd_peft.studies.tasks import StudyFolder, tasks_of
from lrd_peft.studies.tuning import trials_of

STUDIES = sorted((Path(__file__).parents[2] / "src" / "lrd_peft" / "recipes" / "studies").glob("*.yaml"))

FILE = """
title: Two axes
recipe: recipe.yaml
base: {lora_r: 4, epochs: 2}
axes:
  distill_alpha: [0, 0.25]
  student: ["teacher:4", tiny-student]
also:
  - {lora_r: 64}
seeds: [3, 5]
quick: {base: {epochs: 1}, axes: {student: [tiny-student]}, seeds: [7]}
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    (tmp_path / "recipe.yaml").write_text("output_dir: runs/recipe\nepochs: 9\nbatch_size: 2\n")

    def write(text: str) -> Path:
        path = tmp_path / "grid.yaml"
        path.write_text(text)
        return path

    return write


def made(path: Path, *, quick: bool = False, **settings: Any) -> Study:
    return make_study(path, settings, quick=quick)


def test_cells_are_the_seeds_times_the_product_of_the_axes_and_the_single_ones(write: Write) -> None:
    cells = made(write(FILE)).cells()
    labels = [
        "distill_alpha=0,student=teacher-4",
        "distill_alpha=0,student=tiny-student",
        "distill_alpha=0.25,student=teacher-4",
        "distill_alpha=0.25,student=tiny-student",
        "lora_r=64",
    ]
    assert [cell.name for cell in cells] == [f"{label}--seed{seed}" for seed in (3, 5) for label in labels]
    first, last = cells[0].config, cells[-1].config
    # recipe < base < cell
    assert (first.student.batch_size, first.student.epochs, first.adapter.lora_r, first.distill.distill_alpha) == (
        2,
        2,
        4,
        0,
    )
    assert (first.model.student, first.run.seed, last.adapter.lora_r, last.run.seed) == ("teacher:4", 3, 64, 5)
    assert first.run.output_dir == "runs/studies/grid/cells/distill_alpha=0,student=teacher-4--seed3"


def test_flags_go_over_the_base_and_quick_over_the_study(write: Write) -> None:
    path = write(FILE)
    study = made(path, epochs=5, output_dir="elsewhere")
    assert {cell.config.student.epochs for cell in study.cells()} == {5}
    assert study.root == Path("elsewhere")
    quick = made(path, quick=True)
    assert (quick.name, quick.seeds, quick.axes["student"]) == ("grid-quick", (7,), ("tiny-student",))
    assert next(cell.label for cell in quick.cells()) == "distill_alpha=0,student=tiny-student"
    assert {cell.config.student.epochs for cell in quick.cells()} == {1}
    assert make_study(path, seeds=[1, 1, 0]).seeds == (1, 0)


def test_study_json_says_what_the_records_are_about(write: Write) -> None:
    told = made(write(FILE)).describe()
    assert (told["name"], told["title"], told["seeds"]) == ("grid", "Two axes", [3, 5])
    assert told["axes"][0] == {"field": "distill_alpha", "values": [0.0, 0.25]}
    assert told["axes"][1] == {"field": "student", "values": ["teacher:4", "tiny-student"]}
    assert told["cells"][4] == {"cell": "lora_r=64", "values": {"lora_r": 64}}
    assert told["base"]["lora_r"] == 4 and "output_dir" not in told["base"]


TUNED = FILE + "tune: {axes: {learning_rate: [0.001, 0.01], lora_dropout: [0, 0.1]}, base: {max_steps: 5}, seed: 4}\n"


def test_each_cell_has_a_trial_for_each_combination_on_validation_problems(write: Write) -> None:
    study = made(write(TUNED), num_validation_problems=30)
    trials = trials_of(study, study.cells())
    assert list(trials.points) == list(dict.fromkeys(cell.label for cell in study.cells()))
    assert [values for values, _ in trials.points["lora_r=64"]] == [
        {"learning_rate": rate, "lora_dropout": dropout} for rate in (0.001, 0.01) for dropout in (0, 0.1)
    ]
    assert len(trials.cells) == len({cell.name for cell in trials.cells}) == 20
    config = trials.points["lora_r=64"][3][1].config
    assert (config.student.learning_rate, config.adapter.lora_dropout, config.student.max_steps) == (0.01, 0.1, 5)
    assert (config.evaluation.eval_split, config.evaluation.num_eval_problems, config.run.seed) == ("validation", 30, 4)
    assert trials.study.name == "grid-tuning" and config.run.output_dir.startswith("runs/studies/grid-tuning/cells/")


def test_a_cell_keeps_what_it_sets_itself_and_what_has_no_effect_is_not_tried(write: Write) -> None:
    text = TUNED.replace(
        "- {lora_r: 64}", "- {lora_r: 64, learning_rate: 0.5}\n  - {method: base}\n  - {method: direct}"
    )
    study = made(write(text))
    trials = trials_of(study, study.cells())
    label = "lora_r=64,learning_rate=0.5"
    assert [values for values, _ in trials.points[label]] == [{"lora_dropout": 0}, {"lora_dropout": 0.1}]
    assert "method=base" not in trials.points and "method=direct" in trials.points


def test_cells_have_the_values_that_were_chosen_under_their_old_names(write: Write) -> None:
    study = made(write(TUNED))
    chosen = TunedCell("lora_r=64", {"learning_rate": 0.01}, ())
    before, after = study.cells(), replace(study, tuned=(chosen,)).cells()
    assert [cell.name for cell in before] == [cell.name for cell in after]
    rates = {cell.label: cell.config.student.learning_rate for cell in after}
    assert rates.pop("lora_r=64") == 0.01 and set(rates.values()) == {before[0].config.student.learning_rate}


def test_a_known_choice_counts_as_long_as_the_same_configurations_were_tried(write: Write) -> None:
    study = made(write(TUNED))
    trials = trials_of(study, study.cells())
    tried = tuple(Trial(values, 0.5, cell.config.fingerprint()) for values, cell in trials.points["lora_r=64"])
    known = [TunedCell("lora_r=64", tried[0].values, tried)]
    assert "lora_r=64" not in trials.without(known).points and len(trials.without(known).points) == 4
    longer = made(write(TUNED), weight_decay=0.5)
    assert "lora_r=64" in trials_of(longer, longer.cells()).without(known).points


def test_a_small_variant_tunes_with_its_own_budget(write: Write) -> None:
    study = made(write(TUNED), quick=True)
    configs = [cell.config for cell in trials_of(study, study.cells()).cells]
    assert {config.student.max_steps for config in configs} == {None} and {c.student.epochs for c in configs} == {1}


@pytest.mark.parametrize(
    "change", [("max_steps: 5", "num_eval_problems: 5"), ("lora_dropout: [0, 0.1]", "eval_split: [test]")]
)
def test_how_trials_are_graded_is_not_a_setting(write: Write, change: tuple[str, str]) -> None:
    study = made(write(TUNED.replace(*change)))
    with pytest.raises(UserError, match=r'study "grid": tune sets (num_eval_problems|eval_split), but its trials are'):
        trials_of(study, study.cells())


def test_a_cell_evaluated_elsewhere_is_tuned_on_validation_problems_all_the_same(write: Write) -> None:
    study = made(write(TUNED.replace("{lora_r: 64}", "{lora_r: 64, eval_split: test}")))
    label = "lora_r=64,eval_split=test"
    trials = trials_of(study, study.cells()).points[label]
    assert {cell.config.evaluation.eval_split for _, cell in trials} == {"validation"}


def test_nothing_is_tuned_without_validation_problems(write: Write) -> None:
    study = made(write(TUNED), num_validation_problems=0)
    with pytest.raises(UserError, match="chooses learning_rate, lora_dropout on validation problems, but num_val"):
        trials_of(study, study.cells())


def test_lists_are_values_with_names_of_their_own(write: Write) -> None:
    path = write("title: x\nrecipe: recipe.yaml\naxes: {distill_layers: [[8], [8, 9]]}\nseeds: [0]\n")
    cells = made(path).cells()
    assert [cell.label for cell in cells] == ["distill_layers=8", "distill_layers=8-9"]
    assert cells[1].config.distill.distill_layers == (8, 9) and cells[1].values == {"distill_layers": [8, 9]}


def test_cells_share_teacher_and_store_as_far_as_they_agree(write: Write, tmp_path: Path) -> None:
    cells = made(write(FILE)).cells()
    tasks = tasks_of(cells, StudyFolder(tmp_path, "grid"))
    # Alpha, rank and student change neither: a teacher and a store for each seed. Alpha 0 needs neither of them.
    assert [task.kind for task in tasks] == ["cell", "cell", "teacher", "store", "cell", "cell", "cell"] * 2
    assert tasks[0].needs == tasks[1].needs == {}
    assert tasks[3].needs == {"teacher": tasks[2].name}
    assert all(task.needs == {"teacher": tasks[2].name, "store": tasks[3].name} for task in tasks[4:7])
    path = write("title: x\nrecipe: recipe.yaml\naxes: {positions: [thoughts, all]}\nseeds: [0]\n")
    kinds = [task.kind for task in tasks_of(made(path).cells(), StudyFolder(tmp_path, "x"))]
    assert kinds == ["teacher", "store", "cell", "store", "cell"]


@pytest.mark.parametrize("count", [1, 3, 4, 10, 13])
def test_shards_are_a_partition_in_equal_stretches(write: Write, count: int) -> None:
    cells = made(write(FILE)).cells()
    shards = [shard_of(cells, f"{number}/{count}") for number in range(1, count + 1)]
    assert [cell.name for shard in shards for cell in shard] == [cell.name for cell in cells]
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2"])
def test_what_is_no_shard_is_refused(shard: str) -> None:
    with pytest.raises(UserError, match="such as 2/8"):
        shard_of([], shard)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seeds:", "sedes:"), r'grid.yaml, line 10: there is no key "sedes". Did you mean "seeds"\?'),
        (("seeds: [3, 5]", ""), 'the key "seeds" is missing'),
        (("seeds: [3, 5]", "seeds: [-1]"), "line 10: seeds.0 is -1: .*greater than or equal to 0"),
        (("seeds: [3, 5]", "seeds: []"), "line 10: seeds is .*at least 1"),
        (("{epochs: 1}, axes", "{epochs: 1}, axis"), r'there is no key "quick.axis". Did you mean "axes"\?'),
        (("lora_r: 4", "lora_rank: 4"), r'base has "lora_rank", which is not a setting. Did you mean "lora_r"\?'),
        (("distill_alpha:", "alpha:"), r'axes has "alpha", which is not a setting. Did you mean "distill_alpha"\?'),
        (("lora_r: 64", "seed: 64"), "also sets seed; use seeds"),
        (("lora_r: 64", "num_threads: 64"), "num_threads does not affect results"),
        (("axes: {student", "axes: {lora_r"), 'quick.axes has "lora_r", which is not an axis'),
        (("seeds: [3, 5]", "seeds: [3]\ntune: {axes: {student: [a]}}"), "student is in axes and in tune.axes"),
        (("seeds: [3, 5]", "seeds: [3]\ntune: {axes: {lorar: [1]}}"), 'tune.axes has "lorar".* mean "lora_r"'),
        (("seeds: [3, 5]", "seeds: [3]\ntune: {base: {lora_r: 1}}"), 'the key "tune.axes" is missing'),
        (("seeds: [3, 5]", "seeds: [3]\ntune: {axes: {lora_r: [1]}, sed: 1}"), r'"tune.sed". Did you mean "seed"\?'),
    ],
)
def test_a_wrong_file_is_refused_in_a_line(write: Write, change: tuple[str, str], message: str) -> None:
    assert change[0] in FILE
    with pytest.raises(UserError, match=message):
        read_study(write(FILE.replace(*change)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("0.25", "2.5"), "cell with distill_alpha 2.5, .*: distill_alpha is 2.5; it must be a number from 0 to 1"),
        (("teacher:4", "teacher:x"), 'in "teacher:N" N must be a whole number above 0'),
        (("tiny-student]\nalso", '"teacher:4"]\nalso'), "distill_alpha=0,student=teacher-4--seed3 more than once"),
    ],
)
def test_a_wrong_cell_is_refused_before_any_runs(write: Write, change: tuple[str, str], message: str) -> None:
    assert change[0] in FILE
    study = made(write(FILE.replace(*change)))
    with pytest.raises(UserError, match=message):
        study.cells()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distill_alpha": 0.3}, "varies distill_alpha; drop --distill_alpha"),
        ({"seed": 3}, "use --seeds"),
        ({"lora_rr": 3}, r'unknown setting "lora_rr". Did you mean "lora_r"\?'),
    ],
)
def test_settings_that_do_not_fit_a_study(write: Write, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_study(write(FILE), settings)


def test_a_wrong_name_gets_the_nearest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_yaml("alpha", what="study") in STUDIES
    with pytest.raises(UserError, match=r'unknown study "alhpa". Did you mean "alpha"\? .* alpha, '):
        find_yaml("alhpa", what="study")


def test_there_are_the_studies_of_the_specification() -> None:
    names = {"methods", "alpha", "rank", "layers", "size", "positions", "normalize", "thoughts_from", "thoughts"}
    assert names <= {path.stem for path in STUDIES}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_each_study_of_the_checkout_makes_cells(path: Path) -> None:
    study = made(path)
    cells = study.cells()
    assert len(study.seeds) >= (5 if path.stem == "methods" else 3)
    assert len(cells) >= 2 * len(study.seeds)
    assert min(cell.config.evaluation.num_eval_problems or 500 for cell in cells) >= 500
    quick = made(path, quick=True)
    assert {cell.label for cell in quick.cells()} == {cell.label for cell in cells}
    seeds = {cell.label: {other.seed for other in cells if other.label == cell.label} for cell in cells}
    for cell in cells:  # what trains nothing has nothing to draw
        assert seeds[cell.label] == (set(study.seeds) if cell.config.trains_student else {study.seeds[0]})
    assert (quick.base.data.num_train_problems or 10**6) < (study.base.data.num_train_problems or 10**6)


def test_layers_and_thoughts_from_share_one_store(tmp_path: Path) -> None:
    for name in ("layers", "thoughts_from"):
        path = next(path for path in STUDIES if path.stem == name)
        tasks = tasks_of(made(path, quick=True).cells(), StudyFolder(tmp_path, name))
        assert [task.kind for task in tasks].count("store") == 1
