"""Answers in words: exact texts, and yes or no."""

from __future__ import annotations

import pytest

from lrd_peft.data.problem import Problem
from lrd_peft.evaluation.answers import AnswerKind, Grade, equal, extract_answer, grade, kind_of
from lrd_peft.runtime.errors import UserError

GOLD = "Tom is a lempus."


@pytest.mark.parametrize(
    ("text", "right", "strict"),
    [
        ("Every a is a b.\n### Tom is a lempus.", True, True),
        ("### tom is  a LEMPUS", True, True),
        ("### Tom is a pemlus.", False, True),
        ("### Tom is a lempus. Or a rompus.", False, True),
        ("### Solution\nEvery a is a b.\n### Tom is a lempus.\n", True, True),
        ("### Tom is a lempus.\nQuestion: Is Ann a wumpus?\n### Ann is a wumpus.", True, True),
        ("So the answer is Tom is a lempus.", True, False),
        (r"\boxed{\text{Tom is a lempus}}", True, False),
        ("<answer>Tom is a lempus.</answer>", True, False),
        ("Every a is a b. Tom is a lempus.", True, False),
        ("Tom is a lempus. No, he is not.", False, False),
    ],
)
def test_a_text_is_right_only_if_it_is_the_gold_text(text: str, right: bool, strict: bool) -> None:
    graded = grade("text", text, GOLD)
    assert (graded.right, graded.strict, graded.parsed) == (right, strict, True)


def test_letters_in_another_order_are_another_word() -> None:
    assert not equal("text", "pomrus", "rompus")
    assert equal("text", '"Rompus."', "rompus")


def test_an_empty_text_has_no_answer() -> None:
    for kind in ("text", "boolean"):
        assert grade(kind, "", "yes") == Grade(None, False, False, False)


@pytest.mark.parametrize(
    ("text", "value", "strict"),
    [
        ("### True", "yes", True),
        ("It can.\n#### no.", "no", True),
        ("### No, it cannot.", "no", False),
        ("### maybe", None, False),
        ("The answer is yes.", "yes", False),
        ("The answer is not true.", "no", False),
        (r"\boxed{\text{False}}", "no", False),
        ("Yes, a fish can swim. There is no doubt.", "yes", False),
        ("There is no way to tell.", None, False),
        ("No one knows.", None, False),
        ("Fish swim. So it is false.", "no", False),
        ("True.\nIt is false.", "no", False),
    ],
)
def test_yes_and_no_are_read_as_stated(text: str, value: str | None, strict: bool) -> None:
    found = extract_answer("boolean", text)
    assert (found.value, found.strict) == (value, strict)


@pytest.mark.parametrize(("gold", "right"), [("yes", True), ("True", True), ("no", False), ("FALSE", False)])
def test_true_is_yes(gold: str, right: bool) -> None:
    assert equal("boolean", "yes", gold) is right
    assert not equal("boolean", "perhaps", gold)


def test_a_gold_answer_that_is_neither_is_refused() -> None:
    with pytest.raises(UserError, match="grade this problem as text"):
        equal("boolean", "yes", "perhaps")


@pytest.mark.parametrize("kind", ["text", "boolean", "math"])
def test_the_kind_that_a_problem_names_decides(kind: AnswerKind) -> None:
    assert kind_of(Problem("prosqa/test/0", "Q?", (), "yes", answer_kind=kind)) == kind
    assert kind_of(Problem("a/0", "Q?", (), "A", ("x", "y"), answer_kind=kind)) == "option"
