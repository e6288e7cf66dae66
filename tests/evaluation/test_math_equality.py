"""The bounded comparison: hostile mathematics, dead children, threads and forks."""

from __future__ import annotations

import shutil
import sys
import threading
import time

import pytest

from lrd_peft.evaluation import math_equality
from lrd_peft.evaluation.answers import equal, grade

HOSTILE = {
    "power tower": "9^{9^{9^{9}}}",
    "python power tower": "9**9**9**9",
    "factorial": "(9^{9})!",
    "huge power": "10^{100000000}",
    "braces": "{" * 900,
    "nested fractions": "\\frac{" * 150 + "1" + "}{2}" * 150,
    "nested roots": "\\sqrt{" * 160 + "2" + "}" * 160,
    "parentheses": "(" * 450 + "1" + ")" * 450,
    "expansion": "(x+1)^{9999}",
    "integral": "\\int_0^{\\infty} e^{-x^{2}}\\sin(x^{x})dx",
    "equations": "x=" * 400,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_mathematics_is_wrong_in_bounded_time(name: str) -> None:
    assert equal("math", "x", "x")
    start = time.monotonic()
    assert grade("math", "### " + HOSTILE[name], "5").right is False
    # The limit, a restart of the child on a busy machine, and no more.
    assert time.monotonic() - start < math_equality.LIMIT_SECONDS + 15


def test_a_child_that_does_not_answer_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    assert math_equality.equal_math("x+3", "3+x")
    monkeypatch.setattr(math_equality, "LIMIT_SECONDS", 0.2)
    assert not math_equality.equal_math("\\int_0^{\\infty} e^{-x^{2}}\\cos(x^{x})dx", "5")
    monkeypatch.undo()
    assert math_equality.equal_math("x+4", "4+x")


def test_a_dead_child_is_replaced() -> None:
    assert math_equality.equal_math("y+3", "3+y")
    process = math_equality._child._process
    assert process is not None
    process.kill()
    process.wait()
    assert math_equality.equal_math("y+4", "4+y")


def test_any_thread_may_compare() -> None:
    verdicts: list[bool] = []
    threads = [
        threading.Thread(target=lambda n=n: verdicts.append(equal("math", f"z+{n}", f"{n}+z"))) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert verdicts == [True] * 4


def test_a_child_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    child = math_equality._Child()
    ends_at_once = shutil.which("false")
    assert ends_at_once is not None
    monkeypatch.setattr(sys, "executable", ends_at_once)
    with pytest.raises(RuntimeError, match="math-verify does not run"):
        child.ask("1", "2")


def test_the_comparison_itself() -> None:
    assert math_equality._compare("\\frac{2}{4}", "0.5")
    assert not math_equality._compare("3", "4")
    assert not math_equality._compare("\\frac{", "4")


def test_a_fork_leaves_the_child_to_its_parent() -> None:
    child = math_equality._Child()
    assert child.ask("w+3", "3+w")
    first = child._process
    assert first is not None
    child.forget()  # what a fork of this process does first
    assert child.ask("w+4", "4+w")
    assert child._process is not first and first.poll() is None
    for process in (first, child._process):
        child._process = process
        child.stop()
