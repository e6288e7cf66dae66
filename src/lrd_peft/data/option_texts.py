"""Reads the options of a multiple-choice question, and the letter of the right one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from lrd_peft.data.gold import number_text
from lrd_peft.data.problem import LETTERS
from lrd_peft.data.row_values import MalformedRow, UnusableRow, list_in_text, shown, texts_in
from lrd_peft.data.sentences import one_line

SAME_TEXT = "with two options of the same text"
_LABEL = re.compile(r"\s*[(\[]?\s*([A-Ea-e])\s*[)\].:]\s*")
_BRACKET = re.compile(r"\s*\(?([A-E])\s?\)")
_IN_TEXT = re.compile(r"(?:^|(?<=[\s,;|]))[(\[]?([A-Ea-e])\s*[)\].:]\s*")


def options_in(value: Any, notes: list[str]) -> list[str]:
    """Return the texts of the options without their letters.

    Args:
        value: A list of texts, a mapping of letters to texts, `{"label": [...], "text": [...]}`, or one text with
            lettered options.
        notes: Receives a remark if two options are the same.

    Raises:
        MalformedRow: If the value is none of these.
        UnusableRow: If the letters are not in order, or there are too few or too many options, or an empty one.
    """
    options = [one_line(text) for text in without_letters(_texts(value))]
    if not 2 <= len(options) <= len(LETTERS):
        raise UnusableRow(f"fewer than 2 or more than {len(LETTERS)} options")
    if not all(options):
        raise UnusableRow("empty option")
    if len({option.casefold() for option in options}) < len(options):
        notes.append(SAME_TEXT)
    return options


def letter_of(answer: Any, options: Sequence[str]) -> str:
    """Return the letter that an answer stands for: a letter, the text of one option, or an index from 0.

    Raises:
        UnusableRow: If it stands for no option, or might stand for two.
    """
    text = one_line(str(answer)) if not isinstance(answer, bool) else ""
    bare = text.strip("()[].: ")
    if len(bare) == 1 and bare.upper() in LETTERS[: len(options)]:
        return bare.upper()
    same = [place for place, option in enumerate(options) if option.casefold() == text.casefold()]
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(options):
        if same and same != [answer]:
            raise UnusableRow("answer is the number of one option and the text of another")
        return LETTERS[answer]
    if len(same) != 1:
        raise UnusableRow("answer is not the letter of an option")
    return LETTERS[same[0]]


def without_letters(lettered: Sequence[str]) -> list[str]:
    """Remove the letters in front of options: "A)1", "A ) 1", "(A) 1", "A. 1", "A: 1".

    Raises:
        UnusableRow: If the letters are not in order.
    """
    labels = [_LABEL.match(text) for text in lettered]
    if lettered and all(labels):
        letters = [label[1].upper() for label in labels if label is not None]
        if letters != list(LETTERS[: len(letters)]):
            raise UnusableRow("options not lettered in order")
        return [_without(text, letter) for text, letter in zip(lettered, letters, strict=True)]
    for own, text in zip(LETTERS, lettered, strict=False):
        label = _BRACKET.match(text)
        if label is not None and label[1] != own:
            raise UnusableRow("options not lettered in order")
    return [
        re.sub(rf"^(?:\s*\(?{own}\s?\))+", "", text) if own != " " else text
        for own, text in zip(LETTERS.ljust(len(lettered)), lettered, strict=False)
    ]


def _without(text: str, letter: str) -> str:
    """Remove a letter that stands in front of an option, once or several times."""
    label = _LABEL.match(text)
    while label is not None and label[1].upper() == letter:
        text = text[label.end() :]
        label = _LABEL.match(text) if _BRACKET.match(text) else None
    return text


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        inner = list_in_text(value)
        if inner is not None:
            return _texts(inner)
        starts = list(_IN_TEXT.finditer(value))
        letters = "".join(start[1].upper() for start in starts)
        if not starts or letters != LETTERS[: len(letters)] or value[: starts[0].start()].strip():
            raise MalformedRow(f'"options" must be a list of texts, or "A) one B) two", not {shown(value)}')
        ends = [*(start.start() for start in starts[1:]), len(value)]
        return [value[start.end() : end].strip(" ,;|\n") for start, end in zip(starts, ends, strict=True)]
    if isinstance(value, Mapping):
        if value.keys() == {"label", "text"}:
            labels, texts = texts_in(value["label"], "options"), texts_in(value["text"], "options")
            if len(labels) != len(texts):
                raise MalformedRow(f'"options" have {len(labels)} labels and {len(texts)} texts')
            value = dict(zip(labels, texts, strict=True))
        letters = [str(letter).upper() for letter in value]
        if letters != list(LETTERS[: len(letters)]):
            raise UnusableRow("options not lettered in order")
        return texts_in(list(value.values()), "options")
    if isinstance(value, list | tuple):
        numbers = (int, float)
        value = [
            number_text(each) if isinstance(each, numbers) and not isinstance(each, bool) and isfinite(each) else each
            for each in value
        ]
    return texts_in(value, "options")
