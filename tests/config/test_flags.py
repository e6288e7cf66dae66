"""The command line of a configuration."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from lrd_peft.config import RunConfig, load_config, parse_request
from lrd_peft.config.flags import _complaint
from lrd_peft.errors import UserError


@pytest.mark.parametrize(
    ("line", "values"),
    [
        (
            "--epochs 3 --alpha 0.1 --lr 1e-4 --lora_r 16",
            {"epochs": 3, "distill_alpha": 0.1, "learning_rate": 1e-4, "lora_r": 16},
        ),
        (
            "--epochs 5 --alpha 0.15 --lr 5e-5 --batch_size 8 --lora_r 32 --distill_layers 8 9 10 11 12",
            {"epochs": 5, "distill_alpha": 0.15, "learning_rate": 5e-5, "batch_size": 8, "lora_r": 32},
        ),
        ("--distill-alpha=0.2 --learning-rate 1", {"distill_alpha": 0.2, "learning_rate": 1}),
        ("--distill-layers 3 1 --report-to wandb", {"distill_layers": (3, 1), "report_to": "wandb"}),
        ("--lora_targets all-linear", {"lora_targets": "all-linear"}),
        ("--lora_targets q_proj v_proj --seed 3", {"lora_targets": ("q_proj", "v_proj"), "seed": 3}),
        ("--thought_markers --no-trust-remote-code", {"thought_markers": True, "trust_remote_code": False}),
        ("--num_eval_problems None --quantization None", {"num_eval_problems": None, "quantization": None}),
        ("--student teacher:2 --keep_blocks 0 5", {"student": "teacher:2", "keep_blocks": (0, 5)}),
        ("--warmup_steps 10%", {"warmup_steps": 0.1}),
        ("--warmup-steps 100", {"warmup_steps": 100}),
        ("--dataset gsm-mini+math-mini --eval_datasets a b", {"eval_datasets": ("a", "b")}),
        ("--seed 1 --seed 2", {"seed": 2}),
        ("", {}),
    ],
)
def test_flags_set_fields(line: str, values: dict[str, Any]) -> None:
    config = load_config(shlex.split(line))
    for field, value in values.items():
        assert getattr(config, field) == value


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--lora_rank 3", 'unknown flag --lora_rank. Did you mean "--lora_r"? See lrd run --help.'),
        ("--distil-layers=8", 'unknown flag --distil-layers. Did you mean "--distill_layers"?'),
        ("--confg x", 'Did you mean "--config"?'),
        ("--epoch 3", 'Did you mean "--epochs"?'),
        ("--qqqqqq", "unknown flag --qqqqqq. See"),
        ("--al 0.1", "unknown flag --al."),  # no guessing from the first letters
        ("--alpha x", "--alpha x: it must be a number from 0 to 1."),
        ("--lr=x", "--lr x: it must be a number above 0."),
        ("--epochs", "--epochs has no value: it must be a number above 0."),
        ("--distill_layers 8 x --seed 1", "--distill_layers 8 x: it must be a list"),
        ("--report-to neptune", "it must be one of none, wandb, tensorboard, trackio."),
        ("--quantization 3bit", "it must be one of 4bit, 8bit or null (None as a flag)."),
        ("--epochs 3 4", '"4" after --epochs belongs to no flag.'),
        ("--trust_remote_code true", '"true" after --trust_remote_code belongs to no flag.'),
        ("stray", '"stray" belongs to no flag.'),
        ("--alpha 1.5", "distill_alpha is 1.5; it must be a number from 0 to 1"),
        ("--distill_layers", "distill_layers is (); it must be a list of one or more"),
        ("--warmup_steps soon", "warmup_steps is 'soon'; it must be a number at least 0"),
        ("--seed -1 --lora_r 0", "seed is -1;"),
        ("--student_layers 1", "each teacher layer needs one student layer"),
        ("--device gpu", '"gpu" is no device'),
        ("--config", "--config needs the name of a YAML file"),
        ("--config --seed 3", "--config needs the name of a YAML file"),
    ],
)
def test_a_wrong_flag_is_one_line_that_says_what_is_right(line: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(shlex.split(line))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_complaint_about_no_flag_of_ours_is_passed_on() -> None:
    box = "╭─ Parsing error ─╮\n│ Something else  │\n│ went wrong      │\n│ ─────────────── │\n│ help │\n"
    assert _complaint(box, ["--seed", "3"]) == "Something else went wrong"
    assert _complaint("plain words", []) == "plain words"


def test_help_lists_each_field_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_request(["--help"], prog="lrd distill", description="Train it.", overrides={"seed": 77})
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "lrd distill" in text
    assert "Train it." in text
    for name in RunConfig.model_fields:
        assert f"--{name}" in text
    assert "--alpha" in text
    assert "--lr " in text
    assert "--dry_run" in text
    assert "77" in text
