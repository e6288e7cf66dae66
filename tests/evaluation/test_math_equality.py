"""The bounded comparison: hostile mathematics, dead children, threads and forks."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import threading

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


UNDECIDABLE = "\\int_0^{\\infty} e^{-x^{2}}\\cos(x^{x})dx"


def processor_seconds() -> float:
    """Processor time of this process and of the children that have ended."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_mathematics_is_wrong_in_bounded_time(name: str) -> None:
    assert equal("math", "x", "x")
    start = processor_seconds()
    assert grade("math", "### " + HOSTILE[name], "5").right is False
    # The limits, a restart of the child, and no more.
    assert processor_seconds() - start < math_equality.LIMIT_SECONDS + 10


def test_a_comparison_that_takes_too_long_is_counted_and_the_next_one_works(monkeypatch: pytest.MonkeyPatch) -> None:
    assert math_equality.equal_math("x+3", "3+x")
    monkeypatch.setattr(math_equality, "LIMIT_SECONDS", 0.2)
    graded = grade("math", f"\\boxed{{{UNDECIDABLE}}}", "5")
    assert (graded.right, graded.parsed, graded.timed_out) == (False, True, True)
    monkeypatch.undo()
    assert math_equality.equal_math("x+4", "4+x")
    graded = grade("math", "\\boxed{\\cos(x)}", "\\sin(x)")
    assert (graded.right, graded.timed_out) == (False, False)


def test_a_power_that_never_ends_does_not_stop_the_grading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_equality, "LIMIT_SECONDS", 0.1)
    assert math_equality.equal_math("9^{9^{9^{9}}}+1", "5") is None
    monkeypatch.undo()
    assert math_equality.equal_math("x+7", "7+x")


def test_verdicts_do_not_depend_on_what_else_the_machine_does(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [("\\sin(2x)", "2\\sin(x)\\cos(x)"), ("\\log_2(8)", "3"), ("\\tan(x)", "\\cot(x)"), (UNDECIDABLE, "7")]
    monkeypatch.setattr(math_equality, "LIMIT_SECONDS", 0.8)
    idle = math_equality._Child()
    verdicts = [idle.ask(*pair) for pair in pairs]
    assert verdicts == [True, True, False, None]
    idle.stop()
    code = "import time\nend = time.time() + 60\nwhile time.time() < end: pass"
    load = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(8)]
    busy = math_equality._Child()  # starts under load
    try:
        assert [busy.ask(*pair) for pair in pairs] == verdicts
    finally:
        busy.stop()
        for process in load:
            process.kill()
            process.wait()


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
