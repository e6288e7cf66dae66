"""Configuration that means harm, or nothing: YAML and command lines are a configuration or one line, soon."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lrd_peft.config import RunConfig, load_config
from lrd_peft.config.flat import OWNERS
from lrd_peft.runtime.errors import UserError

# Each line nine of the line before: 9**12 strings if they were ever written out.
BOMB = 'a0: &a0 ["x","x","x","x","x","x","x","x","x"]\n' + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
HOSTILE = {
    "python object": "teacher: !!python/object/apply:os.system ['touch canary']",
    "python name": "teacher: !!python/name:os.system",
    "python tuple": "distill_layers: !!python/tuple [1, 2]",
    "merge of itself": "a: &a {<<: *a}",
    "alias of itself": "lora_targets: &a [*a]",
    "bomb": BOMB,
    "bomb in a field": BOMB.replace("a11:", "lora_targets:"),
    "bomb as a name": "? " + "[" * 200 + "]" * 200 + "\n: 1",
    "binary": "teacher: !!binary gIGCg4SFhoeI",
    "date": "teacher: 2020-02-02",
    "huge number": "seed: " + "9" * 5000,
    "huge exponent": "learning_rate: 1e999999999",
    "not a number": "distill_alpha: .nan",
    "infinite": "epochs: .inf",
    "sexagesimal": "seed: 1:2:3",
    "two documents": "seed: 1\n---\nseed: 2",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_one_short_line_soon(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "recipe.yaml"
    path.write_text(HOSTILE[name])
    began = time.process_time()
    try:
        config = load_config(yaml_path=path)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000
    else:
        assert name == "sexagesimal" and config.run.seed == 3723, "base 60 is what YAML 1.1 says"
    assert time.process_time() - began < 5
    assert not (tmp_path / "canary").exists()


YAML_TEXT = st.one_of(
    st.binary(max_size=60),
    st.text(st.sampled_from("seed: lora_r[]{}&*!|>-?\n\t'\"#%@,0123456789~"), max_size=60).map(str.encode),
    st.dictionaries(st.sampled_from(sorted(OWNERS)), st.text(max_size=12), max_size=3).map(
        lambda fields: "\n".join(f"{name}: {value}" for name, value in fields.items()).encode("utf-8", "replace")
    ),
)


@settings(max_examples=150, deadline=None)
@given(text=YAML_TEXT)
def test_any_yaml_is_a_configuration_or_one_line(text: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text)
    try:
        assert isinstance(load_config(yaml_path=path), RunConfig)
    except UserError as error:
        assert "\n" not in str(error)


WORDS = st.one_of(
    st.sampled_from([f"--{name}" for name in OWNERS]),
    st.sampled_from(["--", "-", "--=", "--seed=", "--config", "--config=", "-h0", "--lora_r=1e3", "--no-dry_run"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.integers().map(str),
)


@settings(max_examples=30, deadline=None)
@example(argv=["\n"])
@example(argv=["--seed", "a\nb"])
@example(argv=["--a\x85b"])
@given(argv=st.lists(WORDS, max_size=5))
def test_any_command_line_is_a_configuration_or_one_line(argv: list[str]) -> None:
    try:
        assert isinstance(load_config(argv), RunConfig)
    except UserError as error:
        assert "\n" not in str(error)
