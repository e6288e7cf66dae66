"""The columns of published data sets, in rows of our own: every part of a problem is read, or named as not read."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from lrd_peft.data import Problem, load_problems
from lrd_peft.data.problem_sets import ProblemSet
from lrd_peft.data.rows import as_problems
from lrd_peft.evaluation.answers import kind_of
from lrd_peft.runtime.errors import UserError


def load(tmp_path: Path, *rows: dict[str, Any], **options: Any) -> ProblemSet:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_problems(path, split="all", **options)


SVAMP = {"ID": "c-1", "Body": "Al has 9 figs. ", "Question": "He eats 2. How many?", "Equation": "( 9.0 - 2.0 )"}
CASES: dict[str, tuple[dict[str, Any], tuple[str, tuple[str, ...], str, tuple[str, ...]]]] = {
    "gsm8k-aug": (
        {"question": "Q?", "cot": "<<3*4=12>> <<12+1=13>>", "answer": "13"},
        ("Q?", ("3*4=12", "12+1=13"), "13", ()),
    ),
    "gsm8k-aug-list": (
        {"question": "Q?", "steps": ["<<3*4=12>>", "<<12+1=13>>"], "answer": "13"},
        ("Q?", ("3*4=12", "12+1=13"), "13", ()),
    ),
    "gsm8k-aug-nl": (
        {"question": "Q?", "cot": "He has 3*4 = 12. With one more he has 13.", "answer": "13"},
        ("Q?", ("He has 3*4 = 12.", "With one more he has 13."), "13", ()),
    ),
    "annotated steps": (
        {"question": "Q?", "steps": ["He has 3*4 = <<3*4=12>>12 figs."], "answer": "12"},
        ("Q?", ("He has 3*4 = 12 figs.",), "12", ()),
    ),
    "svamp": (
        {**SVAMP, "Answer": 7.0, "Type": "Subtraction"},
        ("Al has 9 figs. He eats 2. How many?", ("( 9.0 - 2.0 )",), "7", ()),
    ),
    "asdiv": (
        {
            "body": "Al has 9 figs.",
            "question": "How many?",
            "formula": "9=9",
            "answer": "9 (figs)",
            "solution_type": "x",
        },
        ("Al has 9 figs. How many?", ("9=9",), "9", ()),
    ),
    "gsm-hard": ({"input": "Q?", "target": 2345678.0}, ("Q?", (), "2345678", ())),
    "multiarith": ({"question": " Q? ", "final_ans": "14"}, ("Q?", (), "14", ())),
    "mawps": ({"sQuestion": "Q?", "lEquations": ["X=2+3"], "lSolutions": [5.0]}, ("Q?", ("X=2+3",), "5", ())),
    "calc-mawps": ({"question": "Q?", "equation": "x=2+3", "result": "5"}, ("Q?", ("x=2+3",), "5", ())),
    "metamath": (
        {"query": "Q?", "response": "2+3 = 5.\nThen 5*2 = 10.\n#### 10\nThe answer is: 10"},
        ("Q?", ("2+3 = 5.", "Then 5*2 = 10."), "10", ()),
    ),
    "metamath of MATH": (
        {"query": "Q?", "response": "Half of it is\n$\\boxed{\\frac12}$.\nThe answer is: \\frac12"},
        ("Q?", ("Half of it is", "$\\boxed{\\frac12}$."), "\\frac12", ()),
    ),
    "boxed": (
        {"question": "Q?", "answer": "We add. It is $\\boxed{\\frac12}$."},
        ("Q?", ("We add.", "It is $\\boxed{\\frac12}$."), "\\frac12", ()),
    ),
    "strategyqa": (
        {"qid": "1", "question": "Can a fig swim?", "answer": False, "facts": "Figs grow on trees. Trees stand still."},
        ("Can a fig swim?", ("Figs grow on trees.", "Trees stand still."), "no", ()),
    ),
    "commonsenseqa": (
        {"question": "Q?", "choices": {"label": ["A", "B", "C"], "text": ["sea", "sky", "tree"]}, "answerKey": "C"},
        ("Q?", (), "C", ("sea", "sky", "tree")),
    ),
    "choices by index": (
        {"question": "Q?", "choices": ["sea", "sky"], "answer": 1},
        ("Q?", (), "B", ("sea", "sky")),
    ),
    "options are numbers": (
        {"question": "Q?", "options": [1, 2.5], "steps": ["s"], "answer": "B"},
        ("Q?", ("s",), "B", ("1", "2.5")),
    ),
    "options in a text": (
        {"question": "Q?", "options": "a ) sea , b ) sky", "rationale": "Look up.", "answer": "b"},
        ("Q?", ("Look up.",), "B", ("sea", "sky")),
    ),
    "option by its text": (
        {"question": "Q?", "steps": [], "options": ["sea", "sky"], "answer": "Sky"},
        ("Q?", (), "B", ("sea", "sky")),
    ),
    "prontoqa": (
        {"context": "Each fig is green.", "question": "Is it?", "options": ["A) True", "B) False"], "answer": "A"},
        ("Each fig is green. Is it?", (), "A", ("True", "False")),
    ),
    "steps are null": (
        {"question": "Q?", "steps": None, "answer": "3*6 = 18\n#### $18."},
        ("Q?", ("3*6 = 18",), "18", ()),
    ),
    "steps and a solution": (
        {"question": "Q?", "steps": ["3*6 = 18"], "answer": "some text #### 18"},
        ("Q?", ("3*6 = 18",), "18", ()),
    ),
    "solution beside an answer": (
        {"problem": "Q?", "solution": "Two. So $\\boxed\\frac12$.", "answer": "1/2", "level": 3},
        ("Q?", ("Two.", "So $\\boxed\\frac12$."), "\\frac12", ()),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_row_keeps_all_its_parts(name: str, tmp_path: Path) -> None:
    fields, (question, steps, answer, options) = CASES[name]
    problems = load(tmp_path, fields)
    [problem] = problems
    assert (problem.question, problem.steps, problem.answer, problem.options) == (question, steps, answer, options)
    assert (problems.unused_columns, problems.dropped) == ({}, {})
    [same] = as_problems([fields])
    assert (same.question, same.steps, same.answer, same.options) == (question, steps, answer, options)


@pytest.mark.parametrize("style", ["A){}", "A ) {}", "(A) {}", "A. {}", "A: {}", "A.{}", "[A] {}", "a) {}", "A)A){}"])
def test_letters_of_options_are_no_part_of_them(style: str, tmp_path: Path) -> None:
    options = [
        style.replace("A", letter).replace("a", letter.lower()).format(5 + n) for n, letter in enumerate("ABCDE")
    ]
    for row in (
        {"question": "Q?", "options": options, "rationale": "So.", "correct": "B"},
        {"question": "Q?", "options": options, "steps": ["So."], "answer": "B"},
    ):
        [problem] = load(tmp_path, row)
        assert (problem.options, problem.answer) == (("5", "6", "7", "8", "9"), "B")


@pytest.mark.parametrize(
    ("options", "answer", "reason"),
    [
        (["B) 1", "A) 2"], "A", "options not lettered in order"),
        (["1"], "A", "fewer than 2 or more than 5 options"),
        (["1", ""], "A", "empty option"),
        (["sea", "sky"], "tree", "answer is not the letter of an option"),
        (["sea", "sky"], 2, "answer is not the letter of an option"),
        (["0", "3", "1"], 1, "answer is the number of one option and the text of another"),
        (["sea", "sea"], "sea", "answer is not the letter of an option"),
    ],
)
def test_an_answer_that_is_no_option_is_counted(options: list[str], answer: Any, reason: str, tmp_path: Path) -> None:
    good = {"question": "Good?", "options": ["x", "y"], "answer": "A"}
    problems = load(tmp_path, good, {"question": "Q?", "options": options, "answer": answer})
    assert (len(problems), problems.dropped) == (1, {reason: 1})


def test_two_options_of_the_same_text_are_noted(tmp_path: Path) -> None:
    problems = load(tmp_path, {"question": "Q?", "options": ["5", "5", "7"], "answer": "C"})
    assert problems.report().endswith("; 1 with two options of the same text")


def test_rows_without_their_marker_are_counted_also_the_first(tmp_path: Path) -> None:
    rows = [{"question": f"{n}?", "answer": "A long story\nwithout an end."} for n in range(2)]
    marked = {"question": "Q?", "answer": "3*6 = 18\n#### 18"}
    problems = load(tmp_path, *rows, marked)
    assert [problem.answer for problem in problems] == ["18"]
    assert problems.dropped == {'no "####" before the answer': 2}
    with pytest.raises(UserError, match=r"2 dropped \(2 answer of several lines, without a marker"):
        load(tmp_path, *rows)


def test_an_answer_that_may_be_a_solution_is_noted(tmp_path: Path) -> None:
    problems = load(tmp_path, {"question": "Q?", "answer": "So " * 40}, {"question": "R?", "answer": "4"})
    assert problems.report().endswith("; 1 with an answer of more than 100 characters")


def test_text_behind_the_answer_is_noted(tmp_path: Path) -> None:
    problems = load(tmp_path, {"question": "Q?", "answer": "3*6 = 18\n#### 18\nAnd so on."})
    assert problems[0].answer == "18"
    assert problems.notes == {"with text behind the answer, which is not read": 1}


def test_a_column_that_is_not_read_is_named_in_the_report_and_once_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"question": f"{n}?", "steps": ["s"], "answer": "1", "hint": "Think.", "level": 2} for n in range(2)]
    with caplog.at_level(logging.WARNING):
        problems = load(tmp_path, *rows)
        load(tmp_path, *rows)
    assert problems.unused_columns == {"hint": 2}
    assert problems.report().endswith("; columns not used: hint")
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == ["rows: columns not used: hint"]


def test_columns_map_names_and_join_texts(tmp_path: Path) -> None:
    row = {"query": "How many?", "story": "Al has 2.", "work": "1+1=2", "response": 2, "question": "other"}
    columns = {"question": "story+query", "answer": "response", "steps": "work"}
    problems = load(tmp_path, row, columns=columns)
    [problem] = problems
    assert (problem.question, problem.steps, problem.answer) == ("Al has 2. How many?", ("1+1=2",), "2")
    assert problems.unused_columns == {"question": 1}
    assert as_problems([row], columns=columns)[0].question == problem.question


def test_columns_of_a_solution_are_divided(tmp_path: Path) -> None:
    row = {"query": "Q?", "response": "1+1 = 2\n#### 2", "type": "GSM_Rephrased"}
    [problem] = load(tmp_path, row, columns={"question": "query", "answer": "response"})
    assert (problem.steps, problem.answer) == (("1+1 = 2",), "2")


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        (None, {"question": "qeury"}, r'line 1: no column "qeury" for "question"; .*Did you mean "query"'),
        (None, {"questoin": "query"}, 'columns maps "questoin".*Did you mean "question"'),
        (None, {"question": "query", "answer": "query"}, 'columns names "query" for question and answer; keep one'),
        ("gsm-mini", {"question": "query"}, "columns are for files and hub ids"),
        ("svamp+gsm8k", {"question": "query"}, "columns are for files and hub ids"),
    ],
)
def test_wrong_columns_are_refused(name: str | None, columns: dict[str, str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"query": "Q?", "answer": "2"}\n')
    with pytest.raises(UserError, match=message):
        load_problems(name or path, columns=columns)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("Tom is a lempus.", "text"),
        ("rompus", "text"),
        ("no solution", "text"),
        (True, "boolean"),
        ("False", "boolean"),
        ("5", "numeric"),
        ("$18", "numeric"),
        ("x + y", "math"),
        ("ab", "math"),
        (r"\pi", "math"),
        ("sin x", "math"),
        ("3/4", "math"),
    ],
)
def test_the_answer_tells_its_kind(answer: Any, kind: str, tmp_path: Path) -> None:
    [problem] = load(tmp_path, {"question": "Q?", "steps": ["s"], "answer": answer})
    assert kind_of(problem) == kind
    assert Problem.from_row(json.loads(json.dumps(problem.to_row()))) == problem
