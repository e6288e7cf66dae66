"""Which fields decide what a phase produces."""

from __future__ import annotations

import hashlib
import json
import operator
import typing
from pathlib import Path
from typing import Any

import pytest

from lrd_peft.config import PHASES, RunConfig, differences, fingerprint
from lrd_peft.config.flat import OWNERS, FlatConfig
from lrd_peft.config.identity import ADDED, MARKS, NO_RESULT, has_use_for
from lrd_peft.config.methods import METHODS, ObjectiveName

RESULTS = Path(__file__).resolve().parents[2] / "results"


def test_each_field_says_what_it_affects_or_that_it_affects_nothing() -> None:
    assert set(MARKS) == set(OWNERS)
    for field, marks in MARKS.items():
        assert marks, field
        assert len({mark.phase is None for mark in marks}) == 1, f"{field} affects something and nothing"
    assert {"output_dir", "device", "num_threads", "report_to", "save_steps"} < NO_RESULT
    assert not NO_RESULT & set(RunConfig().result_fields())


def test_marks_name_what_a_configuration_has() -> None:
    config = RunConfig()
    for field, marks in MARKS.items():
        for mark in marks:
            for condition in mark.when:
                assert isinstance(getattr(config, condition), bool), (field, condition)
            if mark.value is not None:
                operator.attrgetter(mark.value)(config)
            assert set(mark.objectives) <= set(typing.get_args(ObjectiveName)), field


def test_fingerprints_of_committed_records_do_not_change() -> None:
    lines = (Path(__file__).parent / "fingerprints.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) > 300
    for line in lines:
        expected, name = line.split()
        record = json.loads((RESULTS / name).read_text(encoding="utf-8"))
        config = RunConfig.from_flat(record["config"])
        text = " ".join(config.fingerprint(phase) for phase in PHASES)
        assert hashlib.sha256(text.encode()).hexdigest()[:12] == expected, name


@pytest.mark.parametrize(
    ("change", "first_phase"),
    [
        ({"seed": 1}, "teacher"),
        ({"dataset": "math-mini", "eval_datasets": ("gsm-mini",)}, "teacher"),
        ({"teacher_learning_rate": 1e-3}, "teacher"),
        ({"max_stage": 3}, "teacher"),
        ({"warmup_steps": 5, "lr_scheduler": "cosine"}, "teacher"),
        ({"teacher_step_loss_weight": 0.5}, "teacher"),
        ({"thought_markers": True}, "teacher"),
        ({"extra_stage": True}, "teacher"),
        ({"marker_init": "<<"}, None),
        ({"thoughts_fit_steps": True}, "teacher"),
        ({"optimizer_reset": "epoch"}, "teacher"),
        ({"question_end": ""}, "teacher"),
        ({"step_end": " "}, "teacher"),
        ({"answer_marker": "The answer is:"}, "teacher"),
        ({"answer_prefix": " "}, "teacher"),
        ({"force_marker": "never"}, "evaluation"),
        ({"positions": "all"}, "store"),
        ({"store_layers": (7, 8, 9, 10, 11, 12)}, "store"),
        ({"distill_layers": (8, 9)}, "store"),
        ({"seed": 1, "teacher_seed": 0}, "student"),
        ({"student": "teacher:4"}, "student"),
        ({"distill_alpha": 0.0}, "student"),
        ({"step_loss_weight": 0.5}, "student"),
        ({"num_student_problems": 10, "alpha_schedule": "falling"}, "student"),
        ({"student_curriculum": 0.5, "projector_init": "least-squares"}, "student"),
        ({"lora_r": 8}, "student"),
        ({"learning_rate": 1e-3}, "student"),
        ({"methods": ("base",)}, "evaluation"),
        ({"num_eval_problems": None}, "evaluation"),
        ({"output_dir": "elsewhere", "report_to": "wandb", "device": "cpu", "num_threads": 2}, None),
        ({"logging_steps": 1, "save_steps": 5, "run_name": "x"}, None),
    ],
)
def test_a_change_counts_from_its_phase_on(change: dict[str, Any], first_phase: str | None) -> None:
    plain, changed = RunConfig(), RunConfig.from_flat(**change)
    first = PHASES.index(first_phase) if first_phase in PHASES else len(PHASES)
    for index, phase in enumerate(PHASES):
        same = plain.fingerprint(phase) == changed.fingerprint(phase)
        assert same == (index < first), phase
        assert same == (not differences(plain.phase_fields(phase), changed.phase_fields(phase)))


def test_artifacts_with_a_labeled_end_marker_are_not_reused() -> None:
    marked = RunConfig.from_flat(thought_markers=True)
    assert marked.phase_fields("teacher")["thought_markers"] == "<eot> unlabeled"
    as_before = {**marked.phase_fields("teacher"), "thought_markers": True}
    assert fingerprint(as_before) != marked.fingerprint("teacher")
    assert RunConfig().phase_fields("teacher")["thought_markers"] is False


def test_lora_fields_count_for_a_teacher_with_lora() -> None:
    def teacher(**settings: Any) -> str:
        return RunConfig.from_flat(**settings).fingerprint("teacher")

    assert teacher(lora_r=8) == teacher(lora_r=16)
    assert teacher(lora_r=8, teacher_tuning="lora") != teacher(lora_r=16, teacher_tuning="lora")


@pytest.mark.parametrize(
    "spelled_out",
    [
        {"store_layers": (12, 11, 10, 9, 8)},
        {"epochs_last_stage": 1.0},
        {"eval_datasets": ("gsm-mini",)},
        {"epochs": 3, "lora_alpha": 32.0, "warmup_steps": "10%"},
    ],
)
def test_a_default_spelled_out_changes_nothing(spelled_out: dict[str, Any]) -> None:
    assert RunConfig.from_flat(**spelled_out).fingerprint() == RunConfig().fingerprint()


def test_differences_name_field_and_both_values() -> None:
    a, b = RunConfig.from_flat(seed=1, lora_r=8), RunConfig.from_flat(seed=2, lora_r=8, distill_layers=(8,))
    assert differences(a.phase_fields("store"), b.phase_fields("store")) == [
        ("teacher_seed", 1, 2),
        ("store_layers", (8, 9, 10, 11, 12), (8,)),
    ]
    assert differences({"x": 1}, {"y": (1, 2)}) == [("x", 1, None), ("y", None, (1, 2))]


def test_differences_survive_json() -> None:
    fields = RunConfig().result_fields()
    again = json.loads(json.dumps(fields))
    assert differences(fields, again) == []
    assert fingerprint(again) == fingerprint(fields)


def test_fingerprint_ignores_the_order_of_fields() -> None:
    assert fingerprint({"a": 1, "b": (2, 3)}) == fingerprint({"b": [2, 3], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert len(fingerprint({})) == 16


@pytest.mark.parametrize(
    ("method", "phases"),
    [
        ("base", ("evaluation",)),
        ("teacher-latent", ("teacher", "evaluation")),
        ("direct", ("student", "evaluation")),
        ("codi", ("student", "evaluation")),
        ("coconut-lora", ("student", "evaluation")),
        ("distill-lora", ("teacher", "student", "evaluation")),
        ("latent-lora", PHASES),
    ],
)
def test_a_method_goes_through_the_phases_that_it_needs(method: str, phases: tuple[str, ...]) -> None:
    assert RunConfig.from_flat(method=method).needed_phases == phases


def test_methods_share_what_they_agree_on() -> None:
    def of(phase: Any, **settings: Any) -> str:
        return RunConfig.from_flat(**settings).fingerprint(phase)

    for method in ("latent-full", "teacher-latent"):
        assert of("teacher", method=method) == of("teacher")
    assert of("store", method="latent-full") == of("store")
    assert of("teacher", method="distill-lora") == of("teacher", method="standard-distill")
    assert of("student", method="latent-full") != of("student")


@pytest.mark.parametrize(
    ("method", "change", "counts"),
    [
        ("direct", {"teacher": "smollm2", "epochs_stage0": 2.0, "distill_alpha": 0.9, "lora_r": 4}, False),
        ("direct", {"positions": "all", "temperature": 1.0, "codi_weight": 2.0}, False),
        ("direct", {"learning_rate": 1e-3}, True),
        ("direct", {"student": "tiny-teacher"}, True),
        ("distill-lora", {"epochs_per_stage": 5.0, "distill_layers": (3,)}, False),
        ("distill-lora", {"step_loss_weight": 0.5, "teacher_step_loss_weight": 0.5}, False),
        ("distill-lora", {"epochs_stage0": 5.0}, True),
        ("distill-lora", {"temperature": 1.0}, True),
        ("icot", {"remove_per_epoch": 8, "removal_smoothing": 4.0}, True),
        ("coconut", {"remove_per_epoch": 8, "removal_smoothing": 4.0, "remove_all_beyond": 39}, False),
        ("coconut", {"epochs_last_stage": 4.0}, True),
        ("coconut", {"uniform_prob": 0.5}, True),
        ("coconut", {"extra_stage": True}, True),
        ("coconut", {"thoughts_fit_steps": True}, True),
        ("codi", {"thoughts_fit_steps": True}, False),
        ("coconut-lora", {"epochs_stage0": 0.0}, True),
        ("coconut-lora", {"step_loss_weight": 0.5}, True),
        ("coconut-lora", {"teacher_learning_rate": 1.0, "teacher_step_loss_weight": 0.5, "distill_alpha": 0.5}, False),
        ("coconut", {"optimizer_reset": "epoch"}, True),
        ("direct", {"extra_stage": True, "step_loss_weight": 0.5}, False),
        ("codi", {"codi_weight": 2.0}, True),
        ("codi", {"self_distance": "l1"}, True),
        ("codi-full", {"self_scale": "batch"}, True),
        ("codi", {"self_layer0": True}, True),
        ("pccot", {"drop_last_step": True}, True),
        ("codi", {"written_weight": 0.5}, True),
        ("coconut", {"written_weight": 0.5, "drop_last_step": True, "self_layer0": True, "self_scale": "none"}, False),
        ("codi", {"train_markers": False}, False),
        ("codi-full", {"train_markers": False}, False),
        ("codi", {"thought_projection": "mlp", "projection_width": 24}, True),
        ("codi", {"thought_projection": "linear", "projection_dropout": 0.1}, True),
        ("codi", {"token_alpha": 0.1, "teacher_learning_rate": 1.0}, False),
        ("codi", {"step_loss_weight": 0.5}, False),
        ("codi", {"step_loss_weight": 0.5, "step_decoder": "auxiliary"}, True),
        ("codi", {"step_decoder": "auxiliary"}, False),
        ("coconut", {"step_decoder": "auxiliary"}, False),
        ("direct", {"step_loss_weight": 0.5, "step_decoder": "auxiliary"}, False),
        ("codi", {"alpha_schedule": "rising", "student_curriculum": 0.5, "projector_init": "least-squares"}, False),
        ("codi", {"num_student_problems": 10}, True),
        ("latent-full", {"student_curriculum": 0.5}, True),
        ("base", {"num_student_problems": 10}, False),
        ("direct", {"max_steps": 10}, True),
        ("latent-full", {"step_loss_weight": 0.5}, True),
        ("teacher-latent", {"teacher_step_loss_weight": 0.5}, True),
        ("base", {"learning_rate": 1e-3, "warmup_steps": 7, "epochs": 9}, False),
        ("latent-lora", {"codi_weight": 2.0, "temperature": 9.0, "token_alpha": 0.1}, False),
    ],
)
def test_what_a_method_does_not_use_does_not_count(method: str, change: dict[str, Any], counts: bool) -> None:
    changed = RunConfig.from_flat(method=method, **change)
    assert (RunConfig.from_flat(method=method).fingerprint() != changed.fingerprint()) == counts


def test_each_setting_of_the_removal_counts() -> None:
    plain: dict[str, Any] = {"method": "icot", "remove_per_epoch": 8}
    changes = ({"removal_smoothing": 4.0}, {"removal_side": "right"}, {"pretrain_epochs": 1}, {"remove_all_beyond": 39})
    found = {RunConfig.from_flat(**plain, **change).fingerprint("student") for change in ({}, *changes)}
    assert len(found) == 5


def test_a_setting_is_of_use_to_the_methods_that_it_changes() -> None:
    users = [name for name in METHODS if has_use_for(name, "step_loss_weight")]
    both_paths = ["codi", "codi-full", "pccot", "pccot-full"]
    assert users == ["coconut", "coconut-lora", *both_paths, "latent-full", "latent-lora"]
    assert has_use_for("direct", "learning_rate") and has_use_for("a later one", "step_loss_weight")


@pytest.mark.parametrize(
    ("method", "weight", "phase"),
    [
        ("coconut", "step_loss_weight", "student"),
        ("codi-full", "step_loss_weight", "student"),
        ("latent-lora", "teacher_step_loss_weight", "teacher"),
        ("distill-lora", "teacher_step_loss_weight", None),
    ],
)
def test_the_decoder_of_a_step_loss_counts_from_its_phase_on(method: str, weight: str, phase: str | None) -> None:
    kinds: tuple[Any, ...] = ("own", "auxiliary")
    own, auxiliary = (RunConfig.from_flat(method=method, step_decoder=kind, **{weight: 0.5}) for kind in kinds)
    first = PHASES.index(phase) if phase in PHASES else len(PHASES)
    changed = [own.fingerprint(each) != auxiliary.fingerprint(each) for each in PHASES]
    assert changed == [index >= first for index in range(len(PHASES))]


def test_a_pruned_teacher_counts_for_every_method() -> None:
    a, b = (
        RunConfig.from_flat(method="direct", student="teacher:4", teacher=name) for name in ("tiny-teacher", "smollm2")
    )
    assert a.fingerprint() != b.fingerprint()


def test_the_store_is_told_apart_by_the_thoughts_in_it() -> None:
    assert RunConfig.from_flat(thoughts_from="teacher").stored_layers == (0, 8, 9, 10, 11, 12)
    assert RunConfig.from_flat(thoughts_from="teacher").fingerprint("store") != RunConfig().fingerprint("store")
    assert RunConfig.from_flat(thoughts_from="teacher").fingerprint("store") == RunConfig.from_flat(
        thoughts_from="annealed"
    ).fingerprint("store")


def test_a_field_that_came_later_leaves_old_fingerprints_as_they_were() -> None:
    assert set(ADDED) <= set(OWNERS)
    for name, before in ADDED.items():
        assert FlatConfig.model_fields[name].default == before
    for phase in PHASES:
        fields = RunConfig().phase_fields(phase)
        without = {name: value for name, value in fields.items() if name not in ADDED}
        assert fingerprint(without) == fingerprint(fields) == RunConfig().fingerprint(phase)
    # as made before there was `align_to`
    assert fingerprint({"positions": "all", "align_to": "thoughts"}) == fingerprint({"positions": "all"})
    assert fingerprint({"positions": "all", "align_to": "steps"}) != fingerprint({"positions": "all"})


def test_written_steps_need_the_teacher_that_writes() -> None:
    def of(phase: Any, **settings: Any) -> str:
        return RunConfig.from_flat(**settings).fingerprint(phase)

    steps: dict[str, Any] = {"align_to": "steps"}
    assert RunConfig.from_flat(**steps).needed_teacher == "cot"
    assert RunConfig.from_flat(**steps).needed_phases == PHASES
    assert of("teacher", **steps) == of("teacher", method="distill-lora") != of("teacher")
    assert of("store", **steps, epochs_per_stage=5.0) == of("store", **steps) != of("store")
    assert of("store", **steps, thoughts_per_step=2) != of("store", **steps)
    changed = differences(RunConfig().phase_fields("store"), RunConfig.from_flat(**steps).phase_fields("store"))
    assert ("align_to", "thoughts", "steps") in changed
    # What it begins with is another matter than what it is aligned to.
    pruned: dict[str, Any] = {"student": "teacher:4", "student_weights": "trained"}
    assert RunConfig.from_flat(**pruned, **steps).needed_teacher == "latent"
    assert of("teacher", **pruned, **steps) == of("teacher", **pruned)
    assert of("store", **pruned, **steps) != of("store", **pruned)
    assert of("store", method="distill-lora", **steps) == of("store", method="distill-lora")


def test_settings_that_do_nothing_at_their_value_do_not_count() -> None:
    for nothing in ({"alpha_schedule": "falling"}, {"projector_init": "least-squares"}):
        aligned, alone = (RunConfig.from_flat(distill_alpha=alpha, **nothing) for alpha in (0.5, 0))
        assert aligned.fingerprint() != RunConfig.from_flat(distill_alpha=0.5).fingerprint()
        assert alone.fingerprint() == RunConfig.from_flat(distill_alpha=0).fingerprint()
    same = RunConfig.from_flat(num_train_problems=10, num_student_problems=10)
    assert same.fingerprint() == RunConfig.from_flat(num_train_problems=10).fingerprint()


def test_epochs_do_not_count_beside_a_number_of_steps() -> None:
    assert RunConfig.from_flat(epochs=9, max_steps=10).fingerprint() == RunConfig.from_flat(max_steps=10).fingerprint()
    assert RunConfig.from_flat(max_steps=10).fingerprint() != RunConfig().fingerprint()


def test_a_step_loss_counts_only_where_there_are_thoughts() -> None:
    names = {"step_loss_weight", "teacher_step_loss_weight"}
    weights: dict[str, Any] = dict.fromkeys(names, 0.5)
    assert names <= set(RunConfig.from_flat(**weights).result_fields())
    assert RunConfig.from_flat(**weights).fingerprint("teacher") != RunConfig().fingerprint("teacher")
    assert not names & set(RunConfig.from_flat(max_stage=0, **weights).result_fields())
    with pytest.raises(ValueError, match="step_loss_weight"):
        RunConfig.from_flat(step_loss_weight=-0.1)


@pytest.mark.parametrize(
    ("settings", "phases"),
    [
        ({}, ("teacher", "store", "student", "evaluation")),
        ({"distill_alpha": 0.0}, ("student", "evaluation")),
        ({"distill_alpha": 0.0, "thoughts_from": "teacher"}, ("teacher", "store", "student", "evaluation")),
        ({"distill_alpha": 0.0, "student": "teacher:4"}, ("student", "evaluation")),
        (
            {"distill_alpha": 0.0, "student": "teacher:4", "student_weights": "trained"},
            ("teacher", "student", "evaluation"),
        ),
        ({"distill_alpha": 0.0, "methods": ["teacher-latent"]}, ("teacher", "student", "evaluation")),
        ({"distill_alpha": 0.0, "methods": ["base"]}, ("student", "evaluation")),
        ({"distill_alpha": 0.0, "method": "distill-lora"}, ("teacher", "student", "evaluation")),
    ],
)
def test_phases_that_nothing_needs_are_left_out(settings: dict[str, Any], phases: tuple[str, ...]) -> None:
    assert RunConfig.from_flat(settings).needed_phases == phases
