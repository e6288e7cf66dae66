"""Divides a written solution into steps: lists, lines, sentences, or the calculator's annotations."""

from __future__ import annotations

import re
from typing import Any

from lrd_peft.config.choices import StepsStyle
from lrd_peft.data.row_values import UnusableRow, list_in_text, texts_in
from lrd_peft.data.sentences import one_line, split_sentences

TEXT_KEPT = "without equations, steps kept as text"
_CALCULATOR = re.compile(r"<<([^<>]*)>>")


def steps_in(value: Any, steps_style: StepsStyle, notes: list[str]) -> list[str]:
    """Return the steps in a column: a list of texts, one text, or nothing.

    Args:
        value: The column.
        steps_style: Keep the text of a step, or only its annotated equations ("<<3*12=36>>").
        notes: Receives a remark where the style cannot be followed.

    Raises:
        MalformedRow: If the column holds something else.
        UnusableRow: If a step of a list is blank.
    """
    if value is None:
        return []
    if isinstance(value, str):
        inner = list_in_text(value)
        if inner is None:
            return steps_of_text(value, steps_style, notes)
        value = inner
    texts = texts_in(value, "steps")
    if not all(text.strip() for text in texts):
        raise UnusableRow("blank step")
    if not any(_CALCULATOR.search(text) for text in texts):
        return [one_line(text) for text in texts]
    return [step for text in texts for step in _steps_of_line(text, steps_style)]


def steps_of_text(text: str, steps_style: StepsStyle, notes: list[str], *, by_lines: bool = False) -> list[str]:
    """Return the steps of a solution.

    Args:
        text: The solution without its answer.
        steps_style: As in `steps_in`.
        notes: As in `steps_in`.
        by_lines: A step is a line. Otherwise a text of one line is divided into sentences.
    """
    equations = _equations(text)
    without = _CALCULATOR.sub("", text)
    if equations and (steps_style == "equations" or not re.search(r"\w", without)):
        return equations
    if steps_style == "equations" and re.search("[A-Za-z]{2}", without):
        notes.append(TEXT_KEPT)
    lines = [line for line in (one_line(line) for line in without.splitlines()) if line]
    if by_lines or len(lines) != 1:
        return lines
    return split_sentences(lines[0], latex="\\" in lines[0])


def _steps_of_line(text: str, steps_style: StepsStyle) -> list[str]:
    equations = _equations(text)
    without = one_line(_CALCULATOR.sub("", text))
    # Data sets with equations only keep the calculator's brackets: "<<600*30/100=180>>".
    if equations and (steps_style == "equations" or not re.search(r"\w", without)):
        return equations
    return [without] if without else []


def _equations(text: str) -> list[str]:
    return [one_line(equation) for equation in _CALCULATOR.findall(text) if equation.strip()]
