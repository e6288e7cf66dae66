"""Finds answers in words: a text that must match exactly, and yes or no."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lrd_peft.data.gold import normalized_text, parse_boolean
from lrd_peft.evaluation.answer_phrases import PHRASE, Statement, boxed_answers, phrases, tagged_answer, without_run_on

_MARKED = re.compile(r"#{3,}[ \t]*\n?([^\n#]*)")
# Headings of chat models are no answers.
_HEADING = re.compile(
    r"(?:final\s+)?(?:solution|answer|step|steps|reasoning|explanation|analysis|conclusion)\s*[0-9]{0,3}\s*:?",
    re.IGNORECASE,
)
_TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|textbf|mbox)\{([^{}]*)\}")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_LEADING = re.compile(
    r"\W{0,8}(yes|no|true|false)(?=\W*(?:$|[,.;:!\u2013\u2014-]|because\b|since\b|as\b))", re.IGNORECASE
)
_STATED = re.compile(
    r"\b(?:is|are|was|be|therefore|thus|hence|so|answer)\b[\s:,*_\"'(]{1,6}(?:the\s+answer\s+is\s+)?"
    r"(not\s+)?(yes|no|true|false)\b(?=\W*(?:$|[.,;!)\n]))",
    re.IGNORECASE,
)
_MAX_SENTENCES = 200  # at the end of a text


def text_answer(text: str) -> Statement:
    """Find an answer in words: after a marker, in a box or tag, after "the answer is", or else the last sentence."""
    text = without_run_on(text)
    for line in _marked_lines(text):
        return Statement(line, strict=True)
    return next(_stated(text), None) or Statement(next(_last_sentences(text), None))


def boolean_answer(text: str) -> Statement:
    """Find "yes" or "no": after a marker, in a box or tag, after "the answer is", or else in the last sentences."""
    text = without_run_on(text)
    for line in _marked_lines(text):
        whole = parse_boolean(line)
        return Statement(_word(_boolean_of(line) if whole is None else whole), strict=whole is not None)
    for statement in _stated(text):
        value = _boolean_of(statement.value or "")
        if value is not None:
            return Statement(_word(value))
    values = (_boolean_of(sentence) for sentence in _last_sentences(text))
    return Statement(_word(next((value for value in values if value is not None), None)))


def same_text(predicted: str, gold: str) -> bool:
    """Compare two answers in words, without case, spaces and outer punctuation."""
    return normalized_text(predicted) == normalized_text(gold)


def same_boolean(predicted: str, gold: str) -> bool:
    """Compare two truth values; "yes" and "true" are one."""
    value = parse_boolean(predicted)
    return value is not None and value == parse_boolean(gold)


def _marked_lines(text: str) -> Iterator[str]:
    """Yield the lines after the markers that are no headings."""
    for match in _MARKED.finditer(text):
        line = PHRASE.sub("", match[1], count=1) if PHRASE.match(match[1].strip()) else match[1]
        line = _plain(line)
        if line and not _HEADING.fullmatch(line):
            yield line


def _stated(text: str) -> Iterator[Statement]:
    boxes = boxed_answers(text)
    if boxes:
        yield Statement(_plain(boxes[-1]) if len(boxes) == 1 else None)
    tagged = tagged_answer(text)
    if tagged is not None:
        yield Statement(_plain(tagged))
    for sentence in phrases(text):
        if words := _plain(sentence):
            yield Statement(words)


def _last_sentences(text: str) -> Iterator[str]:
    sentences = [part for line in text.splitlines() for part in _SENTENCE_END.split(line)][-_MAX_SENTENCES:]
    return (words for sentence in reversed(sentences) if (words := _plain(sentence)))


def _plain(text: str) -> str:
    return _TEXT_COMMAND.sub(r"\1", text).strip().strip("*_`$").strip()


def _boolean_of(sentence: str) -> bool | None:
    """Return the truth value that a sentence states, or None."""
    value = parse_boolean(sentence)
    if value is not None:
        return value
    leading = _LEADING.match(sentence)
    if leading is not None:
        return parse_boolean(leading[1])
    stated = list(_STATED.finditer(sentence))
    if not stated:
        return None
    value = parse_boolean(stated[-1][2])
    return not value if stated[-1][1] else value


def _word(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"
