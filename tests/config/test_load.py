"""YAML files and the order defaults < file < flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_peft.config import RunConfig, dump_yaml, load_config, parse_request
from lrd_peft.config.recipes import find_yaml
from lrd_peft.runtime.errors import UserError


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str, name: str = "recipe.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_defaults_then_file_then_overrides_then_flags(write: Any) -> None:
    path = write("seed: 1\nlora_r: 8\nepochs: 2\nbatch_size: 2\n")
    config = load_config(
        ["--epochs", "7"], yaml_path=path, overrides={"batch_size": 3, "epochs": 4, "lora_dropout": 0.1}
    )
    assert (config.run.seed, config.adapter.lora_r, config.student.batch_size, config.adapter.lora_dropout) == (
        1,
        8,
        3,
        0.1,
    )
    assert config.student.epochs == 7
    assert config.student.learning_rate == 1e-4
    assert load_config() == RunConfig()


def test_config_flag_names_the_file(write: Any) -> None:
    path = write("seed: 5\n")
    assert load_config(["--config", str(path)]).run.seed == 5
    assert load_config([f"--config={path}", "--seed", "6"]).run.seed == 6
    assert load_config(["--seed", "6", "--config", str(path)]).run.seed == 6


def test_flags_may_complete_a_file_that_is_wrong_alone(write: Any) -> None:
    path = write("quantization: 4bit\n")
    assert load_config(["--teacher_tuning", "qlora"], yaml_path=path).model.quantization == "4bit"
    with pytest.raises(UserError, match="cannot be trained"):
        load_config(yaml_path=path)


def test_yaml_values_as_people_write_them(write: Any) -> None:
    # 1e-4 without a dot is text to YAML 1.1
    path = write("learning_rate: 1e-4\nwarmup_steps: 10%\ndistill_layers: [8, 9]\nkeep_blocks: null\n")
    config = load_config(yaml_path=path)
    assert (config.student.learning_rate, config.optimizer.warmup_steps, config.distill.distill_layers) == (
        1e-4,
        0.1,
        (8, 9),
    )


@pytest.mark.parametrize("text", ["", "# only a remark\n", "---\n"])
def test_an_empty_file_changes_nothing(write: Any, text: str) -> None:
    assert load_config(yaml_path=write(text)) == RunConfig()


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("seed: 1\nlora_rank: 8\n", 2, 'unknown setting "lora_rank". Did you mean "lora_r"?'),
        ("alpha: 0.1\n", 1, 'Did you mean "distill_alpha"?'),
        ("1: 2\n", 1, 'unknown setting "1"'),
        ("seed: 1\nepochs: many\n", 2, 'epochs is "many"; it must be a number above 0'),
        ("distill_layers: 8\n", 1, "distill_layers is 8; it must be a list"),
        ("distill_layers: [8, x]\n", 1, 'distill_layers holds "x"; it must be a list'),
        ("lora_targets: 5\n", 1, 'lora_targets is 5; it must be "all-linear" or a list'),
        ("batch_size: yes\n", 1, "batch_size is True; it must be a whole number at least 1"),
        ("distill_alpha: 1.5\n", 1, "distill_alpha is 1.5; it must be a number from 0 to 1"),
        ("teacher_revision: 123456\n", 1, "teacher_revision is 123456; it must be text"),
        ("dtype: {a: b}\n", 1, "must be one of float32, bfloat16, float16"),
        ("seed: 1\n\nseed: 2\n", 3, 'duplicate setting "seed", first set in line 1'),
        ("seed: 1\n  lora_r: [\n", 2, "not valid YAML"),
        ("seed: 1\n---\nseed: 2\n", 2, "not valid YAML"),
        ("seed: !!python/object/apply:os.getcwd []\n", 1, "not valid YAML"),
        ("- seed\n", 1, "not a list"),
        ("just words\n", 1, "not a single value"),
    ],
)
def test_a_wrong_file_names_file_line_and_what_is_right(write: Any, text: str, line: int, words: str) -> None:
    path = write(text)
    with pytest.raises(UserError) as caught:
        load_config(yaml_path=path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line {line}: ")
    assert words in message
    assert "\n" not in message


def test_all_wrong_fields_are_named_at_once(write: Any) -> None:
    with pytest.raises(UserError, match=r"line 3: lora_r is 0.*; .*line 1: seed is -1"):
        load_config(yaml_path=write("seed: -1\nepochs: 2\nlora_r: 0\n"))


@pytest.mark.parametrize("text", ["seed: \x00", "seed: 2020-13-45", "seed: " + "[" * 500])
def test_a_damaged_file_is_no_traceback(write: Any, text: str) -> None:
    with pytest.raises(UserError, match=r"recipe\.yaml"):
        load_config(yaml_path=write(text))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").touch()
    with pytest.raises(UserError, match=r'configuration file .* does not exist\. Did you mean ".*tiny.yaml"'):
        load_config(yaml_path=tmp_path / "tinny.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        load_config(yaml_path=tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"run_name: caf\xe9")
    with pytest.raises(UserError, match="cannot be read"):
        load_config(yaml_path=tmp_path / "latin.yaml")


def test_wrong_overrides_are_one_line_too() -> None:
    with pytest.raises(UserError, match=r'unknown setting "lorar"\. Did you mean "lora_r"'):
        load_config(overrides={"lorar": 3})


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
NAMES = st.lists(TEXT, min_size=1, max_size=3, unique=True).map(tuple)
LAYERS = st.lists(st.integers(0, 200), min_size=1, max_size=6, unique=True).map(tuple)
CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "teacher": TEXT,
        "teacher_revision": st.none() | TEXT | st.sampled_from(["null", "123", "1e5", "yes", "~", "0x1f"]),
        "dtype": st.sampled_from(["float32", "bfloat16", "float16"]),
        "trust_remote_code": st.booleans(),
        "eval_datasets": st.none() | NAMES,
        "num_train_problems": st.none() | st.integers(1, 10**9),
        "distill_alpha": st.floats(0, 1),
        "distill_layers": LAYERS,
        "lora_targets": st.just("all-linear") | NAMES,
        "learning_rate": st.floats(1e-300, 1e300),
        "epochs": st.floats(1e-9, 1e9),
        "warmup_steps": st.floats(0, 0.999) | st.integers(1, 10**6).map(float),
        "seed": st.integers(0, 2**32 - 1),
        "run_name": st.none() | TEXT,
    },
)


@pytest.mark.parametrize("name", ["a\x85", "\u2028b", "Übung"])
def test_names_with_line_breaks_of_unicode_come_back(name: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(dump_yaml(RunConfig.from_flat(run_name=name)), encoding="utf-8", newline="")
    assert load_config(yaml_path=path).run.run_name == name


@settings(deadline=None, max_examples=30)  # a busy machine is no failure
@given(values=CONFIGS)
def test_yaml_round_trip(values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    config = RunConfig.from_flat(**values)
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    path.write_text(dump_yaml(config), encoding="utf-8", newline="")
    assert load_config(yaml_path=path) == config
    # through the flags' defaults as well: warmup_steps is text there
    assert load_config(["--dry_run"], yaml_path=path) == config


def test_dumped_yaml_is_for_readers() -> None:
    text = dump_yaml(RunConfig.from_flat(learning_rate=5e-5, distill_layers=(8, 9, 10, 11, 12)))
    assert "distill_layers: [8, 9, 10, 11, 12]\n" in text
    assert "learning_rate: 5.0e-05\n" in text
    assert text.startswith("teacher: tiny-teacher\n")


RECIPES = sorted((Path(__file__).parents[2] / "src" / "lrd_peft" / "recipes").glob("*.yaml"))
RECIPES += sorted((RECIPES[0].parent / "published").glob("*.yaml"))


def test_there_are_recipes() -> None:
    assert {"demo", "quick", "tiny", "smollm2", "gpt2", "llama2", "coconut_gpt2"} <= {path.stem for path in RECIPES}
    assert load_config(yaml_path="coconut_gpt2") == load_config(yaml_path=find_yaml("coconut_gpt2"))
    with pytest.raises(UserError, match=r'unknown recipe "coconut_gpt3".*Did you mean "coconut_gpt2"'):
        find_yaml("coconut_gpt3")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_recipe_loads(path: Path) -> None:
    config = load_config(yaml_path=path)
    assert config != RunConfig()
    assert not Path(config.run.output_dir).is_absolute()


def test_llama2_is_the_specified_recipe() -> None:
    config = load_config(yaml_path=next(path for path in RECIPES if path.stem == "llama2"))
    assert (config.model.teacher, config.model.student) == ("meta-llama/Llama-2-7b-hf", "teacher:13")
    assert config.data.dataset_parts == ("gsm8k", "math", "aqua")
    assert (config.distill.distill_alpha, config.adapter.lora_r, config.adapter.lora_alpha) == (0.1, 16, 32)
    assert (
        config.student.learning_rate,
        config.student.batch_size,
        config.student.epochs,
        config.optimizer.warmup_steps,
    ) == (1e-4, 4, 3, 0.1)
    assert (config.distill.distill_layers, config.model.dtype) == ((8, 9, 10, 11, 12), "bfloat16")


def test_request_knows_a_dry_run() -> None:
    assert parse_request(["--dry-run", "--seed", "3"]).dry_run
    assert not parse_request(["--seed", "3"]).dry_run


@pytest.mark.parametrize(
    ("flags", "idle"),
    [
        (["--alpha", "0.1", "--lora_r", "8"], ()),
        (["--method", "codi", "--step_loss_weight", "0.5"], ("step_loss_weight",)),
        (["--method", "codi", "--step_loss_weight", "0.5", "--step_decoder", "auxiliary"], ()),
        (["--method", "full-finetune", "--alpha", "0.3", "--lora_r", "8"], ("distill_alpha", "lora_r")),
        (["--method", "base", "--epochs", "2", "--num_eval_problems", "9"], ("epochs",)),
        (["--num_threads", "2", "--output_dir", "runs/x"], ()),
        (["--eval_steps", "9", "--early_stopping_patience", "2"], ()),
    ],
)
def test_flags_that_change_nothing_are_named(flags: list[str], idle: tuple[str, ...]) -> None:
    assert parse_request(flags).without_effect == idle
