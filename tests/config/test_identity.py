"""Which fields decide what a phase produces."""

from __future__ import annotations

from typing import Any

import pytest

from lrd_peft.config import PHASES, RunConfig, differences, fingerprint
from lrd_peft.config.identity import NO_RESULT, OWN_FIELDS


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
        ({"positions": "all"}, "store"),
        ({"store_layers": (7, 8, 9, 10, 11, 12)}, "store"),
        ({"distill_layers": (8, 9)}, "store"),
        ({"student": "teacher:4"}, "student"),
        ({"distill_alpha": 0.0}, "student"),
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
        ("seed", 1, 2),
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
