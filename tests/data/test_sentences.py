"""Sentences and boxed answers, against splits made by hand."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrd_peft.data.sentences import last_boxed, split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("We add. Then we stop.", ["We add.", "Then we stop."]),
        ("So $x = 3.$ Hence $y = 4.$", ["So $x = 3.$", "Hence $y = 4.$"]),
        ("Take $a. B$ as it is. Done.", ["Take $a. B$ as it is.", "Done."]),
        (r"It costs \$5. She pays \$7. Change: \$2.", [r"It costs \$5.", r"She pays \$7.", r"Change: \$2."]),
        (r"We get \[x = 2.\]Then we stop.", [r"We get \[x = 2.\]", "Then we stop."]),
        (r"We get \[x = 2,\]and then stop.", [r"We get \[x = 2,\]and then stop."]),
        ("The value is 3.5 here. Good.", ["The value is 3.5 here.", "Good."]),
        ("A prime, i.e. $p$, is odd. Or 2.", ["A prime, i.e. $p$, is odd.", "Or 2."]),
        ("1. Add them. 2. Halve the sum.", ["1. Add them.", "2. Halve the sum."]),
        ("first line\ngoes on\n\nsecond paragraph", ["first line goes on", "second paragraph"]),
        ("Look.\n\n[asy]\ndraw((0,0)--(1,1)); // A. B\n[/asy]\n\nSee?", ["Look.", "See?"]),
        (
            "\\begin{align*}\nx &= 1. \\\\\n\nY &= 2.\n\\end{align*}\nThus three.",
            [r"\begin{align*} x &= 1. \\ Y &= 2. \end{align*}", "Thus three."],
        ),
        ("Is it? Yes! (It is.) So there.", ["Is it?", "Yes!", "(It is.)", "So there."]),
        ("", []),
    ],
)
def test_latex_solutions_split_outside_mathematics(text: str, sentences: list[str]) -> None:
    assert split_sentences(text, latex=True) == sentences


def test_without_latex_a_dollar_is_currency() -> None:
    text = "He pays $3. She pays $4. Together $7."
    assert split_sentences(text, latex=False) == ["He pays $3.", "She pays $4.", "Together $7."]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(alphabet="ab A.$\\[]{}()!?\n1", max_size=60), st.booleans())
def test_no_character_is_lost_or_moved_by_splitting(text: str, latex: bool) -> None:
    parts = split_sentences(text, latex=latex)
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(part == " ".join(part.split()) and part for part in parts)


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"so \boxed{7}.", "7"),
        (r"first \boxed{1}, then \boxed{\frac{3}{4}}", r"\frac{3}{4}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{a_{b_{c}}} and {more}", "a_{b_{c}}"),
        (r"$x = \boxed 5$.", "5"),
        (r"\fbox{9}", "9"),
        (r"\boxed{}", ""),
        (r"\boxed{ 8 } and an open \boxed{9", "8"),
        (r"\boxedsomething{3}", None),
        (r"ends with \boxed", None),
        ("no box", None),
    ],
)
def test_last_box_with_nested_braces(solution: str, answer: str | None) -> None:
    assert last_boxed(solution) == answer
