"""Which fields decide what a phase produces."""

from __future__ import annotations

from typing import Any

import pytest

from lrd_peft.config import PHASES, RunConfig, differences, fingerprint
from lrd_peft.config.identity import LATER, NO_RESULT, OWN_FIELDS


def test_each_field_is_of_one_phase_or_of_none() -> None:
    named = [name for phase in PHASES for name in OWN_FIELDS[phase]] + list(NO_RESULT)
    assert sorted(named) == sorted(RunConfig.model_fields)


@pytest.mark.parametrize(
    ("change", "first_phase"),
    [
        ({"seed": 1}, "teacher"),
        ({"dataset": "math-mini", "eval_datasets": ("gsm-mini",)}, "teacher"),
        ({"teacher_learning_rate": 1e-3}, "teacher"),
        ({"max_stage": 3}, "teacher"),
        ({"warmup_steps": 5, "lr_scheduler": "cosine"}, "teacher"),
        ({"teacher_step_loss_weight": 0.5}, "teacher"),
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
    plain, changed = RunConfig(), RunConfig(**change)
    first = PHASES.index(first_phase) if first_phase in PHASES else len(PHASES)
    for index, phase in enumerate(PHASES):
        same = plain.fingerprint(phase) == changed.fingerprint(phase)
        assert same == (index < first), phase
        assert same == (not differences(plain.phase_fields(phase), changed.phase_fields(phase)))


def test_lora_fields_count_for_a_teacher_with_lora() -> None:
    def teacher(**settings: Any) -> str:
        return RunConfig(**settings).fingerprint("teacher")

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
    assert RunConfig(**spelled_out).fingerprint() == RunConfig().fingerprint()


def test_differences_name_field_and_both_values() -> None:
    a, b = RunConfig(seed=1, lora_r=8), RunConfig(seed=2, lora_r=8, distill_layers=(8,))
    assert differences(a.phase_fields("store"), b.phase_fields("store")) == [
        ("teacher_seed", 1, 2),
        ("store_layers", (8, 9, 10, 11, 12), (8,)),
    ]
    assert differences({"x": 1}, {"y": (1, 2)}) == [("x", 1, None), ("y", None, (1, 2))]


def test_differences_survive_json() -> None:
    import json

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
        ("distill-lora", ("teacher", "student", "evaluation")),
        ("latent-lora", PHASES),
    ],
)
def test_a_method_goes_through_the_phases_that_it_needs(method: str, phases: tuple[str, ...]) -> None:
    assert RunConfig(method=method).needed_phases == phases


def test_methods_share_what_they_agree_on() -> None:
    def of(phase: Any, **settings: Any) -> str:
        return RunConfig(**settings).fingerprint(phase)

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
        ("codi", {"codi_weight": 2.0}, True),
        ("codi", {"token_alpha": 0.1, "teacher_learning_rate": 1.0}, False),
        ("codi", {"step_loss_weight": 0.5}, False),
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
    changed = RunConfig(method=method, **change)
    assert (RunConfig(method=method).fingerprint() != changed.fingerprint()) == counts


def test_a_pruned_teacher_counts_for_every_method() -> None:
    a, b = (RunConfig(method="direct", student="teacher:4", teacher=name) for name in ("tiny-teacher", "smollm2"))
    assert a.fingerprint() != b.fingerprint()


def test_the_store_is_told_apart_by_the_thoughts_in_it() -> None:
    assert RunConfig(thoughts_from="teacher").stored_layers == (0, 8, 9, 10, 11, 12)
    assert RunConfig(thoughts_from="teacher").fingerprint("store") != RunConfig().fingerprint("store")
    assert RunConfig(thoughts_from="teacher").fingerprint("store") == RunConfig(thoughts_from="annealed").fingerprint(
        "store"
    )


def test_a_field_that_came_later_leaves_old_fingerprints_as_they_were() -> None:
    assert set(LATER) <= set(RunConfig.model_fields)
    for name, before in LATER.items():
        assert RunConfig.model_fields[name].default == before
    for phase in PHASES:
        fields = RunConfig().phase_fields(phase)
        without = {name: value for name, value in fields.items() if name not in LATER}
        assert fingerprint(without) == fingerprint(fields) == RunConfig().fingerprint(phase)
    # as made before there was `align_to`
    assert fingerprint({"positions": "all", "align_to": "thoughts"}) == fingerprint({"positions": "all"})
    assert fingerprint({"positions": "all", "align_to": "steps"}) != fingerprint({"positions": "all"})


def test_written_steps_need_the_teacher_that_writes() -> None:
    def of(phase: Any, **settings: Any) -> str:
        return RunConfig(**settings).fingerprint(phase)

    steps: dict[str, Any] = {"align_to": "steps"}
    assert RunConfig(**steps).needed_teacher == "cot"
    assert RunConfig(**steps).needed_phases == PHASES
    assert of("teacher", **steps) == of("teacher", method="distill-lora") != of("teacher")
    assert of("store", **steps, epochs_per_stage=5.0) == of("store", **steps) != of("store")
    assert of("store", **steps, thoughts_per_step=2) != of("store", **steps)
    changed = differences(RunConfig().phase_fields("store"), RunConfig(**steps).phase_fields("store"))
    assert ("align_to", "thoughts", "steps") in changed
    # What it begins with is another matter than what it is aligned to.
    pruned: dict[str, Any] = {"student": "teacher:4", "student_weights": "trained"}
    assert RunConfig(**pruned, **steps).needed_teacher == "latent"
    assert of("teacher", **pruned, **steps) == of("teacher", **pruned)
    assert of("store", **pruned, **steps) != of("store", **pruned)
    assert of("store", method="distill-lora", **steps) == of("store", method="distill-lora")


def test_settings_that_do_nothing_at_their_value_do_not_count() -> None:
    for nothing in ({"alpha_schedule": "falling"}, {"projector_init": "least-squares"}):
        aligned, alone = (RunConfig(distill_alpha=alpha, **nothing) for alpha in (0.5, 0))  # pyright: ignore
        assert aligned.fingerprint() != RunConfig(distill_alpha=0.5).fingerprint()
        assert alone.fingerprint() == RunConfig(distill_alpha=0).fingerprint()
    same = RunConfig(num_train_problems=10, num_student_problems=10)
    assert same.fingerprint() == RunConfig(num_train_problems=10).fingerprint()


def test_epochs_do_not_count_beside_a_number_of_steps() -> None:
    assert RunConfig(epochs=9, max_steps=10).fingerprint() == RunConfig(max_steps=10).fingerprint()
    assert RunConfig(max_steps=10).fingerprint() != RunConfig().fingerprint()


def test_a_step_loss_counts_only_where_there_are_thoughts() -> None:
    names = {"step_loss_weight", "teacher_step_loss_weight"}
    weights: dict[str, Any] = dict.fromkeys(names, 0.5)
    assert names <= set(RunConfig(**weights).result_fields())
    assert RunConfig(**weights).fingerprint("teacher") != RunConfig().fingerprint("teacher")
    assert not names & set(RunConfig(max_stage=0, **weights).result_fields())
    with pytest.raises(ValueError, match="step_loss_weight"):
        RunConfig(step_loss_weight=-0.1)
