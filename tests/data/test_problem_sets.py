"""Problems by name: splits, drops and messages, on our own files and on the benchmarks' if present."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrd_peft.data.problem_sets import load_problems
from lrd_peft.data.row_parsing import comparable_question
from lrd_peft.runtime.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
BENCHMARK_DATA = Path(os.environ.get("LRD_BENCHMARK_DATA") or REPOSITORY.parent / "shared" / "data")
needs_benchmarks = pytest.mark.skipif(
    not BENCHMARK_DATA.is_dir(), reason="no benchmark files; LRD_BENCHMARK_DATA names their folder"
)


def gsm8k(number: int, *, answer: str | None = None) -> dict[str, Any]:
    total = number + 2
    steps = f"They make {number}+2 = <<{number}+2={total}>>{total}."
    question = f"Bo bakes {number} pies and Al bakes 2. How many pies?"
    return {"question": question, "answer": answer or f"{steps}\n#### {total}"}


def aqua(number: int, **changes: Any) -> dict[str, Any]:
    options = [f"{letter}){number + place}" for place, letter in enumerate("ABCDE")]
    row = {"question": f"What is {number} + 1?", "options": options, "rationale": "Count on.", "correct": "B"}
    return {**row, **changes}


def own(number: int, **changes: Any) -> dict[str, Any]:
    row = {"question": f"{number} + 1?", "steps": [f"{number} + 1 = {number + 1}"], "answer": str(number + 1)}
    return {**row, **changes}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    write(tmp_path / "gsm8k" / "train.jsonl", [gsm8k(number) for number in range(200)])
    write(tmp_path / "gsm8k" / "test.jsonl", [gsm8k(number) for number in range(200, 230)])
    return tmp_path


def test_validation_is_cut_from_train_by_content_and_nothing_is_lost(data_dir: Path) -> None:
    train = load_problems("gsm8k", split="train", data_dir=data_dir)
    validation = load_problems("gsm8k", split="validation", data_dir=data_dir)
    assert len(train) + len(validation) == 200
    assert 4 <= len(validation) <= 30
    assert not {p.question for p in train} & {p.question for p in validation}
    assert train.elsewhere == {"validation": len(validation)}
    assert validation.elsewhere == {"train": len(train)}
    # The cut depends on the question, not on its place in the file.
    write(data_dir / "gsm8k" / "train.jsonl", [gsm8k(number) for number in reversed(range(200))])
    again = load_problems("gsm8k", split="validation", data_dir=data_dir)
    assert {p.question for p in again} == {p.question for p in validation}


def test_the_folder_itself_and_the_hub_name_find_the_same_files(data_dir: Path) -> None:
    problems = load_problems("gsm8k", split="test", data_dir=data_dir).problems
    assert len(problems) == 30
    assert load_problems("gsm8k", split="test", data_dir=data_dir / "gsm8k").problems == problems
    assert load_problems("openai/gsm8k", split="test", data_dir=str(data_dir)).problems == problems


def test_a_limit_keeps_the_first_in_file_order(data_dir: Path) -> None:
    whole = load_problems("gsm8k", data_dir=data_dir)
    part = load_problems("gsm8k", data_dir=data_dir, limit=5)
    assert part.problems == whole[:5]
    assert part[0].id.startswith("gsm8k/train/")
    assert len({problem.id for problem in whole}) == len(whole)


def test_unusable_rows_are_counted_by_reason(tmp_path: Path) -> None:
    held_out = gsm8k(100)
    rows = [gsm8k(1), gsm8k(1), gsm8k(2, answer="So.\n####"), gsm8k(3, answer="Lost"), held_out]
    rows += [gsm8k(4, answer="#### 6"), {**gsm8k(1), "question": gsm8k(1)["question"].upper()}]
    write(tmp_path / "train.jsonl", rows)
    write(tmp_path / "validation.jsonl", [held_out])
    problems = load_problems("gsm8k", data_dir=tmp_path)
    assert [problem.answer for problem in problems] == ["3"]
    assert problems.dropped == {
        "duplicate question": 2,
        "empty answer": 1,
        'no "####" before the answer': 1,
        "question also in another split": 1,
        "no steps": 1,
    }
    assert problems.report() == (
        "gsm8k train: 1 problems from 7 rows read; 6 dropped (2 duplicate question, 1 empty answer, "
        '1 no "####" before the answer, 1 question also in another split, 1 no steps)'
    )


def test_a_held_out_problem_needs_no_steps(tmp_path: Path) -> None:
    write(tmp_path / "test.jsonl", [gsm8k(4, answer="#### 6")])
    problem = load_problems("gsm8k", split="test", data_dir=tmp_path)[0]
    assert (problem.steps, problem.num_steps, problem.answer) == ((), 0, "6")


def test_steps_kept_as_text_are_noted(tmp_path: Path) -> None:
    write(tmp_path / "test.jsonl", [gsm8k(1), gsm8k(2, answer="Two and two.\n#### 4")])
    problems = load_problems("gsm8k", split="test", data_dir=tmp_path, steps_style="equations")
    assert [problem.steps for problem in problems] == [("1+2=3",), ("Two and two.",)]
    assert problems.report().endswith("0 dropped; 1 without equations, steps kept as text")


def test_aqua_train_rows_that_are_in_dev_or_test_are_dropped(tmp_path: Path) -> None:
    lines = []
    for row in (aqua(1), aqua(2), aqua(3)):
        listed = "\\n".join(f"({option[0]}) {option[2:]}" for option in row["options"])
        lines.append(f"{row['question']}\\nOptions:\\n{listed}\t(B)\tCount on.\n")
    (tmp_path / "aqua").mkdir()
    (tmp_path / "aqua" / "train_part.tsv").write_text("".join(lines), encoding="utf-8")
    write(tmp_path / "aqua" / "dev.jsonl", [aqua(2), aqua(9)])
    write(tmp_path / "aqua" / "test.jsonl", [aqua(3)])
    train = load_problems("aqua", data_dir=tmp_path)
    assert [problem.question for problem in train] == ["What is 1 + 1?"]
    assert train[0].options == ("1", "2", "3", "4", "5")
    assert train.dropped == {"question also in another split": 2}
    assert len(load_problems("aqua", split="validation", data_dir=tmp_path)) == 2


def test_a_single_file_is_cut_into_three_that_make_up_the_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "sums.jsonl", [own(number) for number in range(30)])
    parts = {split: load_problems(path, split=split) for split in ("train", "validation", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 24, "validation": 3, "test": 3}
    assert len({problem.question for part in parts.values() for problem in part}) == 30
    assert len(load_problems(str(path), split="all")) == 30


def test_a_single_file_of_three_problems_has_one_for_each_split(tmp_path: Path) -> None:
    path = write(tmp_path / "sums.jsonl", [own(number) for number in range(3)])
    assert [len(load_problems(path, split=split)) for split in ("train", "validation", "test")] == [1, 1, 1]


def test_a_file_named_test_is_the_test_split(tmp_path: Path) -> None:
    path = write(tmp_path / "test.jsonl", [own(number) for number in range(30)])
    assert len(load_problems(path, split="test")) == 30
    with pytest.raises(UserError, match='no split "train"; its files contain test'):
        load_problems(path, split="train")


def test_a_folder_of_split_files_and_a_name_inside_data_dir(tmp_path: Path) -> None:
    for split, number in (("train", 0), ("validation", 10), ("test", 20)):
        write(tmp_path / "sums" / f"{split}.jsonl", [own(number), own(number + 1)])
    assert load_problems("sums", data_dir=tmp_path, split="test")[0].question == "20 + 1?"
    assert load_problems(tmp_path / "sums").report() == "sums train: 2 problems from 2 rows read; 0 dropped"


def test_own_rows_may_solve_one_question_twice_but_not_repeat_a_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [own(1), own(1, steps=["count on: 2"]), own(1)])
    problems = load_problems(path, split="all")
    assert (len(problems), problems.dropped) == (2, {"duplicate row": 1})


def test_benchmark_schemas_are_recognised_in_any_file(tmp_path: Path) -> None:
    assert load_problems(write(tmp_path / "a.jsonl", [gsm8k(1)]), split="all")[0].answer == "3"
    assert load_problems(write(tmp_path / "b.jsonl", [aqua(1)]), split="all")[0].answer == "B"


def test_a_union_follows_its_order_with_a_limit_for_each_part(data_dir: Path) -> None:
    problems = load_problems("gsm8k+gsm-mini", data_dir=data_dir, limit=3)
    assert [problem.id.split("/")[0] for problem in problems] == ["gsm8k"] * 3 + ["gsm-mini"] * 3
    assert problems.name == "gsm8k+gsm-mini"
    assert list(problems.elsewhere) in ([], ["gsm8k: validation"])


def test_a_union_of_two_files_of_one_name_is_refused(tmp_path: Path) -> None:
    paths = [write(tmp_path / folder / "sums.jsonl", [own(number) for number in range(9)]) for folder in "ab"]
    with pytest.raises(UserError, match='are called "sums"; drop one or rename'):
        load_problems(f"{paths[0]}+{paths[1]}")


def test_generated_sets_follow_their_seed() -> None:
    first = load_problems("gsm-mini", split="test", limit=8, seed=1)
    assert first == load_problems("gsm-mini", split="test", limit=8, seed=1)
    assert first != load_problems("gsm-mini", split="test", limit=8, seed=2)
    assert first.report() == "gsm-mini test: 8 problems, generated"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "gsm-min"}, 'unknown data set "gsm-min"; .* Did you mean "gsm-mini"?'),
        ({"name": "MATH"}, 'Did you mean "math"?'),
        ({"name": "gsm-mini", "split": "tset"}, 'unknown split "tset"; .* Did you mean "test"?'),
        ({"name": "gsm-mini", "split": "all"}, "is generated and has no split"),
        ({"name": "gsm-mini", "limit": 0}, "limit is 0; it must be at least 1"),
        ({"name": "gsm-mini", "steps_style": "equation"}, 'Did you mean "equations"?'),
        ({"name": "gsm-mini+"}, "empty part"),
        ({"name": "gsm-mini+gsm-mini"}, "twice"),
        ({"name": "x" * 5000}, "unknown data set"),
        ({"name": "missing.jsonl"}, 'no file "missing.jsonl"'),
    ],
)
def test_impossible_requests_say_what_to_do(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_problems(**arguments)


def test_missing_files_list_what_was_searched(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file of math in .*train\{.jsonl,.*valid.*math500"):
        load_problems("math", data_dir=tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        load_problems("math", data_dir=tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"contains no file of a split: train\{.jsonl"):
        load_problems(tmp_path)


def test_a_benchmark_folder_of_another_set_is_refused(data_dir: Path) -> None:
    with pytest.raises(UserError, match=r'train\.jsonl, line 1: no "problem"; the columns are'):
        load_problems("math", data_dir=data_dir / "gsm8k")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{not json}", "not JSON: .* \\(column 2\\)"),
        (b"[1, 2]", "a row must be a JSON object, not a list"),
        (b"\xff\xfe", "not UTF-8 \\(byte 1 of the line\\)"),
        (b'{"question": "Q?", "steps": [1], "answer": "2"}', '"steps" must be a list of texts'),
        (b'{"question": "Q?", "steps": ["s"], "answer": ' + b"9" * 5000 + b"}", "not usable JSON"),
        (b'{"question": ' + b"[" * 100_000 + b"}", "not usable JSON"),
    ],
)
def test_a_malformed_line_is_named_with_its_file(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(own(1)).encode() + b"\n\n" + line + b"\n")
    for split in ("all", "train", "validation", "test"):
        with pytest.raises(UserError, match=rf"rows\.jsonl, line 3: {message}"):
            load_problems(path, split=split)


def test_an_id_given_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [own(1, id="x"), own(2, id="x")])
    with pytest.raises(UserError, match=r'line 2: id "x" is also the id of .*line 1'):
        load_problems(path, split="all")


def test_an_empty_result_says_why(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [own(1, answer=""), own(2, steps=[" "])])
    with pytest.raises(UserError, match=r"no usable problem among 2 rows: 2 dropped \(1 empty answer, 1 blank"):
        load_problems(path, split="all")
    path.write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="the source is empty"):
        load_problems(path, split="all")


def test_one_problem_cannot_fill_three_splits(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [own(1)])
    refused = []
    for split in ("train", "validation", "test"):
        try:
            assert len(load_problems(path, split=split)) == 1
        except UserError as error:
            refused.append(str(error))
    assert len(refused) == 2
    for line in refused:
        assert "1 rows: 1 belong to " in line
        assert line.endswith("add problems, or use a folder with a file for each split")


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.binary(max_size=30) | st.from_regex(rb'\{"question": "[ab]", "[a-z]{5}": \[?"."', fullmatch=True)))
def test_no_file_raises_anything_but_a_user_error(tmp_path: Path, lines: list[bytes]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    for split in ("all", "train"):
        try:
            load_problems(path, split=split)
        except UserError as error:
            assert "\n" not in str(error)


def test_the_hub_is_read_by_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[tuple[object, ...]] = []

    def fake(name: str, subset: str | None, *, split: str, revision: str | None) -> list[dict[str, Any]]:
        asked.append((name, subset, split, revision))
        solution = f"Look closely. It is $\\boxed{{{len(asked)}}}$."
        return [{"problem": f"{subset} {split} {row}?", "type": subset, "solution": solution} for row in "ab"]

    monkeypatch.setattr(datasets, "load_dataset", fake)
    problems = load_problems("math", split="test", revision="abc", limit=9)
    assert len(asked) == 7
    assert asked[0] == ("EleutherAI/hendrycks_math", "algebra", "test", "abc")
    # The subjects take turns, so that a limit meets them all.
    assert len({problem.subject for problem in problems[:7]}) == 7
    assert problems[7].question == "algebra test b?"


def test_without_a_network_the_hub_fails_at_once_and_names_data_dir(tmp_path: Path) -> None:
    code = (
        "from lrd_peft.data.problem_sets import load_problems\n"
        "from lrd_peft.runtime.errors import UserError\n"
        "try: load_problems('deepmind/aqua_rat')\n"
        "except UserError as error: print(error)\n"
    )
    online = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    online |= {"HF_HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY / "src")}
    # Offline by request, and online with nobody listening.
    for settings_ in ({"HF_HUB_OFFLINE": "1"}, {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}):
        start = time.monotonic()
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=online | settings_, capture_output=True, text=True, timeout=120)
        assert 'cannot load "deepmind/aqua_rat"' in done.stdout, done.stderr
        assert "give data_dir, a folder with aqua/train.jsonl" in done.stdout
        assert time.monotonic() - start < 60


@needs_benchmarks
def test_gsm8k_is_complete_and_every_answer_is_a_number() -> None:
    splits = {
        split: load_problems("gsm8k", split=split, data_dir=BENCHMARK_DATA, steps_style="equations")
        for split in ("train", "validation", "test")
    }
    assert len(splits["train"]) + len(splits["validation"]) == 7473
    assert len(splits["test"]) == 1319
    assert not any(problems.dropped for problems in splits.values())
    # 95 train rows are without annotations.
    assert sum(sum(splits[split].notes.values()) for split in ("train", "validation")) == 95
    assert all(float(problem.answer) == float(problem.answer) for ps in splits.values() for problem in ps)
    assert any(problem.answer == "2125" for problem in splits["test"])


@needs_benchmarks
def test_math_answers_are_the_boxed_ones() -> None:
    splits = {s: load_problems("math", split=s, data_dir=BENCHMARK_DATA) for s in ("train", "validation", "test")}
    assert len(splits["test"]) == 500
    rows = len(splits["train"]) + len(splits["validation"])
    assert rows + sum(splits["train"].dropped.values()) + sum(splits["validation"].dropped.values()) == 1500
    assert len({problem.subject for problem in splits["train"]}) == 7
    # In the file's answer column the matrices have lost their row breaks.
    matrices = [p.answer for p in splits["train"] if "pmatrix" in p.answer]
    assert matrices and all(r"\\" in answer for answer in matrices)


@needs_benchmarks
def test_aqua_train_is_free_of_duplicates_and_of_held_out_questions() -> None:
    splits = {s: load_problems("aqua", split=s, data_dir=BENCHMARK_DATA) for s in ("train", "validation", "test")}
    assert len(splits["validation"]) == len(splits["test"]) == 254
    train = splits["train"]
    assert train.num_rows == 2728
    assert train.dropped["question also in another split"] == 2
    assert len(train) + sum(train.dropped.values()) == 2728
    questions = {split: {comparable_question(problem.question) for problem in ps} for split, ps in splits.items()}
    assert len(questions["train"]) == len(train)
    assert not questions["train"] & (questions["validation"] | questions["test"])
    assert all(len(problem.options) == 5 for ps in splits.values() for problem in ps)
