"""From one row to one problem, against problems worked out by hand. Our own rows, in the public schemas."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrd_peft.config.choices import StepsStyle
from lrd_peft.data.layouts import arrangement_of
from lrd_peft.data.problem import Problem
from lrd_peft.data.row_parsing import RowSchema, aqua_tsv_fields, problem_of, question_of
from lrd_peft.data.row_values import MalformedRow, UnusableRow

GSM8K = {
    "question": "Mia has 3 boxes of 12 pens and gives 6 away. How many pens are left?",
    "answer": "She has 3*12 = <<3*12=36>>36 pens.\nSo 36-6 = <<36-6=30>>30 are left.\n#### 30",
}
MATH = {
    "problem": "Solve $2x = 6$.",
    "level": "Level 1",
    "type": "Algebra",
    "solution": "Halve both sides. Then $x = \\boxed{3}$.",
}
AQUA = {
    "question": "A rope of 9 m is cut into 3 equal parts. How long is one?",
    "options": ["A)1 m", "B)2 m", "C)3 m", "D)6 m", "E)9 m"],
    "rationale": "One part is 9 / 3 m.\nThat is 3 m. No more.\nAnswer: C",
    "correct": "C",
}
OWN_COLUMNS: dict[str, RowSchema] = {"steps": "rows", "correct": "aqua", "problem": "math"}
ROW = {"question": "1 and 2?", "steps": ["1 + 2 = 3"], "answer": "3", "hidden_states": {"layer_8": [0.5]}}


def read(fields: dict[str, Any], steps_style: StepsStyle = "text") -> Problem:
    arrangement = arrangement_of([fields])
    return problem_of(arrangement.arrange(fields), schema=arrangement.schema, row_id="id", steps_style=steps_style)


def test_gsm8k_text_steps_have_no_annotations() -> None:
    problem = read(GSM8K)
    assert problem.steps == ("She has 3*12 = 36 pens.", "So 36-6 = 30 are left.")
    assert (problem.answer, problem.num_steps, problem.options) == ("30", 2, ())


def test_gsm8k_equation_steps_are_the_annotations() -> None:
    assert read(GSM8K, "equations").steps == ("3*12=36", "36-6=30")


def test_gsm8k_without_annotations_keeps_its_lines_as_steps() -> None:
    fields = {"question": "Q?", "answer": "Half of 4 is 2.\n\n#### 2"}
    assert read(fields, "equations").steps == ("Half of 4 is 2.",)


@pytest.mark.parametrize(("written", "answer"), [("2,125", "2125"), ("-1,000.5", "-1000.5"), (" 7 ", "7")])
def test_gsm8k_answers_lose_thousands_commas(written: str, answer: str) -> None:
    assert read({"question": "Q?", "answer": f"Step.\n#### {written}"}).answer == answer


def test_math_answer_is_the_last_box_and_steps_are_sentences() -> None:
    problem = read(MATH)
    assert problem == Problem(
        "id", "Solve $2x = 6$.", ("Halve both sides.", "Then $x = \\boxed{3}$."), "3", subject="Algebra"
    )


def test_math_box_wins_over_a_damaged_answer_column() -> None:
    matrix = r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"
    fields = {**MATH, "solution": rf"It is \boxed{{{matrix}}}.", "answer": r"\begin{pmatrix}1\2\end{pmatrix}"}
    assert read(fields).answer == matrix


def test_math_answer_column_serves_where_there_is_no_box() -> None:
    fields = {"problem": "P", "solution": "It is two.", "answer": "2", "subject": "Prealgebra", "level": 2}
    assert (read(fields).answer, read(fields).subject) == ("2", "Prealgebra")


def test_aqua_options_lose_letters_and_the_answer_line_is_no_step() -> None:
    problem = read(AQUA)
    assert problem.options == ("1 m", "2 m", "3 m", "6 m", "9 m")
    assert problem.steps == ("One part is 9 / 3 m.", "That is 3 m.", "No more.")
    assert problem.answer == "C"
    assert problem.question_text.endswith("\nOptions: (A) 1 m (B) 2 m (C) 3 m (D) 6 m (E) 9 m")


@pytest.mark.parametrize(
    "line", ["Answer: C", "ANSWER:C", "The correct answer is (C).", "Correct answer - C", "Option C", "Ans C"]
)
def test_a_rationale_that_only_names_the_letter_has_no_steps(line: str) -> None:
    assert read({**AQUA, "rationale": line}).steps == ()


def test_aqua_tab_separated_line_reads_as_the_json_row() -> None:
    options = r"\n".join(["(A) 1 m", "(B) 2 m", "(C) 3 m", "(D) 6 m", "(E) 9 m"])
    rationale = AQUA["rationale"].replace("\n", "\\n")
    line = f"{AQUA['question']}\\nOptions:\\n{options}\t(C)\t{rationale}"
    assert read(aqua_tsv_fields(line)) == read(AQUA)


@pytest.mark.parametrize("line", ["no tabs", "a\tb", "question without options\t(A)\tbecause"])
def test_a_malformed_tab_separated_line_is_refused(line: str) -> None:
    with pytest.raises(MalformedRow):
        aqua_tsv_fields(line)


def test_own_format_ignores_hidden_states_and_takes_optional_columns() -> None:
    assert read(ROW) == Problem("id", "1 and 2?", ("1 + 2 = 3",), "3")
    full = {**AQUA, "steps": ["9 / 3 = 3"], "answer": "C", "id": 7, "subject": "ropes", "num_steps": 4}
    full["options"] = ["1", "2", "3"]
    expected = Problem("7", AQUA["question"], ("9 / 3 = 3",), "C", ("1", "2", "3"), "ropes", 4)
    assert read(full) == expected


def test_own_format_takes_number_answers_and_calculator_brackets() -> None:
    problem = read({"question": "Q?", "steps": ["<<600*30/100=180>>"], "answer": 180})
    assert (problem.steps, problem.answer) == (("600*30/100=180",), "180")


@pytest.mark.parametrize(
    ("fields", "schema"),
    [
        (GSM8K, "solution"),
        (MATH, "math"),
        (AQUA, "aqua"),
        (ROW, "rows"),
        ({"question": "Q?", "answer": "5"}, "rows"),
    ],
)
def test_schemas_are_recognised_by_their_columns(fields: dict[str, Any], schema: RowSchema) -> None:
    assert arrangement_of([fields]).schema == schema


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({**GSM8K, "answer": "No mark at all."}, 'no "####" before the answer'),
        ({**GSM8K, "answer": "Step.\n#### "}, "empty answer"),
        ({**GSM8K, "answer": "Step.\n#### many"}, "answer is not a number"),
        ({**MATH, "solution": r"It is \boxed{}."}, "empty answer"),
        ({**MATH, "solution": "It is three."}, "no boxed answer"),
        ({**MATH, "problem": "  "}, "empty question"),
        ({**AQUA, "correct": "F"}, "answer is not the letter of an option"),
        ({**AQUA, "correct": ""}, "answer is not the letter of an option"),
        ({**AQUA, "options": ["A)1"]}, "fewer than 2 or more than 5 options"),
        ({**AQUA, "options": ["A)1", "B)", "C)3"]}, "empty option"),
        ({**AQUA, "options": ["B)1", "A)2", "C)3"]}, "options not lettered in order"),
        ({**AQUA, "options": list("123456")}, "fewer than 2 or more than 5 options"),
        ({**ROW, "steps": ["1 + 2 = 3", " "]}, "blank step"),
        ({**ROW, "answer": ""}, "empty answer"),
    ],
)
def test_unusable_rows_say_why(fields: dict[str, Any], reason: str) -> None:
    schema: RowSchema = "gsm8k"
    for column, name in OWN_COLUMNS.items():
        schema = name if column in fields else schema
    with pytest.raises(UnusableRow) as caught:
        problem_of(fields, schema=schema, row_id="id")
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": "hello"}, "match no known schema"),
        ({**ROW, "question": 3}, '"question" must be a text, not 3'),
        ({**ROW, "steps": {"a": "1 + 2"}}, '"steps" must be a list of texts'),
        ({**ROW, "steps": [1]}, '"steps" must be a list of texts'),
        ({**ROW, "answer": None}, '"answer" must be a text or a number, not None'),
        ({**ROW, "answer": {"a": 1}}, '"answer" must be a text or a number'),
        ({**ROW, "answer_kind": "word"}, '"answer_kind" must be one of numeric, math'),
        ({**ROW, "answer": float("nan")}, "finite"),
        ({**ROW, "num_steps": -3}, '"num_steps" must be a count, not -3'),
        ({**ROW, "id": [1]}, '"id" must be a text or a whole number'),
        ({**ROW, "question": "\ud800"}, "surrogate"),
        ({"question": "Q", "steps": []}, '"answer" must be'),
    ],
)
def test_malformed_rows_say_what_is_wrong(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(MalformedRow, match=message):
        read(fields)


def test_a_row_of_another_schema_is_malformed() -> None:
    with pytest.raises(MalformedRow, match='no "problem"; the columns are'):
        problem_of(GSM8K, schema="math", row_id="id")


def test_questions_are_compared_without_case_and_white_space() -> None:
    assert question_of({"question": "How  Many\n"}) == question_of({"problem": "how many"}) == "how many"


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
LINE = TEXT.map(lambda text: " ".join(text.split())).filter(bool)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.builds(
        Problem,
        id=LINE,
        question=LINE,
        steps=st.lists(LINE.filter(lambda step: "<<" not in step), max_size=4).map(tuple),
        answer=LINE,
        subject=TEXT,
        num_steps=st.integers(-1, 9),
    )
)
def test_a_problem_survives_its_row_and_the_reader(problem: Problem) -> None:
    row = json.loads(json.dumps(problem.to_row()))
    assert Problem.from_row(row) == problem
    assert read(row) == problem


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
COLUMNS = st.sampled_from(
    [
        "question",
        "steps",
        "answer",
        "problem",
        "solution",
        "options",
        "rationale",
        "correct",
        "id",
        "num_steps",
    ]
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(COLUMNS, JSON | st.lists(st.text(max_size=5), max_size=6), max_size=10))
def test_any_mapping_reads_or_is_refused_with_a_reason(fields: dict[str, Any]) -> None:
    try:
        problem = read(fields)
    except (MalformedRow, UnusableRow) as error:
        assert str(error)
    else:
        assert problem.question and problem.answer and all(problem.steps)
