"""Gold answers: one rule for the reader and the grader."""

from __future__ import annotations

import pytest

from lrd_peft.data.gold import gold_number, normalized_text, number_text, parse_boolean
from lrd_peft.data.sentences import last_boxed
from lrd_peft.evaluation.answers import equal, extract_answer


@pytest.mark.parametrize(
    ("written", "gold"),
    [
        ("$18", "18"),
        ("18.", "18"),
        ("50%", "50"),
        ("\u22125", "-5"),
        ("2,125", "2125"),
        ("18.00", "18"),
        (".5", "0.5"),
        ("-$3.50", "-3.5"),
        ("9 (apples)", "9"),
        ("3/4", "3/4"),
        ("\u22121/2", "-1/2"),
        ("9 apples", None),
        ("many", None),
        ("1e3", None),
        ("", None),
    ],
)
def test_a_gold_number_is_read_as_the_grader_reads_it(written: str, gold: str | None) -> None:
    assert gold_number(written) == gold
    if gold is not None:
        # What the reader keeps is what a model that writes the original text is graded against.
        found = extract_answer("math" if "/" in gold else "numeric", f"### {written}")
        assert equal("math" if "/" in gold else "numeric", found.value, gold)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (145.0, "145"),
        (3, "3"),
        (0.1, "0.1"),
        (1e22, "1" + "0" * 22),
        (1.5e-7, "0.00000015"),
        (-2.50, "-2.5"),
        (100, "100"),
    ],
)
def test_numbers_are_written_without_exponent(number: float, text: str) -> None:
    assert number_text(number) == text


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"It is \boxed\frac12.", r"\frac12"),
        (r"$\boxed\frac{1}{2}$", r"\frac{1}{2}"),
        (r"\boxed\sqrt2, so", r"\sqrt2"),
        (r"\boxed 7.", "7"),
        (r"\boxed{ \frac12 }", r"\frac12"),
    ],
)
def test_a_box_holds_the_same_for_reader_and_grader(solution: str, answer: str) -> None:
    assert last_boxed(solution) == answer
    assert extract_answer("math", solution).value == answer


def test_words_are_compared_without_case_spaces_and_outer_marks() -> None:
    assert normalized_text(' "Tom  is a\nLEMPUS." ') == "tom is a lempus"
    assert normalized_text("don't") == "don't"


@pytest.mark.parametrize(("text", "value"), [("Yes.", True), ("FALSE", False), ("no", False), ("nothing", None)])
def test_truth_values_have_four_spellings(text: str, value: bool | None) -> None:
    assert parse_boolean(text) is value
