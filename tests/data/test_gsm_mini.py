"""gsm-mini: answers are found again from the question's sentences alone, steps are true, guessing pays nothing."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_peft.data.generators import generate_problems, gsm_mini
from lrd_peft.data.generators.draft import Draft
from tests.data.arithmetic import result_of

SEEDS = st.integers(min_value=0, max_value=2**64)
_HOLDS = re.compile(r"(\w+) has (\d+) (\w+)\.")
_BOXES = re.compile(r"(\w+) has (\d+) (?:bags|boxes|packs|jars) with (\d+) (\w+) each\.")
_BUYS = re.compile(r"(?:She|He) buys (\d+) \w+ for (\d+) coins each\.")
_GAIN = re.compile(r"(?:Then )?(?:[Ss]he|[Hh]e) (?:buys|finds|gets|wins) (\d+) more\.")
_LOSS = re.compile(r"(?:Then )?(?:[Ss]he|[Hh]e) (?:gives away|loses|sells|gives) (\d+)(?: to \w+)?\.")
_HALF = re.compile(r"(?:Then )?(?:[Ss]he|[Hh]e) (?:gives half to \w+|sells half)\.")
_TIMES = re.compile(r"(?:Then )?(?:[Ss]he|[Hh]e) makes them (\d+) times as many\.")
_COMPARED = re.compile(r"(\w+) has (?:(half)|(\d+) (more|fewer|times)) (?:as many )?\w+ (?:than|as) (\w+)\.")
_ASKED = re.compile(r"How many \w+ does (\w+) have(?: now)?\?")


def _solve(question: str) -> tuple[int, tuple[object, ...]]:
    """Follow the sentences one by one: the answer, and what happened without names and things."""
    holdings: dict[str, int] = {}
    story: list[object] = []
    owner = ""
    *told, asked = re.findall(r"[^.?]+[.?]", question)
    for sentence in map(str.strip, told):
        if found := _HOLDS.fullmatch(sentence):
            owner, holdings[found[1]] = found[1], int(found[2])
            story.append(int(found[2]))
        elif found := _BOXES.fullmatch(sentence):
            owner, holdings[found[1]] = found[1], int(found[2]) * int(found[3])
            story.append((int(found[2]), int(found[3])))
        elif found := _BUYS.fullmatch(sentence):
            holdings[owner] -= int(found[1]) * int(found[2])
            story.append(("buys", int(found[1]), int(found[2])))
        elif found := _GAIN.fullmatch(sentence):
            holdings[owner] += int(found[1])
            story.append(("+", int(found[1])))
        elif found := _LOSS.fullmatch(sentence):
            holdings[owner] -= int(found[1])
            story.append(("-", int(found[1])))
        elif _HALF.fullmatch(sentence):
            assert holdings[owner] % 2 == 0
            holdings[owner] //= 2
            story.append(("/", 2))
        elif found := _TIMES.fullmatch(sentence):
            holdings[owner] *= int(found[1])
            story.append(("*", int(found[1])))
        else:
            found = _COMPARED.fullmatch(sentence)
            assert found, f"nothing is known about {sentence!r}"
            than, count = holdings[found[5]], int(found[3] or 2)
            sign = {"more": "+", "fewer": "-", "times": "*", None: "/"}[found[4]]
            assert sign != "/" or than % 2 == 0
            values = {"+": than + count, "-": than - count, "*": than * count, "/": than // 2}
            owner, holdings[found[1]] = found[1], values[sign]
            story.append((sign, count))
        assert 0 <= holdings[owner] <= 40
    found = _ASKED.fullmatch(asked.strip())
    assert found, f"nothing is asked by {asked!r}"
    return holdings[found[1]], tuple(story)


def _check(draft: Draft) -> None:
    answer, story = _solve(draft.question)
    assert draft.answer == str(answer)
    assert [result_of(step) for step in draft.steps][-1] == answer
    assert all(int(number) <= 40 for step in draft.steps for number in re.findall(r"\d+", step))
    # A box and a purchase are one sentence with a product in it; everything else is a step a sentence.
    is_product = [isinstance(part, tuple) and (len(part) == 3 or part[0] not in set("+-*/")) for part in story]
    assert len(draft.steps) == len(story) - 1 + sum(is_product)
    assert draft.options == ()


@settings(deadline=None)
@given(SEEDS)
def test_any_draft_is_true(seed: int) -> None:
    _check(gsm_mini.draw_gsm_mini(random.Random(seed)))


def test_a_long_series_is_true() -> None:
    rng = random.Random(1)
    for _ in range(3_000):
        _check(gsm_mini.draw_gsm_mini(rng))


def test_the_long_set_has_more_steps_than_the_set_that_is_trained_on() -> None:
    rng = random.Random(2)
    drafts = [gsm_mini.draw_gsm_mini_long(rng) for _ in range(1_000)]
    for draft in drafts:
        _check(draft)
    trained = {len(gsm_mini.draw_gsm_mini(rng).steps) for _ in range(1_000)}
    assert trained == {1, 2, 3, 4, 5}
    assert {len(draft.steps) for draft in drafts} == {6, 7, 8}
    assert {draft.subject for draft in drafts} == {"events", "compare", "boxes", "shopping"}
    # A last number by chance: no answer of long chains pays more than in the set itself.
    assert Counter(draft.answer for draft in drafts).most_common(1)[0][1] <= 80


@pytest.mark.parametrize(
    ("steps", "answer"),
    [(("Ann: 6 + 3 = 9",), "8"), (("Ann: 6 + 3 = 8",), "9"), (("Ann: 6 - 3 = 3",), "9"), ((), "9")],
)
def test_the_checker_finds_faults(steps: tuple[str, ...], answer: str) -> None:
    question = "Ann has 6 pens. She buys 3 more. How many pens does Ann have now?"
    _check(Draft(question, ("Ann: 6 + 3 = 9",), "9", "", "events"))
    with pytest.raises((AssertionError, IndexError)):
        _check(Draft(question, steps, answer, "", "events"))


def test_splits_share_no_story_in_any_wording() -> None:
    train, validation, test = (
        {_solve(problem.question)[1] for problem in generate_problems("gsm-mini", split=split, num_problems=n, seed=n)}
        for split, n in (("train", 4_000), ("validation", 800), ("test", 800))
    )
    assert not train & test
    assert not train & validation
    assert not validation & test


def test_every_number_of_steps_and_every_kind_occurs_and_no_guess_pays() -> None:
    problems = generate_problems("gsm-mini", split="train", num_problems=10_000, seed=0)
    answers: dict[object, Counter[str]] = defaultdict(Counter)
    for problem in problems:
        for group in ("all", problem.num_steps, problem.subject):
            answers[group][problem.answer] += 1
    assert {1, 2, 3, 4, 5, "events", "compare", "boxes", "shopping"} < set(answers)
    assert answers["all"].most_common(1)[0][1] <= 0.06 * len(problems)
    for counted in answers.values():
        assert counted.most_common(1)[0][1] <= 0.08 * counted.total()
