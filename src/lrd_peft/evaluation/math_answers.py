r"""Finds the answer of a mathematical text: a line after a marker, boxes, a stated answer, or the last formula."""

from __future__ import annotations

import re

from lrd_peft.evaluation.answer_phrases import (
    Statement,
    boxed_answers,
    is_heading,
    marked_answer,
    phrases,
    tagged_answer,
    without_run_on,
)
from lrd_peft.evaluation.math_text import bare_math, plain_characters
from lrd_peft.evaluation.number_answers import last_number

_SPAN = re.compile(
    r"\$\$([^$]{1,1000})\$\$|\$([^$]{1,1000})\$|\\\(((?:[^\\]|\\(?![)(])){1,1000})\\\)|\\\[((?:[^\\]|\\(?![\[\]])){1,1000})\\\]"
)
_JOINING = re.compile(r"\s*(?:,|;|and|or|,\s*and|,\s*or)\s*", re.IGNORECASE)
_CLAUSE_END = re.compile(
    r",?\s+(?:because|since|which|where|as|when|if|assuming|given|so|not|rather than|instead of)\b"
    r"|,\s+(?:so|but|and)\s+[a-z]{2,}",
    re.IGNORECASE,
)
_SUBJECT = re.compile(
    r"^[A-Za-z].{0,200}?(?:\b(?:is|are|equals|be|was)\b(?:\s+(?:equal to|exactly|therefore|thus|also|then))?|:)\s*"
)
_CORRECTED = re.compile(r"^\s*not\b.{0,80}?(?:\bbut\b|\bit is\b|\bit's\b|\brather\b)\s*", re.IGNORECASE)
_APPROXIMATELY = re.compile(
    r"^(?:(?:approximately|about|roughly|around|exactly|simply|just|only|therefore|thus|clearly|equal to|"
    r"the (?:value|number))\s+)+",
    re.IGNORECASE,
)
_NOUN = re.compile(r"^(?:the|an?)\s+(?:(?!of\b|is\b|are\b)[a-z]+\s+){1,3}(?=[(\[{$\\0-9-])", re.IGNORECASE)
_MODULUS = re.compile(r"\(\s*mod(?:ulo)?\s+[0-9A-Za-z]+\s*\)")
_LIST = re.compile(r"\s+(?:and|or)\s+(?:[A-Za-z]\s*=\s*)?", re.IGNORECASE)
_CHUNK = re.compile(r"(?:[0-9]{1,30} (?=[0-9]{1,30}/[0-9]))?\S+")
_HAS_VALUE = re.compile("[0-9\u00bc-\u00be\u2150-\u215e\u221e\u03c0]|" + r"\\(?:pi|infty)(?![A-Za-z])")
_FORMULA = re.compile(
    r"(?:[0-9.,^_{}()\[\]+*/=|!<>%$-]|\\[A-Za-z]+ ?|\\[%$]|(?<![A-Za-z])[A-Za-z]{1,2}(?![A-Za-z])|(?<=[0-9])[a-z]{2,})*"
)


def math_answer(text: str) -> Statement:
    """Find the answer of a text."""
    text = without_run_on(text)
    marked = marked_answer(text, bare_math, _stated)
    if marked is not None:
        return marked
    boxes = boxed_answers(text)
    if boxes:
        return Statement(bare_math(", ".join(boxes)))
    tagged = tagged_answer(text)
    if tagged is not None:
        return Statement(bare_math(tagged))
    for sentence in phrases(text):
        stated = _stated(sentence)
        if stated is not None:
            return stated
    return Statement(_last_formula(text))


def _stated(sentence: str) -> Statement | None:
    """Read the value that a sentence states, or None if it states none."""
    sentence = _APPROXIMATELY.sub("", _CORRECTED.sub("", sentence).strip())
    if re.match(r"not\b", sentence, re.IGNORECASE):
        return None
    bold = re.match(r"\*\*(.+?)\*\*", sentence)
    if bold is not None:
        sentence = bold[1]
    sentence = _NOUN.sub("", sentence).strip("*_`")
    if not sentence:
        return None
    if (span := _SPAN.match(sentence)) is not None:
        return Statement(bare_math(_spans_from(sentence, span)))
    end = _CLAUSE_END.search(sentence)
    if end is not None and end.start() > 0:
        sentence = sentence[: end.start()]
    if is_heading(sentence):
        subject = _SUBJECT.match(sentence)
        if subject is not None and sentence[subject.end() :].strip():
            return _stated(sentence[subject.end() :])
        if (span := _SPAN.search(sentence)) is not None:
            return Statement(bare_math(_spans_from(sentence, span)))
        chunks = _chunks(sentence)
        if chunks and len(sentence.split()) > 4:
            return Statement(chunks[-1][2])
        if len(sentence.split()) > 12:
            return None
    value = bare_math(sentence)
    return None if value is None else Statement(value)


def _spans_from(text: str, span: re.Match[str]) -> str:
    """Return a formula and those that follow it as a list: "$5$ and $6$" is "5, 6"."""
    values = [_content(span)]
    while (joint := _JOINING.match(text, span.end())) is not None:
        following = _SPAN.match(text, joint.end())
        if following is None:
            break
        values.append(_content(following))
        span = following
    unit = re.match(r"\s?(?:%|\\%)", text[span.end() :])
    return ", ".join(values) + ("%" if unit else "")


def _content(span: re.Match[str]) -> str:
    return next(group for group in span.groups() if group is not None).strip()


def _last_formula(text: str) -> str | None:
    """Return the last formula between dollars or outside of them, whichever is later."""
    spans = list(_SPAN.finditer(text))
    end = spans[-1].end() if spans else 0
    text_behind = text[end:]
    chunks = _chunks(text_behind)
    if chunks:
        values = [chunks[-1][2]]
        for earlier, later in zip(chunks[-2::-1], chunks[:0:-1], strict=False):
            is_listed = len(values) > 1 and text_behind[earlier[0] : earlier[1]].endswith(",")
            if not (is_listed or _LIST.fullmatch(text_behind, earlier[1], later[0])):
                break
            values.insert(0, earlier[2])
        return ", ".join(values)
    if not spans:
        return last_number(text)
    first = spans[-1]
    for earlier in reversed(spans[:-1]):
        if _JOINING.fullmatch(text, earlier.end(), first.start()) is None:
            break
        first = earlier
    return bare_math(_spans_from(text, first)) or last_number(text)


def _chunks(text: str) -> list[tuple[int, int, str]]:
    """Return start, end and value of the formulas with a number that stand between spaces."""
    text = _MODULUS.sub(lambda modulus: " " * len(modulus[0]), text)
    found: list[tuple[int, int, str]] = []
    for match in [match for match in _CHUNK.finditer(text) if _HAS_VALUE.search(match.group())][-20:]:
        shown = plain_characters(match.group().strip("*_`\"'?:;,").rstrip(".!"))
        if shown.startswith("(") != shown.endswith(")") and shown.count("(") != shown.count(")"):
            shown = shown.strip("()")
        is_formula = _is_balanced(shown) and _FORMULA.fullmatch(shown.replace(" ", ""))
        value = bare_math(shown) if is_formula else last_number(match.group())
        if value is not None:
            found.append((match.start(), match.end(), value))
    return found


def _is_balanced(text: str) -> bool:
    return len(text) < 200 and text.count("{") == text.count("}") and "\\boxed" not in text
