"""Finds the letter of the option that a text chooses."""

from __future__ import annotations

import re

from lrd_peft.data.problem import LETTERS
from lrd_peft.evaluation.answer_phrases import (
    Statement,
    boxed_answers,
    is_heading,
    marked_answer,
    tagged_answer,
    without_run_on,
)
from lrd_peft.evaluation.math_text import plain_characters

_LOWER = LETTERS.lower()
_OPENING = r"(?:\\(?:boxed|text|textbf|textrm|mathrm|mathbf|mbox|fbox)\s?\{|\\[(\[]|[\s*_`\"'$({\[<]){0,8}"
# A small letter needs a bracket, a stop or the end of the line behind it: "a pear" is no option.
_LETTER = rf"{_OPENING}(?:([{LETTERS}])(?![A-Za-z0-9'])|([{_LOWER}])(?=\s*(?:[)\]}}*$.:,\"'`>\n]|\Z)))"
_WHOLE = re.compile(rf"(?:option|choice|letter)?\s*{_LETTER}[\s)\]}}*_`\"'$.:>\\]{{0,8}}", re.IGNORECASE)
_LEADING = re.compile(
    rf"[\s*_`\"']{{0,8}}(?:[(\[]([{LETTERS}{_LOWER}])[)\]]|([{LETTERS}{_LOWER}])\)|([{LETTERS}])[*_]{{0,2}}(?:[.:!]|,(?!\s*[A-E]\b)|\s*(?:\n|\Z)))"
)
_FILLER = (
    r"(?:[\s*_]{0,4}(?:\b(?:is|are|be|was|should|must|would|will|has|to|option|options|choice|letter|answer|number|the|"
    r"therefore|thus|clearly|definitely|indeed|hence|so|then|with|for)\b|[:=\uff1a,.\u2013-]|是|为|选))"
)
_CHOSEN = re.compile(
    rf"(?:\b(?i:answers?|ans|(?:correct|right|best|final|only)\s+(?:option|choice|letter|one)|choose|chose|pick|picked|"
    rf"select|selected|(?:go|going|went)\s+with|options?\s+is|choices?\s+is)\b|答案|选项|选择?)"
    rf"(?i:\s+(?:to|of|for|among|from)\b[^.\n]{{0,60}}?(?=\s(?:is|are)\b))?(?i:{_FILLER}){{0,6}}{_LETTER}"
)
_CONFIRMED = re.compile(
    rf"(?:(?<![A-Za-z0-9])([{LETTERS}])\b|\(([{_LOWER}])\)|\b(?i:option|choice)\s([{_LOWER}])\b)[)\]*_.]{{0,3}}\s+(?i:is|as|must\s+be|seems|would\s+be)\s+"
    rf"(?i:(?:clearly|indeed|therefore|thus|definitely)\s+)?(?i:the\s+)?"
    rf"(?i:correct|right|best\s+(?:answer|option|choice)|final\s+answer|answer|one\s+that)\b"
)
_CORRECTED = re.compile(rf"(?i:\b(?:it\s+is|it's|but|rather|instead)\b)(?i:{_FILLER}){{0,4}}{_LETTER}")
_DENIED = re.compile(
    rf"(?i:\b(?:not|(?:do|does|did)(?:n't|\s+not)\s+(?:think|believe)\s+(?:it(?:'s|\s+is)|that)|cannot\s+be|can't\s+be|isn't|neither|nor|rather\s+than|instead\s+of|except|eliminate|exclude|"
    rf"rule\s+out|rules\s+out|discard|reject)\b)(?i:{_FILLER}){{0,4}}{_LETTER}[)\]}}*]{{0,3}}"
)
_WRONG = re.compile(
    rf"(?i:\b(?:option|choice|answer)\b\s*)?{_LETTER}[)\]}}*]{{0,3}}\s+(?i:is|was|are|looks|seems|cannot|can't|isn't)\s?"
    rf"(?i:not|wrong|incorrect|false|too|be|impossible|eliminated|out)\b(?!\s+(?:far|hard))"
)
_ALTERNATIVE = re.compile(
    rf"[)\]*]{{0,3}}\s*(?i:\bor\b|/|\band\b(?=\W{{0,4}}[{LETTERS}]\W{{0,4}}(?:\n|\Z)))(?i:{_FILLER}){{0,3}}{_LETTER}"
)
_CONCLUDED = re.compile(
    rf"\b(?i:it\s+(?:is|must\s+be|has\s+to\s+be|should\s+be)|it's|therefore|thus|hence|so),?\s+{_OPENING}([{LETTERS}])"
    rf"[)\]*\"'`]{{0,4}}(?=\s*(?:\Z|\n|[.!]|,?\s(?:because|since|as)\b))"
)
_NAMED = re.compile(rf"(?i:\b(?:option|choice|letter)\b)\s*[:=]?\s*{_LETTER}")
_BRACKETED = re.compile(rf"(?<![A-Za-z0-9])[(\[]?([{LETTERS}])[)\]]|[(\[]([{_LOWER}])[)\]]")
_CONCLUDING = re.compile(
    r"\b(?:so|thus|hence|therefore|matches|corresponds?|conclude|which\s+is|it\s+is|this\s+is|that\s+is)\b",
    re.IGNORECASE,
)


def option_answer(text: str) -> Statement:
    """Find the chosen letter: after a marker, in a box, as stated, or the only one named."""
    text = plain_characters(without_run_on(text))
    marked = marked_answer(
        text, whole_option, _marked_option, lambda line: is_heading(line) and _leading_option(line) is None
    )
    if marked is not None and marked.value is not None:
        return marked
    if boxes := boxed_answers(text):
        letters = {letter for letter in map(_leading_option, boxes) if letter is not None}
        if letters:
            return Statement(letters.pop() if len(letters) == 1 else None)
    tagged = tagged_answer(text)
    if tagged is not None and (letter := _leading_option(tagged)) is not None:
        return Statement(letter)
    return Statement(_stated_option(text))


def whole_option(text: str) -> str | None:
    """Return the letter of a text that is only a letter, in brackets or not."""
    match = _WHOLE.fullmatch(text.strip()) if len(text) < 60 else None
    return _letter(match) if match is not None else None


def _leading_option(text: str) -> str | None:
    letter = whole_option(text)
    if letter is not None:
        return letter
    text = re.sub(r"\\(?:text|textbf|textrm|mathrm|mathbf|mbox)\s?\{([^{}]*)\}", r"\1 ", text).lstrip()
    match = _LEADING.match(text) or re.match(rf"()()([{LETTERS}])(?=\s+[-$0-9\\])", text)
    return _letter(match) if match is not None else None


def _marked_option(line: str) -> Statement | None:
    letter = _leading_option(line) or _stated_option(line)
    return Statement(letter) if letter is not None else None


def _stated_option(text: str) -> str | None:
    kept = _DENIED.sub(_blank, text)
    strong = [match for pattern in (_CHOSEN, _CONFIRMED) for match in pattern.finditer(kept)]
    if len(kept) != len(text) or kept != text:
        strong += list(_CORRECTED.finditer(kept))
    strong = [match for match in strong if _WRONG.match(kept, _letter_at(match)) is None]
    if strong:
        last = max(strong, key=_letter_at)
        return None if _ALTERNATIVE.match(kept, last.end()) else _letter(last)
    kept = _WRONG.sub(_blank, kept)
    leading = _leading_option(kept)
    if leading is not None and len(set(map(_letter, _BRACKETED.finditer(kept))) - {leading}) == 0:
        return leading
    for pattern in (_NAMED, _CONCLUDED, _BRACKETED):
        found = list(pattern.finditer(kept))
        if not found:
            continue
        letters = {_letter(match) for match in found}
        if len(letters) == 1 or (not _is_listing(found) and _concludes(kept, found[-1])):
            return _letter(found[-1])
        return None
    lines = kept.strip().splitlines()
    return whole_option(lines[-1]) if lines else None


def _concludes(text: str, match: re.Match[str]) -> bool:
    start = max(text.rfind(sign, 0, match.start()) for sign in (". ", "\n", "? ", "! ", ", ")) + 1
    return _CONCLUDING.search(text, start, match.start()) is not None


def _is_listing(found: list[re.Match[str]]) -> bool:
    """Return whether the letters stand in order at the end, as in "(A) 1 (B) 2 (C) 3"."""
    letters = "".join(_letter(match) or "" for match in found)
    return len(letters) > 2 and letters[-3:] in LETTERS


def _letter(match: re.Match[str]) -> str | None:
    found = next((group for group in match.groups() if group), None)
    return found.upper() if found else None


def _letter_at(match: re.Match[str]) -> int:
    return next(match.start(index) for index, group in enumerate(match.groups(), start=1) if group)


def _blank(match: re.Match[str]) -> str:
    return " " * len(match.group())
