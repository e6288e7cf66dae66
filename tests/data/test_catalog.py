"""Named data sets: found in local folders in the forms that are in use, with the kinds of their answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lrd_peft.data import load_problems
from lrd_peft.data.catalog import CATALOG, NAMES
from lrd_peft.data.file_formats import read_file
from lrd_peft.data.folder_search import find_splits
from lrd_peft.evaluation.answers import kind_of
from lrd_peft.runtime.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
ROW = {"question": "1 + 1?", "steps": ["1 + 1 = 2"], "answer": "2"}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) for row in rows]
    path.write_text("[" + ",".join(lines) + "]" if path.suffix == ".json" else "".join(f"{line}\n" for line in lines))
    return path


# Our own rows in the form of each data set's own files: file under data_dir, row, steps, answer, kind of the answer.
FILES: dict[str, tuple[str, dict[str, Any], int, str, str]] = {
    "gsm8k": ("gsm8k/test.jsonl", {"question": "Q?", "answer": "1+1 = <<1+1=2>>2\n#### 2"}, 1, "2", "numeric"),
    "gsm8k-aug": ("gsm8k_aug/test.jsonl", {"question": "Q?", "cot": "<<1+1=2>>", "answer": "2"}, 1, "2", "numeric"),
    "gsm8k-aug-nl": ("GSM8k-Aug-NL/test.json", {"question": "Q?", "cot": "It is 2.", "answer": "2"}, 1, "2", "numeric"),
    "gsm-hard": ("gsmhardv2.jsonl", {"input": "Q?", "code": "def f(): 2", "target": 2.5}, 0, "2.5", "numeric"),
    "svamp": (
        "SVAMP/test.json",
        {"Body": "Al has 2.", "Question": "And?", "Equation": "( 2.0 )", "Answer": 2.0, "ID": "a", "Type": "b"},
        1,
        "2",
        "numeric",
    ),
    "multiarith": ("MultiArith/test.json", {"question": "Q?", "final_ans": "2"}, 0, "2", "numeric"),
    "asdiv": (
        "asdiv/validation.jsonl",
        {"body": "Al has 2.", "question": "And?", "formula": "2=2", "answer": "2 (figs)"},
        1,
        "2",
        "numeric",
    ),
    "mawps": (
        "mawps/test.jsonl",
        {"question": "Q?", "equation": "x=2", "result": "2", "chain": "<x/>"},
        1,
        "2",
        "numeric",
    ),
    "math": ("MATH/test/algebra/1.json", {"problem": "Q?", "solution": "So $\\boxed{2}$."}, 1, "2", "math"),
    "math-500": ("math500.jsonl", {"problem": "Q?", "solution": "So $\\boxed{x}$.", "answer": "x"}, 1, "x", "math"),
    "aqua": (
        "AQuA/test.jsonl",
        {"question": "Q?", "options": ["A)1", "B)2"], "rationale": "So.", "correct": "B"},
        1,
        "B",
        "option",
    ),
    "prosqa": (
        "data/prosqa_test.json",
        {"question": "Is Tom a lempus or a rompus?", "answer": "Tom is a lempus.", "steps": ["So."], "root": 1},
        1,
        "Tom is a lempus.",
        "text",
    ),
    "prontoqa": (
        "data/prontoqa_test.json",
        {"question": "Q?", "answer": "True", "steps": ["So."]},
        1,
        "True",
        "boolean",
    ),
    "strategyqa": (
        "strategyqa/test.jsonl",
        {"qid": "1", "question": "Q?", "answer": True, "facts": ["One.", "Two."]},
        2,
        "yes",
        "boolean",
    ),
    "commonsenseqa": (
        "commonsense_qa/validation.jsonl",
        {"question": "Q?", "choices": {"label": ["A", "B"], "text": ["x", "y"]}, "answerKey": "B"},
        0,
        "B",
        "option",
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_named_set_is_found_in_its_own_form(name: str, tmp_path: Path) -> None:
    place, row, num_steps, answer, kind = FILES[name]
    path = write(tmp_path / place, row)
    if name == "math":
        path.write_text(json.dumps(row))
    folder = path.parent if place.startswith("data/") else tmp_path
    [problem] = load_problems(name, split="test", data_dir=folder)
    assert (len(problem.steps), problem.answer, kind_of(problem)) == (num_steps, answer, kind)
    assert problem.id == f"{name}/test/0"
    assert kind == CATALOG[name].answers


def test_each_set_has_splits_a_license_and_one_entry_of_its_hub_id() -> None:
    assert len(NAMES) == len(set(NAMES)) == 15
    for name in NAMES:
        entry = CATALOG[name]
        assert "test" in entry.splits
        assert entry.license
        assert not entry.hub_id or CATALOG[entry.hub_id] is entry
    assert CATALOG["zen-E/GSM8k-Aug"] is CATALOG["gsm8k-aug"]


def test_the_documentation_lists_every_set_as_the_catalog_has_it() -> None:
    text = (ROOT / "docs" / "how-to" / "own-data.md").read_text("utf-8")
    for name in NAMES:
        entry = CATALOG[name]
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1] == (f"`{entry.hub_id}`" if entry.hub_id else "not on the hub")
        assert cells[2] == ", ".join(entry.splits)
        assert (cells[3], cells[4], cells[5]) == (entry.answers, entry.license, entry.note)


def test_a_set_that_is_not_on_the_hub_says_where_its_files_are() -> None:
    with pytest.raises(
        UserError, match=r"prosqa is not on the hub, but from .*coconut on GitHub; .*prosqa_train\.json"
    ):
        load_problems("prosqa", split="test")


def test_a_hub_id_that_cannot_be_reached_is_one_line_with_the_local_alternative(tmp_path: Path) -> None:
    code = (
        "from lrd_peft.data import load_problems\n"
        "from lrd_peft.runtime.errors import UserError\n"
        "for name in ('svamp', 'zen-E/GSM8k-Aug', 'nobody/nothing', 'nobody/nothing/part'):\n"
        "    try: load_problems(name)\n"
        "    except UserError as error: print(error)\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    svamp, copy, unknown, part = done.stdout.splitlines()
    assert 'cannot load "ChilleD/SVAMP" (test)' in svamp
    assert "give data_dir, a folder with svamp/train.jsonl and test.jsonl" in svamp
    assert 'cannot load "zen-E/GSM8k-Aug"' in copy
    assert 'cannot load "nobody/nothing" from the hub' in unknown
    assert "There is no file or folder of this name" in unknown
    assert 'cannot load "nobody/nothing/part"' in part


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train.jsonl", "train.csv"], r'several files for the split "train": train\.csv, train\.jsonl'),
        (["a_train.json", "b_test.json"], r"several data sets: a_train\.json, b_test\.json; name a file"),
        (["main/train.jsonl", "other/train.jsonl"], "several data sets, in main, other"),
        (["train/a.json", "Train/b.json"], 'several folders for the split "train"'),
        (["notes.md"], "contains no file of a split"),
    ],
)
def test_a_folder_that_may_mean_two_things_is_refused(files: list[str], message: str, tmp_path: Path) -> None:
    for name in files:
        write(tmp_path / name, ROW)
    with pytest.raises(UserError, match=message):
        load_problems(tmp_path)


def test_a_file_beside_the_splits_is_named(tmp_path: Path) -> None:
    for name in ("train.jsonl", "train_part.jsonl", "extra.csv", "README.md", "dataset_info.json"):
        write(tmp_path / name, ROW)
    problems = load_problems(tmp_path)
    assert problems.report().endswith("; files not read: extra.csv, train_part.jsonl")


def test_configurations_of_a_hub_folder_take_turns(tmp_path: Path) -> None:
    subjects = [subset for subset in CATALOG["math"].subsets if subset is not None]
    for subject in subjects:
        rows = [{"problem": f"{subject} {n}?", "solution": "$\\boxed{2}$", "type": subject} for n in range(2)]
        write(tmp_path / "hendrycks_math" / subject / "test-00000-of-00001.jsonl", *rows)
    problems = load_problems("math", split="test", data_dir=tmp_path)
    assert [p.subject for p in problems] == subjects * 2
    assert len({p.id for p in problems}) == 14


def test_files_of_two_sets_in_one_folder_are_told_apart_by_name(tmp_path: Path) -> None:
    write(tmp_path / "prosqa_test.json", {**ROW, "answer": "Tom is a lempus."})
    write(tmp_path / "prontoqa_test.json", {**ROW, "answer": "False"})
    write(tmp_path / "gsm_test.json", ROW)
    assert load_problems("prosqa", split="test", data_dir=tmp_path)[0].answer == "Tom is a lempus."
    assert load_problems("prontoqa", split="test", data_dir=tmp_path)[0].answer == "False"
    with pytest.raises(UserError, match="no file of svamp"):
        load_problems("svamp", split="test", data_dir=tmp_path)


def test_a_single_file_of_a_set_that_only_tests_is_its_test_split(tmp_path: Path) -> None:
    write(tmp_path / "gsm-hard.jsonl", *({"input": f"{n}?", "target": n} for n in range(20)))
    assert len(load_problems("gsm-hard", split="test", data_dir=tmp_path)) == 20
    with pytest.raises(UserError, match='gsm-hard has no split "train"; its files contain test'):
        load_problems("gsm-hard", data_dir=tmp_path)


def test_shards_are_read_in_order(tmp_path: Path) -> None:
    for shard in (1, 0):
        write(tmp_path / f"train-{shard:05d}-of-00002.jsonl", {**ROW, "question": f"{shard}?"})
    [group] = find_splits(tmp_path).groups["train"]
    assert [row.fields["question"] for path in group for row in read_file(path)] == ["0?", "1?"]
