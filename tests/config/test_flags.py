"""The command line of a configuration."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest

from lrd_peft.config import load_config, parse_request
from lrd_peft.config.flags import RunFlags, parse_flags
from lrd_peft.config.flat import GROUPS, OWNERS, FlatConfig
from lrd_peft.runtime.errors import UserError


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
        assert getattr(getattr(config, OWNERS[field]), field) == value


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--lora_rank 3", 'unknown flag --lora_rank. Did you mean "--lora_r"? See lrd run --help.'),
        ("--distil-layers=8", 'unknown flag --distil-layers. Did you mean "--distill_layers"?'),
        ("--confg x", 'Did you mean "--config"?'),
        ("--epoch 3", 'Did you mean "--epochs"?'),
        ("--from-rn x", 'Did you mean "--from_run"?'),
        ("--qqqqqq", "unknown flag --qqqqqq. See"),
        ("--c_thought 2", "unknown flag --c_thought. See"),  # the names that share a few letters are no help
        ("--al 0.1", "unknown flag --al. See"),  # no guessing from the first letters
        ("--alpha x", 'distill_alpha is "x"; it must be a number from 0 to 1'),
        ("--lr=x", 'learning_rate is "x"; it must be a number above 0'),
        ("--epochs", "--epochs needs a value."),
        ("--distill_layers 8 x --seed 1", 'distill_layers holds "x"; it must be a list'),
        ("--report-to neptune", 'report_to is "neptune"; it must be one of none, wandb, tensorboard, trackio'),
        ("--quantization 3bit", "it must be one of 4bit, 8bit or null (None as a flag)"),
        ("--epochs 3 4", '"4" after --epochs belongs to no flag.'),
        ("--trust_remote_code true", '"true" after --trust_remote_code belongs to no flag.'),
        ("stray", '"stray" is one argument too many.'),
        ("--alpha 1.5", "distill_alpha is 1.5; it must be a number from 0 to 1"),
        ("--distill_layers", "distill_layers is (); it must be a list of one or more"),
        ("--warmup_steps soon", 'warmup_steps is "soon"; it must be a number at least 0'),
        ("--seed -1 --lora_r 0", "seed is -1;"),
        ("--seed 1.5", "seed is 1.5; it must be a whole number"),
        ("--student_layers 1", "each teacher layer needs one student layer"),
        ("--device gpu", '"gpu" is not a device'),
        ("--config", "--config needs the name of a recipe or a YAML file"),
        ("--config --seed 3", "--config needs the name of a recipe or a YAML file"),
        ("--alpha 0.1 --distill_alpha 0.2", "--alpha and --distill_alpha are one setting; give one of the two"),
        ("--learning-rate=1 --lr 1", "--learning_rate and --lr are one setting; give one of the two"),
    ],
)
def test_a_wrong_flag_is_one_line_that_says_what_is_right(line: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(shlex.split(line))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("flag", ["--epochs", "--epochs=", "--output_dir --seed 3", "--student_revision"])
def test_a_flag_without_its_value_is_refused(flag: str) -> None:
    with pytest.raises(UserError, match=r"needs a value|epochs is"):
        load_config(shlex.split(flag))


def help_of(capsys: pytest.CaptureFixture[str], *argv: str, **options: Any) -> str:
    with pytest.raises(SystemExit) as stop:
        parse_request(argv, **options)
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_help_lists_each_field_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "--help", prog="lrd distill", description="Train it.", overrides={"seed": 77})
    assert "lrd distill" in text
    assert "Train it." in text
    for name in OWNERS:
        assert f"--{name}" in text
    assert "--alpha" in text
    assert "--lr " in text
    assert "--dry_run" in text
    assert "77" in text
    for name in GROUPS:
        assert f"{name} options" in text
    assert "{None}" not in text and "STR" not in text and "(default: None)" not in text


def test_help_shows_some_settings_and_help_all_shows_all(capsys: pytest.CaptureFixture[str]) -> None:
    some = help_of(capsys, "--help", shown=("lora_r", "seed"))
    assert "--lora_r INT" in some and "adapter options" in some
    assert "--lora_alpha" not in some and "optimizer options" not in some
    assert "lrd run --help-all shows all settings." in some
    for spelling in ("--help-all", "--help_all"):
        everything = help_of(capsys, spelling, shown=("lora_r", "seed"))
        assert all(f"--{name}" in everything for name in OWNERS)


def test_hidden_settings_are_flags_all_the_same() -> None:
    assert parse_request(["--lora_alpha", "7"], shown=("seed",)).config.adapter.lora_alpha == 7


def test_help_shows_the_recipe_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "(default: runs/demo)" in help_of(capsys, "--config", "demo", "--help")


def test_only_the_flags_that_are_given_are_settings() -> None:
    found = parse_flags(
        RunFlags,
        ["--no-thought-markers", "--lr", "1e-3", "--config", "demo"],
        prog="lrd run",
        description="",
        defaults=FlatConfig(),
    )
    assert found.settings == {"thought_markers": False, "learning_rate": 1e-3}
    assert found.config == "demo"


def test_the_command_line_of_a_run_names_another_run() -> None:
    assert parse_request(["--from-run", "runs/demo"]).from_run == Path("runs/demo")
    assert parse_request([]).from_run is None


def test_the_private_part_of_tyro_that_reports_errors_is_there() -> None:
    """`runtime/command_line.py` uses these; pyproject.toml caps tyro below the next minor release."""
    from tyro import _errors

    for event, names in {
        "UnrecognizedArgs": {"tokens"},
        "MissingArgs": {"missing_arguments"},
        "BadValue": {"argument"},
        "InvalidChoice": {"argument", "value", "choices"},
        "InstantiationFailure": {"argument"},
    }.items():
        kind = getattr(_errors, event)
        assert issubclass(kind, _errors.ParseErrorEvent)
        assert names <= {field.name for field in dataclasses.fields(kind)}
    assert callable(_errors.on_parse_error)
