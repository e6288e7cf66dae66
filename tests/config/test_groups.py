"""The groups of settings, their flat form, and the default layers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_peft.config import RunConfig
from lrd_peft.config.distill_options import DistillConfig
from lrd_peft.config.flat import GROUPS, OWNERS, FlatConfig
from lrd_peft.runtime.errors import UserError

VALUES: dict[str, Any] = {
    "teacher": st.sampled_from(["gpt2", "a/b", "null", "1e5"]),
    "quantization": st.sampled_from([None, "4bit"]),
    "teacher_tuning": st.just("qlora"),
    "num_train_problems": st.none() | st.integers(1, 10**6),
    "distill_layers": st.none() | st.lists(st.integers(0, 40), min_size=1, max_size=6, unique=True).map(tuple),
    "distill_alpha": st.floats(0, 1),
    "lora_targets": st.just("all-linear") | st.just(("q_proj", "v_proj")),
    "warmup_steps": st.floats(0, 0.99) | st.just("10%"),
    "method": st.sampled_from(["latent-lora", "direct", "codi", "base"]),
    "seed": st.integers(0, 2**32 - 1),
    "device": st.none() | st.just("cuda:1"),
}


def test_every_setting_belongs_to_exactly_one_group() -> None:
    fields = [name for model in GROUPS.values() for name in model.model_fields]
    assert len(fields) == len(set(fields))
    assert set(fields) == set(OWNERS) == set(FlatConfig.model_fields)
    assert set(GROUPS) == set(RunConfig.model_fields)


@settings(deadline=None, max_examples=50)
@given(values=st.fixed_dictionaries({}, optional=VALUES))
def test_a_flat_configuration_comes_back(values: dict[str, Any]) -> None:
    if values.get("teacher_tuning") == "qlora":
        values["quantization"] = "8bit"
    elif values.get("quantization"):
        values["epochs_stage0"] = values["epochs_per_stage"] = 0
    config = RunConfig.from_flat(values)
    flat = config.flat()
    assert set(flat) == set(OWNERS)
    assert RunConfig.from_flat(json.loads(json.dumps(flat))) == config
    for name, value in values.items():
        if name != "warmup_steps":
            assert getattr(getattr(config, OWNERS[name]), name) == value


def test_changed_settings_replace_the_others_stay() -> None:
    config = RunConfig.from_flat(seed=3, lora_r=8)
    changed = config.changed(seed=4)
    assert (changed.run.seed, changed.adapter.lora_r, config.run.seed) == (4, 8, 3)
    with pytest.raises(UserError, match=r'unknown setting "sed"\. Did you mean "seed"'):
        config.changed(sed=4)


@pytest.mark.parametrize(
    ("blocks", "layers"),
    [
        (32, (8, 9, 10, 11, 12)),
        (12, (8, 9, 10, 11, 12)),
        (11, (7, 8, 9, 10, 11)),
        (6, (2, 3, 4, 5, 6)),
        (5, (1, 2, 3, 4, 5)),
        (2, (1, 2)),
        (1, (1,)),
    ],
)
def test_the_default_layers_fit_any_depth(blocks: int, layers: tuple[int, ...]) -> None:
    assert DistillConfig().resolved(teacher_blocks=blocks).distill_layers == layers
    chosen = DistillConfig(distill_layers=(3,))
    assert chosen.resolved(teacher_blocks=blocks) is chosen


def test_resolved_default_layers_keep_the_fingerprint() -> None:
    plain = RunConfig()
    resolved = plain.changed(distill_layers=plain.distill.resolved(teacher_blocks=12).layers)
    assert resolved != plain
    assert resolved.fingerprint() == plain.fingerprint()


def test_student_layers_must_pair_with_the_default_layers_too() -> None:
    options = DistillConfig(student_layers=(1, 2, 3, 4, 5))
    with pytest.raises(UserError, match="student_layers names 5 layers and distill_layers 2"):
        options.resolved(teacher_blocks=2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"distill_alpha": 1.5}, "distill_alpha is 1.5; it must be a number from 0 to 1"),
        ({"thoughts_from": "me"}, 'thoughts_from is "me"; it must be one of student, teacher, annealed, refined'),
        ({"thoughts_from": "anealed"}, 'teacher, annealed, refined. Did you mean "annealed"?'),
        ({"align_to": "steps", "positions": "all"}, 'align_to is "steps", but positions is "all"'),
        ({"alpha": 0.1}, 'unknown setting "alpha". Did you mean "distill_alpha"'),
    ],
)
def test_wrong_options_from_python_are_told_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        DistillConfig.checked(**values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
