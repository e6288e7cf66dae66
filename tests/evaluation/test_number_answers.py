"""Numbers that texts state, in many sentences and spellings: a careful reader says what is right."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_peft.evaluation.answers import equal, grade
from lrd_peft.evaluation.number_answers import parse_rational

# Text of a model, gold answer, whether it is right.
CASES = [
    ("#### 42", "42", True),
    ("#### 42 ", "42", True),
    ("####  42\n\n", "42", True),
    ("#### $42", "42", True),
    ("#### 42 dollars", "42", True),
    ("#### 42%", "42", True),
    ("#### 42.", "42", True),
    ("#### 4,200", "4200", True),
    ("#### 4200.00", "4200", True),
    ("#### -42", "-42", True),
    ("#### - 42", "-42", True),
    ("#### \u221242", "-42", True),
    ("#### 42/2", "21", True),
    ("#### 42/2", "2", False),
    ("#### 42/2", "42", False),
    ("#### 4 1/2", "4.5", True),
    ("#### 4 1/2", "2", False),
    ("#### 4\xbd", "4.5", True),
    ("#### \\frac{42}{2}", "21", True),
    ("#### 42 = 6*7", "42", True),
    ("#### 6*7 = 42", "42", True),
    ("#### 6*7=42", "42", True),
    ("#### 6 * 7", "42", True),
    ("#### 40 + 2 = 42 pens", "42", True),
    ("#### 42 (6*7)", "42", True),
    ("#### 42 - final", "42", True),
    ("#### 42, as required", "42", True),
    ("#### 42; done", "42", True),
    ("#### about 42", "42", True),
    ("#### 42 pens and 7 boxes", "7", False),
    ("#### 42 or 43", "43", False),
    ("#### 42 to 43", "43", False),
    ("#### 42-43", "43", False),
    ("#### 42 43", "43", False),
    ("#### 42, 43", "43", False),
    ("#### 4.2e1", "1", False),
    ("#### x", "7", False),
    ("####\n42", "42", True),
    ("#### \n\nQuestion: 7", "7", False),
    ("#### no answer", "7", False),
    ("#### 42</s>", "42", True),
    ("#### 42<|endoftext|>", "42", True),
    ("#### 42<eos>", "42", True),
    ("### 42\n### 43", "43", False),
    ("## 42", "42", True),
    ("Final answer: 42", "42", True),
    ("**Final Answer:** 42", "42", True),
    ("**Final Answer**: $42$", "42", True),
    ("**Final Answer**\n\n42", "42", True),
    ("Answer: $42.", "42", True),
    ("Answer: 42 dollars", "42", True),
    ("Answer: -42", "-42", True),
    ("Answer: 4,200", "4200", True),
    ("Answer = 42", "42", True),
    ("Answer - 42", "42", True),
    ("The answer is \u221242.", "-42", True),
    ("The answer is minus 42", "-42", True),
    ("The answer is negative 42", "-42", True),
    ("The answer is 42 because 40+2=42, 43 is wrong", "42", True),
    ("The answer is 42. 43 is wrong.", "42", True),
    ("The answer is 42! There are 43 more", "42", True),
    ("The answer is 42 and there are 7 left", "42", True),
    ("The answer is 42, with 7 left over", "42", True),
    ("The answer is 42 (with 7 left over)", "42", True),
    ("The answer is 42 in total for 7 people", "42", True),
    ("The answer is $42 per week", "42", True),
    ("The answer is 42 hours 30 minutes", "30", False),
    ("The answer is 42 cm by 30 cm", "30", False),
    ("The answer is 6 x 7 = 42", "42", True),
    ("The answer is 6 \xd7 7 = 42", "42", True),
    ("The answer is 6*7 which equals 42", "42", True),
    ("The answer is: 6 + 36 = 42.", "42", True),
    ("The answer is 42.5", "42", False),
    ("The answer is 42.0", "42", True),
    ("The answer is 0.42", "42", False),
    ("The answer is 1/42", "42", False),
    ("The answer is 42/1", "42", True),
    ("The answer is $\\frac{42}{5}$", "5", False),
    ("The answer is $\\frac{42}{5}$", "8.4", True),
    ("The answer is \\(\\frac{42}{5}\\)", "8.4", True),
    ("The answer is 42^2", "2", False),
    ("The answer is 3\\sqrt{42}", "42", False),
    ("The answer is \\sqrt{49}", "7", True),
    ("The answer is 42\u03c0", "42", False),
    ("The answer is x = 42", "42", True),
    ("The answer is $x = 42$", "42", True),
    ("The total is 42", "42", True),
    ("Total: 42 pens", "42", True),
    ("So, 42.", "42", True),
    ("42", "42", True),
    (" 42\n", "42", True),
    ("$42$", "42", True),
    ("\\(42\\)", "42", True),
    ("\\[42\\]", "42", True),
    ("`42`", "42", True),
    ("**42**", "42", True),
    ("*42*", "42", True),
    ('"42"', "42", True),
    ("= 42", "42", True),
    ("x=42", "42", True),
    ("He has 42.", "42", True),
    ("12 + 30 = 42 pens", "42", True),
    ("She ate 3/4 of it", "4", False),
    ("She ate 3/4 of it", "0.75", True),
    ("half", "2", False),
    ("\\boxed{42}", "42", True),
    ("\\boxed{42}\\\\", "42", True),
    ("\\boxed{42 \\text{ pens}}", "42", True),
    ("\\boxed{42\\ \\text{pens}}", "42", True),
    ("\\boxed{\\text{42 pens}}", "42", True),
    ("\\boxed{42~\\mathrm{cm}^2}", "42", True),
    ("\\boxed{42\\,\\text{m}^3}", "42", True),
    ("\\boxed{42\\,\\text{m}^3}", "3", False),
    ("\\boxed{4{,}200}", "4200", True),
    ("\\boxed{4\\,200}", "4200", True),
    ("\\boxed{4,200}", "4200", True),
    ("\\boxed{4\\ 200}", "4200", True),
    ("\\boxed{4 200}", "4200", True),
    ("\\boxed{4\u2009200}", "4200", True),
    ("\\boxed{\\$4,200.00}", "4200", True),
    ("\\boxed{42^\\circ}", "42", True),
    ("\\boxed{42\xb0}", "42", True),
    ("\\boxed{42\\%}", "42", True),
    ("\\boxed{-42}", "-42", True),
    ("\\boxed{6\\times7=42}", "42", True),
    ("\\boxed{6\\times7}", "42", True),
    ("\\boxed{N = 42}", "42", True),
    ("\\boxed{\\text{Total} = 42}", "42", True),
    ("\\boxed{\\mathbf{42}}", "42", True),
    ("\\boxed{42}. But 43", "42", True),
    ("\\boxed{}", "42", False),
    ("\\boxed{42,43}", "43", False),
    ("\\boxed{42}\\text{ or }\\boxed{43}", "43", False),
    ("Q: 5+5?\nA: 10", "10", True),
    ("Question: 5+37?\nAnswer: 42", "42", True),
    ("Question: 5+37?\nAnswer: 42\n\nQuestion: 1+1?\nAnswer: 2", "42", True),
    ("The answer is 42\n\n\nProblem: Ann has 7", "42", True),
    ("The answer is 42\nInstruction: 7 more", "42", True),
    ("user: 7\nassistant: The answer is 42", "42", True),
    ("The answer is 42\nUser: what is 7?", "42", True),
    ("The answer is 42\n\nHuman: 7\n\nAssistant: The answer is 7", "42", True),
    ("\\boxed{45{,}000}", "45000", True),
    ("\\boxed{2\\,500}", "2500", True),
    ("\\boxed{36\\text{ cm}^2}", "36", True),
    ("\\boxed{36\\text{ cm}^2}", "2", False),
    ("\\boxed{\\$36}", "36", True),
    ("\\boxed{36\\%}", "36", True),
    ("\\boxed{x=36}", "36", True),
    ("\\boxed{36} pens. Note that 7 days.", "36", True),
    ("\\boxed{36}\n\nThis is 5 more than 31.", "36", True),
    ("\\boxed{\\frac{7}{2}}", "3.5", True),
    ("\\boxed{\\frac{7}{2}}", "2", False),
    ("\\boxed{7/2}", "2", False),
    ("\\boxed{5}\\boxed{6}", "6", False),
    ("\\boxed{5} and \\boxed{6}", "6", False),
    ("We get \\boxed{5} first. Later we find a total of \\boxed{6}.", "6", True),
    ("The answer is 36. A week has 7 days.", "36", True),
    ("The answer is 36 dollars. He has 5 left.", "36", True),
    ("The answer is - 8", "-8", True),
    ("The answer is -8.", "-8", True),
    ("The answer is \u22128", "-8", True),
    ("The answer is $-8$", "-8", True),
    ("The answer is $36.", "36", True),
    ("The answer is \\$36.50", "36.5", True),
    ("#### 7/2", "3.5", True),
    ("#### 7/2", "2", False),
    ("### \\frac{7}{2}", "2", False),
    ("### \\frac{7}{2}", "3.5", True),
    ("### \\dfrac72", "3.5", True),
    ("### 3 1/2", "3.5", True),
    ("### 3 or 4", "4", False),
    ("### 3 or 4", "3", False),
    ("### 3 and 4", "4", False),
    ("### 3, 4", "4", False),
    ("### 3-4", "4", False),
    ("### between 3 and 4", "4", False),
    ("The answer is 7/8", "8", False),
    ("The answer is \\frac{7}{8}", "8", False),
    ("So it is 7/8", "8", False),
    ("So it is 7/8", "0.875", True),
    ("He ate 3/4", "4", False),
    ("the ratio \\frac{3}{4}", "4", False),
    ("\\sqrt{2}", "2", False),
    ("The answer is \\sqrt{5}", "5", False),
    ("The answer is 2\\pi", "2", False),
    ("2^5", "5", False),
    ("The answer is 2^5", "32", True),
    ("#### 33\nQuestion: more\n#### 12", "33", True),
    ("#### 33\n\nQ: more?\nA: 12", "33", True),
    ("The answer is: 33\n\nQuestion: Lea has 7 pens.", "33", True),
    ("The answer is 33.\n\nProblem 2: 8 pens", "33", True),
    ("#### 33\nThere are 7 days.", "33", True),
    ("### 33\n4 + 5 = 9", "33", True),
    ("### 33 apples in 4 boxes", "33", True),
    ("### 33 dollars", "33", True),
    ("### $33", "33", True),
    ("### $33.00", "33", True),
    ("### 1,033", "1033", True),
    ("### 33%", "33", True),
    ("### x = 33", "33", True),
    ("### 3 * 11 = 33", "33", True),
    ("### The answer is 33", "33", True),
    ("### Answer: 33", "33", True),
    ("### Total: 33 pens", "33", True),
    ("###33", "33", True),
    ("####33", "33", True),
    ("### **33**", "33", True),
    ("### \\boxed{33}", "33", True),
    ("### 33.", "33", True),
    ("### \n33", "33", True),
    ("### Step 1\n5+6=11\n### Step 2\n11*3=33\n#### 33", "33", True),
    ("### Solution\n11*3 = 33", "33", True),
    ("### 1. Add\n5\n### 2. Multiply\n33", "33", True),
    ("### Final Answer\n33", "33", True),
    ("### Final answer: 33\nNote: 5", "33", True),
    ("Final Answer: 33", "33", True),
    ("**Final Answer: 33**", "33", True),
    ("**33**", "33", True),
    ("Answer: **33** pens", "33", True),
    ("So she has 33 pens left.", "33", True),
    ("5 + 28 = 33", "33", True),
    ("<<5+28=33>>33", "33", True),
    ("The answer is 5 + 28 = 33.", "33", True),
    ("The answer is 33 (5 + 28).", "33", True),
    ("The answer is therefore 33.", "33", True),
    ("The answer is 33, because 5 + 28 = 33 and 7 more would be 40.", "33", True),
    ("The answer is 33 not 34", "33", True),
    ("The answer is not 33 but 34.", "34", True),
    ("The answer is not 33, it is 34.", "33", False),
    ("The answer is 3 times 11, which is 33", "33", True),
    ("The answer is thirty", "30", False),
    ("The total cost is $1,033.50.", "1033.5", True),
    ("10-3 apples", "3", True),
    ("16 - 3 = 13", "13", True),
    ("it fell to -3 degrees", "-3", True),
    ("5 x -3", "-3", True),
    ("The answer is 33 minutes and 20 seconds", "20", False),
    ("The answer is 33.0", "33", True),
    ("The answer is 33.5", "33", False),
    ("1\u202f033 pens", "1033", True),
    ("33\xb0", "33", True),
    ("\xbd", "0.5", True),
    ("The answer is 2\xbd", "2.5", True),
    ("The answer is 33 per day", "33", True),
    ("The answer is 100 for 5 days", "100", True),
    ("The answer is 1e3", "3", False),
    ("The answer is 1e3", "1000", True),
    ("#### 4.2e1", "42", True),
    ("#### 3 x 10^2", "300", True),
    ("#### 3 x 10^2", "3", False),
    ("#### 3 x 10^2 pens", "300", True),
    ("#### $3 \\times 10^{2}$", "300", True),
    ("#### 3 \xd7 10\xb2", "300", True),
    ("#### -3 x 10^2", "-300", True),
    ("#### 5 - 3 x 10^2 = -295", "-295", True),
    ("#### 2.5 * 10**-1", "0.25", True),
    ("#### 1,200 x 10^1", "12000", True),
    ("#### 2 x 3 x 10^2", "600", True),
    ("#### 3 x 10", "30", True),
    ("#### 2^3 x 10^2", "800", True),
    ("The answer is 3 x 10^2.", "300", True),
    ("so we get 3 x 10^2 pens", "300", True),
    ("#### 3 x 10^99", "3", False),
    ("#### unknown. We have 7", "7", False),
    ("#### unknown\nWe have 7", "7", False),
    ("#### Not enough information. We have 7", "7", False),
    ("#### I don't know. We have 7", "7", False),
    ("#### cannot be determined (7 are missing)", "7", False),
    ("The answer is unknown. We have 7.", "7", False),
    ("The answer cannot be determined. We have 7.", "7", False),
    ("The answer is not known at first, but it is 7", "7", True),
    ("It cannot be 5. The answer is 7", "7", True),
    ("She does not know that she has 7", "7", True),
    ("answer is easy. We have 4 + 5 = 9.", "9", True),
    ("33,", "33", True),
    ("It is 33!", "33", True),
    ("She pays 33 USD", "33", True),
    ("The answer is 33/1", "33", True),
    ("The answer is 66/2", "33", True),
    ("Ans: 33", "33", True),
    ("\u7b54\u6848\uff1a33", "33", True),
    ("Answer is $33$ dollars", "33", True),
    ("The answer is \\(33\\).", "33", True),
    ("\\[ x = 33 \\]", "33", True),
    ("<answer>33</answer>", "33", True),
    ("<answer>33 pens</answer>", "33", True),
]


@pytest.mark.parametrize(("text", "gold", "right"), CASES)
def test_a_text_is_graded_as_a_careful_reader_would(text: str, gold: str, right: bool) -> None:
    assert grade("numeric", text, gold).right is right


# The same sentences with other numbers: no rule may depend on the 33.
SENTENCES = [
    text
    for text, gold, right in CASES
    if gold == "33"
    and right
    and "33." not in text
    and "11" not in text
    and "66" not in text
    and "33!" not in text
    and "/1" not in text
    and "28" not in text
]


@pytest.mark.parametrize("number", ["8", "604", "1250", "0.75"])
@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_sentence_states_any_number(sentence: str, number: str) -> None:
    text = sentence.replace("1\u202f033", "1,033").replace("1,033", "1033").replace("1033", "33").replace("33", number)
    assert grade("numeric", text, number).right
    assert not grade("numeric", text, "7").right


@pytest.mark.parametrize("shown", ["{a}/{b}", "\\frac{{{a}}}{{{b}}}", "\\dfrac{{{a}}}{{{b}}}", "{a} / {b}"])
@pytest.mark.parametrize("sentence", ["#### {}", "The answer is {}.", "So each gets {} of it", "\\boxed{{{}}}", "{}"])
@pytest.mark.parametrize(("a", "b"), [(3, 4), (7, 8), (9, 2), (5, 16)])
def test_a_fraction_is_one_number_and_never_its_last(shown: str, sentence: str, a: int, b: int) -> None:
    text = sentence.format(shown.format(a=a, b=b))
    assert not grade("numeric", text, str(b)).right
    assert not grade("numeric", text, str(a)).right
    assert grade("numeric", text, str(a / b)).right


@pytest.mark.parametrize("separator", [",", "{,}", "\\,", ",\\!", "\u202f", "\u2009", "\\;", "\\ "])
@pytest.mark.parametrize("whole", [1_234, 70_000, 250_000, 1_000_000])
def test_thousands_are_separated_in_many_ways(separator: str, whole: int) -> None:
    shown = f"{whole:,}".replace(",", separator)
    assert grade("numeric", f"\\boxed{{{shown}}}", str(whole)).right
    assert grade("numeric", f"#### {shown}", str(whole)).right
    assert equal("math", shown, str(whole))


@settings(deadline=None, max_examples=100)
@given(a=st.integers(-(10**9), 10**9), b=st.integers(1, 10**6))
def test_a_rational_number_survives_its_canonical_form(a: int, b: int) -> None:
    value = parse_rational(f"\\frac{{{a}}}{{{b}}}")
    assert value is not None and Fraction(value) == Fraction(a, b)
    assert parse_rational(value) == value
