"""Records: what is written is read back, damage is named, and nothing half-written is ever seen."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrd_peft.evaluation.outcomes import pack_outcomes, unpack_outcomes
from lrd_peft.evaluation.records import Costs, Record, comparable, read_record, write_record
from lrd_peft.runtime import environment as environment_module
from lrd_peft.runtime.environment import environment, peak_memory_bytes, portable
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.json_files import canonical_json, write_json_atomic


def record(**changes: Any) -> Record:
    values: dict[str, Any] = {
        "method": "latent-lora",
        "datasets": ("gsm-mini",),
        "seed": 0,
        "config": {"learning_rate": 1e-4, "distill_layers": [8, 9], "max_seconds": 5},
        "environment": {"python": "3.11", "packages": {"torch": None}},
        "metrics": {
            "gsm-mini": {
                "summary": {"n": 2, "accuracy": 0.5, "seconds_per_problem": 0.25},
                "outcomes": pack_outcomes({"gsm-mini/test/0/0": True, "gsm-mini/test/0/1": False}),
            }
        },
        "costs": Costs(
            wall_seconds={"distill": 12.5},
            peak_memory_bytes=10**9,
            trainable_parameters=7,
            total_parameters=70,
        ),
        "curves": (
            {"step": 1, "total": 0.9, "step_seconds": 0.2},
            {"step": 2, "total": 0.8, "step_seconds": 0.3},
        ),
        "finished_at": "2025-01-02T03:04:05+00:00",
    }
    return Record(**{**values, **changes})


def test_a_record_survives_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_record(path, record())
    assert read_record(path) == record()
    assert os.listdir(tmp_path) == ["record.json"]


def test_equal_records_are_equal_bytes(tmp_path: Path) -> None:
    config = {"max_seconds": 5, "distill_layers": (8, 9), "learning_rate": 1e-4}
    for name, each in (("a", record()), ("b", record(config=config))):
        write_record(tmp_path / name, each)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_time_is_utc() -> None:
    values = {each.name: getattr(record(), each.name) for each in dataclasses.fields(Record)}
    del values["finished_at"]
    assert Record(**values).finished_at.endswith("+00:00")


def test_comparable_drops_only_the_clock() -> None:
    slow = record(
        metrics={
            "gsm-mini": record().metrics["gsm-mini"] | {"summary": {"n": 2, "accuracy": 0.5, "seconds_per_problem": 9}}
        },
        costs=Costs(
            wall_seconds={"distill": 99.0},
            peak_memory_bytes=None,
            trainable_parameters=7,
            total_parameters=70,
        ),
        curves=(
            {"step": 1, "total": 0.9, "step_seconds": 7.0},
            {"step": 2, "total": 0.8, "tokens_per_second": 3},
        ),
        finished_at="2026-01-01T00:00:00+00:00",
    )
    assert slow != record()
    assert comparable(slow) == comparable(record())
    kept = comparable(record())
    assert kept["config"]["max_seconds"] == 5
    assert kept["costs"] == {"trainable_parameters": 7, "total_parameters": 70}
    assert kept["curves"] == [{"step": 1, "total": 0.9}, {"step": 2, "total": 0.8}]
    assert comparable(record(seed=1)) != kept


def test_numbers_that_are_not_finite_become_null() -> None:
    assert json.loads(canonical_json({"a": [math.nan, math.inf, -math.inf, 1.5]})) == {"a": [None, None, None, 1.5]}


def test_canonical_json() -> None:
    assert canonical_json({"b": (1,), "a": {2: True, "é": None}}) == (
        '{\n "a": {\n  "2": true,\n  "é": null\n },\n "b": [\n  1\n ]\n}\n'
    )
    canonical_json({"a": "\ud800"}).encode()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, {"b": Path("x")}]}, r"value\.a\[1\]\.b: \w*PosixPath is not a JSON type"),
        ({"a": {1, 2}}, r"value\.a: set is not"),
        ({"a": {None: 1}}, r"value\.a: the key None"),
    ],
)
def test_what_is_not_json_is_named(value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=message):
        write_json_atomic(tmp_path / "x.json", value)
    assert os.listdir(tmp_path) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_json_atomic(path, {"old": 1})

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*No space left"):
        write_json_atomic(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["x.json"]


def test_what_a_killed_writer_left_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / ".x.json.tmp").write_text("{half")
    write_json_atomic(tmp_path / "x.json", {"a": 1})
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*No such file"):
        write_json_atomic(tmp_path / "no" / "x.json", {})


def damaged(**changes: Any) -> str:
    row = record().to_json()
    for key, value in changes.items():
        if value is ...:
            del row[key]
        else:
            row[key] = value
    return json.dumps(row)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is damaged"),
        ("{", "is damaged"),
        ("[]", "is not a record but a JSON list"),
        ('{"a": NaN}', "NaN is not JSON"),
        ("[" * 100_000, "is damaged"),
        ("\udcff", "is damaged"),
        (canonical_json(record().to_json())[:-100], "is damaged"),
        (damaged(schema_version=1), "schema_version: is unknown"),
        (damaged(seed=...), "seed: is missing"),
        (damaged(seed="0"), "seed: input should be a valid integer, not '0'"),
        (damaged(seed=True), "seed: input should be a valid integer, not True"),
        (damaged(costs={"wall_seconds": {}}), r"costs.peak_memory_bytes: is missing \(2 more\)"),
        (damaged(metrics=[]), r"metrics: input should be an object, not \[\]"),
    ],
    ids=range(13),
)
def test_a_damaged_record_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=message) as caught:
        read_record(path)
    assert "record.json" in str(caught.value)


def test_no_record_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no record"):
        read_record(tmp_path / "record.json")
    with pytest.raises(UserError, match=r"there is no record .*record\.json; if the run is not finished, the same"):
        read_record(tmp_path)  # a run folder
    (tmp_path / "record.json").mkdir()
    with pytest.raises(UserError, match=r"cannot read .*: Is a directory"):
        read_record(tmp_path)


def test_outcomes_are_small() -> None:
    outcomes = {f"gsm-mini/test/0/{k}": k % 3 == 0 for k in range(300)}
    packed = pack_outcomes(outcomes)
    assert packed["ids"] == [["gsm-mini/test/0/", 0, 300]]
    assert packed["right"].startswith("924") and len(packed["right"]) == 75
    assert unpack_outcomes(packed) == outcomes
    assert list(unpack_outcomes(packed)) == list(outcomes)


def test_outcomes_of_five_problems_by_hand() -> None:
    packed = pack_outcomes({"a/8": True, "a/9": False, "b": False, "a/10": True, "a/011": True})
    assert packed == {"n": 5, "ids": [["a/", 8, 2], "b", ["a/", 10, 1], "a/011"], "right": "98"}


@given(st.dictionaries(st.text(st.sampled_from("a/019\u0661"), max_size=6), st.booleans(), max_size=20))
def test_outcomes_survive_json(outcomes: dict[str, bool]) -> None:
    back = unpack_outcomes(json.loads(canonical_json(pack_outcomes(outcomes))))
    assert list(back.items()) == list(outcomes.items())


@pytest.mark.parametrize(
    "packed",
    [
        {"n": 3, "ids": [["a/", 0, 2]], "right": "8"},
        {"n": 2, "ids": [["a/", 0, 2]], "right": "80"},
        {"n": 5, "ids": [["a/", 0, 5]], "right": "8"},
        {"n": 2, "ids": ["a", "a"], "right": "8"},
    ],
)
def test_outcomes_that_do_not_fit_together_are_an_error(packed: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="damaged outcomes"):
        unpack_outcomes(packed)


def test_no_folder_of_this_machine_is_recorded() -> None:
    config = {
        "output_dir": "/home/ann/runs/first",
        "data_dir": Path("/data/gsm8k"),
        "cache": "~/cache",
        "drive": "C:\\Users\\ann\\runs",
        "teacher": "org/model",
        "nested": [{"path": "/x/y"}, 3],
        "relative": "../shared/data",
    }
    assert portable(config) == {
        "output_dir": "first",
        "data_dir": "gsm8k",
        "cache": "cache",
        "drive": "runs",
        "teacher": "org/model",
        "nested": [{"path": "y"}, 3],
        "relative": "../shared/data",
    }
    assert record(config=config).to_json()["config"]["output_dir"] == "first"


def test_the_environment_names_versions_and_no_person() -> None:
    found = environment()
    canonical_json(found)
    assert found["python"].startswith("3.")
    assert found["packages"]["torch"] and "lrd-peft" in found["packages"]
    assert found["num_cores"] >= 1
    text = json.dumps(found)
    assert str(Path.home()) not in text and str(Path.cwd()) not in text
    assert os.uname().nodename not in text.split('"')


def test_the_commit_is_that_of_this_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main")
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    # Git's own variables (set in a hook, say) would name another repository.
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    source = tmp_path / "records.py"
    source.write_text("first")
    monkeypatch.setattr(environment_module, "__file__", str(source))
    assert environment()["commit"] is None
    git("init")
    assert environment()["commit"] is None  # not a file of that repository
    git("add", "records.py")
    git("commit", "-m", "first")
    found = environment()
    assert (found["commit"], found["modified"]) == (git("rev-parse", "HEAD"), False)
    source.write_text("second")
    assert environment()["modified"] is True


def test_peak_memory_is_this_process_only() -> None:
    peak = peak_memory_bytes()
    assert peak is not None and 10 * 2**20 < peak < 2**40
    grown = bytearray(peak + 50 * 2**20)
    grown[::4096] = b"x" * len(grown[::4096])
    after = peak_memory_bytes()
    assert after is not None and after > peak + 40 * 2**20
    # The small child of a large parent is small.
    code = "from lrd_peft.runtime.environment import peak_memory_bytes; print(peak_memory_bytes())"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200 * 2**20 if sys.platform == "linux" else True
    del grown


def test_a_record_says_by_which_rules_it_was_graded(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_record(path, record(answers_version=2))
    assert read_record(path).answers_version == 2
    row = json.loads(path.read_text())
    del row["answers_version"]
    path.write_text(json.dumps(row))
    assert read_record(path).answers_version == 1  # from before the field
