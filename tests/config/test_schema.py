"""Fields and the rules between them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from lrd_peft.config import RunConfig
from lrd_peft.config.flat import OWNERS, FlatConfig, expected
from lrd_peft.config.messages import ALIASES
from lrd_peft.runtime.errors import UserError


def test_defaults_are_the_specified_hyperparameters() -> None:
    config = RunConfig()
    assert config.distill.distill_alpha == 0.1
    assert config.adapter.lora_r == 16
    assert config.adapter.lora_alpha == 32
    assert config.distill.layers == (8, 9, 10, 11, 12)
    assert config.student.learning_rate == 1e-4
    assert config.student.batch_size == 4
    assert config.student.epochs == 3
    assert config.optimizer.warmup_steps == 0.1


def test_each_field_has_one_line_of_help() -> None:
    for name, info in FlatConfig.model_fields.items():
        assert info.description, name
        assert "\n" not in info.description, name
        assert info.description.endswith("."), name


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(RunConfig().student, "epochs", 5)  # noqa: B010 - the type checker refuses the plain form, as it should
    with pytest.raises(ValidationError, match="frozen"):
        setattr(RunConfig(), "student", RunConfig().student)  # noqa: B010 - as above


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("distill_alpha", -0.01),
        ("distill_alpha", 1.01),
        ("distill_alpha", float("nan")),
        ("uniform_prob", 2),
        ("learning_rate", 0),
        ("learning_rate", float("inf")),
        ("batch_size", 0),
        ("batch_size", True),
        ("batch_size", 2.5),
        ("epochs", 0),
        ("max_stage", -1),
        ("thoughts_per_step", 0),
        ("lora_dropout", 1.0),
        ("distill_layers", ()),
        ("distill_layers", (8, 8)),
        ("distill_layers", (-1,)),
        ("distill_layers", (True, 2)),
        ("distill_layers", 8),
        ("methods", ("base", "base")),
        ("seed", -1),
        ("seed", 2**32),
        ("device", "gpu"),
        ("device", "cuda:x"),
        ("teacher", ""),
        ("output_dir", ""),
        ("dtype", "fp32"),
        ("warmup_steps", -1),
        ("warmup_steps", 1.5),
        ("warmup_steps", "100%"),
        ("warmup_steps", "x%"),
        ("lora_targets", ""),
        ("lora_targets", ()),
        ("trust_remote_code", "perhaps"),
        ("prune_how", "random"),
    ],
)
def test_values_out_of_range_are_refused(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^{field}\b"):
        RunConfig.from_flat(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("distill_alpha", 0),
        ("distill_alpha", 1),
        ("max_stage", 0),
        ("num_validation_problems", 0),
        ("num_eval_problems", None),
        ("epochs", 0.01),
        ("epochs_stage0", 0),
        ("lora_targets", ("q_proj",)),
        ("device", "cuda:1"),
        ("distill_layers", (0,)),
        ("student_layers", (1, 1, 2, 2, 3)),
        ("warmup_steps", 0),
        ("warmup_steps", 100),
    ],
)
def test_values_at_the_edge_are_accepted(field: str, value: Any) -> None:
    config = RunConfig.from_flat(**{field: value})
    assert getattr(getattr(config, OWNERS[field]), field) == value


@pytest.mark.parametrize(("written", "meant"), [("10%", 0.1), (" 2.5 %", 0.025), ("0%", 0.0), ("20", 20.0)])
def test_warmup_may_be_a_percentage(written: Any, meant: float) -> None:
    assert RunConfig.from_flat(warmup_steps=written).optimizer.warmup_steps == pytest.approx(meant)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"thought_projection": "linear", "projection_width": 24},
            "projection_width is 24, but thought_projection is linear; set thought_projection to mlp",
        ),
        (
            {"projection_dropout": 0.5},
            "projection_dropout is 0.5, but thought_projection is none; set thought_projection to linear or mlp",
        ),
        ({"student": "teacher:x"}, "above 0"),
        ({"student": "teacher:0"}, "above 0"),
        ({"student": "teacher:"}, "above 0"),
        ({"keep_blocks": (0, 1)}, 'set student to "teacher:2"'),
        ({"student": "teacher:3", "keep_blocks": (0, 1)}, "names 2 blocks"),
        ({"student": "teacher:2", "keep_blocks": (5, 1)}, "rising order"),
        ({"student_weights": "trained"}, 'student is "tiny-student"; only "teacher:N"'),
        (
            {"student_weights": "trained", "student": "teacher:2", "teacher_tuning": "lora"},
            "trains adapters, not the blocks",
        ),
        ({"student_layers": (1, 2)}, "names 2 layers and distill_layers 5"),
        ({"store_layers": (8, 9, 10)}, "lacks layer 11, 12"),
        ({"teacher_tuning": "qlora"}, "quantization is not set"),
        ({"quantization": "4bit"}, 'teacher_tuning to "qlora"'),
        ({"dataset": "gsm-mini+"}, "joined by"),
        ({"method": "latent-lorra"}, 'unknown method "latent-lorra".*Did you mean "latent-lora"'),
        ({"methods": ("base", "coddi")}, 'unknown method "coddi".*Did you mean "codi"'),
        ({"methods": ("base", "codi")}, "--method codi"),
        ({"method": "icot", "max_stage": 0}, "set max_stage to 1 or more"),
        ({"method": "coconut", "max_stage": 0}, "set max_stage to 1 or more"),
        ({"method": "coconut", "epochs_stage0": 0, "epochs_per_stage": 0}, "but all of them are 0"),
        ({"method": "coconut", "max_stage": 1, "epochs_of_stages": (0, 0)}, "but all of them are 0"),
        ({"max_stage": 2, "epochs_of_stages": (1, 2)}, "has 2 values; the stages from 0 to 2 take 3, one each"),
        ({"stage0_markers": True}, "set thought_markers to true"),
        ({"removal_side": "right"}, "removal_side is right, but remove_per_epoch is not set"),
        ({"align_to": "steps", "positions": "all"}, r"set positions to thoughts\+answer or thoughts, or align_to to"),
        ({"align_to": "steps", "thoughts_from": "teacher"}, "set thoughts_from to student, or align_to to thoughts"),
        ({"max_steps": 5, "max_seconds": 9.5}, r"max_steps is 5 and max_seconds 9\.5"),
        ({"student_curriculum": 0.5, "positions": "all"}, r"student_curriculum is 0\.5, but positions is"),
        (
            {"num_student_problems": 11, "num_train_problems": 10},
            "num_student_problems is 11, but num_train_problems is",
        ),
        ({"align_to": "steps", "thoughts_from": "annealed"}, 'thoughts_from is "annealed"'),
    ],
)
def test_fields_that_do_not_fit_together_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RunConfig.from_flat(**settings)


def test_a_quantized_teacher_that_is_not_trained_is_fine() -> None:
    assert RunConfig.from_flat(quantization="8bit", epochs_stage0=0, epochs_per_stage=0).model.quantization == "8bit"
    assert RunConfig.from_flat(quantization="4bit", teacher_tuning="qlora").model.quantization == "4bit"


def test_what_the_fields_amount_to() -> None:
    config = RunConfig.from_flat(
        student="teacher:2",
        keep_blocks=(0, 11),
        dataset="gsm8k + math",
        distill_layers=(12, 8),
        thoughts_per_step=2,
        max_stage=3,
        epochs_per_stage=2,
    )
    assert config.model.student_depth == 2
    assert config.data.dataset_parts == ("gsm8k", "math")
    assert config.evaluated_datasets == ("gsm8k", "math")
    assert config.stored_layers == (8, 12)
    assert config.thinking.num_thoughts == 6
    assert config.teacher.last_stage_epochs == 2
    assert RunConfig.from_flat(eval_datasets=("aqua",)).evaluated_datasets == ("aqua",)
    assert RunConfig.from_flat(student="gpt2").model.student_depth is None
    assert RunConfig.from_flat(epochs_last_stage=0).teacher.last_stage_epochs == 0
    one_by_one = RunConfig.from_flat(max_stage=2, epochs_stage0=7, epochs_of_stages=(0, 0.25, 2))
    assert one_by_one.stage_epochs == (0, 0.25, 2) and one_by_one.teacher.has_epochs
    assert not RunConfig.from_flat(max_stage=1, epochs_of_stages=(0, 0)).teacher.has_epochs


def test_a_file_with_a_plus_in_its_name_is_one_data_set(tmp_path: Any) -> None:
    path = tmp_path / "a+b.jsonl"
    path.touch()
    assert RunConfig.from_flat(dataset=str(path)).data.dataset_parts == (str(path),)


def test_aliases_name_fields() -> None:
    assert {"alpha", "lr"} == set(ALIASES)
    assert set(ALIASES.values()) <= set(FlatConfig.model_fields)


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("distill_alpha", "a number from 0 to 1"),
        ("lora_dropout", "a number at least 0 and below 1"),
        ("batch_size", "a whole number at least 1"),
        ("thought_markers", "true or false"),
        ("teacher", "text"),
        ("quantization", "one of 4bit, 8bit or null (None as a flag)"),
        ("distill_layers", "a list of one or more, each a whole number at least 0 or null (None as a flag)"),
        ("lora_targets", '"all-linear" or a list of one or more, each text'),
    ],
)
def test_what_a_field_may_hold_in_words(field: str, words: str) -> None:
    assert expected(field) == words


@pytest.mark.parametrize("text", ["q_proj", r".*\.(q|v)_proj"])
def test_one_lora_target_may_be_a_text(text: str) -> None:
    assert RunConfig.from_flat(lora_targets=text).adapter.lora_targets == (text,)
