"""Finds where a text states its final answer: markers, boxes, tags, and phrases such as "the answer is"."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lrd_peft.data.gold import unbraced_box
from lrd_peft.evaluation.math_text import MAX_MATH_CHARS, bare_math, closing_brace

_MARKER = re.compile(r"#{3,}")
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_TAG = re.compile(r"<answer>", re.IGNORECASE)
_END_TAG = re.compile(r"</answer>", re.IGNORECASE)
_MAX_BOXES = 50  # at the end of a text
PHRASE = re.compile(
    r"\b(?:answers?|ans)\b[*_]{0,2}"
    r"(?:\s{0,4}(?:(?:to|of|for)\b[^.\n:=]{0,80}?\b)?(?:is|are|was|equals|(?:should|must|would|will)\s+be)\b|\s{0,4}[:=\uff1a]|\s{1,4}[-\u2013]\s|\.)"
    r"[*_]{0,2}\s{0,4}:?|"
    r"(?:^|\n)[#*_ ]{0,8}(?:final\s+)?answers?[*_: ]{0,4}(?=\n)|答案\s{0,4}(?:是|为)?\s{0,4}[:\uff1a]?",
    re.IGNORECASE,
)
_NEXT_PROBLEM = re.compile(
    r"^[ \t]*(?:#{1,6}[ \t]*)?\*{0,2}(?:Question|Problem|Exercise|Human|User|Instruction|Input|Q)\*{0,2}"
    r"[ \t]*[0-9]{0,4}\*{0,2}[ \t]*[:\uff1a.]|<\|(?:im_end|endoftext|eot_id|end)\|>",
    re.MULTILINE,
)
_END_TOKEN = re.compile(r"</s>|<\|[a-z_]{2,20}\|>|<(?:eos|pad|end_of_turn)>")
_SHORT_ANSWER = re.compile(r"\s*(?:[(\[*]{0,3}[A-E][)\].:*]{0,3}|[^\n]{0,40}[0-9][^\n]{0,40})\s*")
_ONLY_A_HEADING = re.compile(r"\W*(?:the\s+)?(?:final\s+|correct\s+)?answers?\W*", re.IGNORECASE)
_DENIAL = re.compile(r"not\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s|\*|$)")
_NUMBERED = re.compile(r"\*{0,2}[0-9]{1,2}[.):]\s+\*{0,2}[A-Za-z]")
_PROSE = re.compile(r"\*{0,2}[A-Za-z][A-Za-z'-]*\b(?![({])")
_BETWEEN_BOXES = re.compile(r"[\s$.,;&()\[\]\\]*(?:(?:and|or|\\text\{\s*(?:and|or)\s*\}|\\quad|\\qquad)[\s$,;\\(\[]*)?")
_NAMED = re.compile(r"[A-Za-z](?:_\{?[0-9A-Za-z]\}?)?\s*=\s*")
_OTHER_ONE = re.compile(r"[\s$\\)\]]*,?\s*(?:and|or)\s+(?:[A-Za-z]+\s+){0,5}(?:[$\\(\[\s]|[A-Za-z]\s*=)*")
_CONCLUSION = re.compile(r"\b(?:so|thus|hence|therefore|then|total|giving|gives)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Statement:
    """A stated answer.

    Attributes:
        value: The answer, or None if the statement has none that can be read.
        strict: Whether it is the whole line after a marker.
    """

    value: str | None
    strict: bool = False


def without_run_on(text: str) -> str:
    """Cut off what a model writes when it goes on with another problem after its answer."""
    if (end := _END_TOKEN.search(text, len(text) - len(text.lstrip()) + 1)) is not None:
        text = text[: end.start()]
    starts = [match.start() for pattern in (_MARKER, _BOX, _TAG, PHRASE) if (match := pattern.search(text))]
    first = _NEXT_PROBLEM.search(text)
    if first is not None and _SHORT_ANSWER.fullmatch(text, 0, first.start()):
        return text[: first.start()]
    if not starts:
        return text
    cut = next((match.start() for match in _NEXT_PROBLEM.finditer(text) if match.start() > min(starts)), None)
    return text if cut is None else text[:cut]


def marked_answer(
    text: str,
    whole: Callable[[str], str | None],
    within: Callable[[str], Statement | None],
    heading: Callable[[str], bool] | None = None,
) -> Statement | None:
    """Return the answer after the first marker that has one.

    Args:
        text: Text of the model.
        whole: Reads a line that is an answer and nothing else.
        within: Reads an answer in a line with more words; None if it holds none.
        heading: Whether a line is a heading; `is_heading` by default.

    Returns:
        The statement; None if there are only headings ("### Solution", followed by text).
    """
    heading = heading or is_heading
    for marker in _MARKER.finditer(text):
        line, _, rest = text[marker.end() :].partition("\n")
        line = line.strip()
        if not line:
            line = rest.lstrip().partition("\n")[0].strip()
            value = whole(line) if not is_heading(line) else None
            if value is not None:
                return Statement(value, strict=True)
            continue
        if _ONLY_A_HEADING.fullmatch(line):
            continue
        if PHRASE.match(line) or PHRASE.match(re.sub(r"^(?:(?:so|the|my|final|correct)\s+)+", "", line.lower())):
            stated = within(line)
            if stated is not None:
                return stated
            continue
        if _MARKER.match(line) or (heading(line) and rest.strip()):
            continue
        value = whole(line)
        if value is not None:
            return Statement(value, strict=True)
        stated = within(line)
        if stated is not None:
            return stated
        if not is_heading(line):
            return Statement(None)
    return None


def is_heading(line: str) -> bool:
    """Return whether a line begins with words, as headings do: "Solution", "Step 1: ...", "2. Compute ..."."""
    return bool(_NUMBERED.match(line)) or (bool(_PROSE.match(line)) and len(line.strip("*_ .:()")) > 1)


def boxed_answers(text: str) -> list[str]:
    r"""Return the contents of the last group of \boxed{...}. Boxes joined by commas or "and" are one list."""
    groups: list[list[str]] = []
    end = None
    for start, content, after in _boxes(text):
        joined = end is not None and _are_joined(text[end:start])
        if joined and groups:
            if content not in groups[-1]:
                groups[-1].append(content)
        else:
            groups.append([content])
        end = after
    return groups[-1] if groups else []


def tagged_answer(text: str) -> str | None:
    """Return the content of the last <answer> tag, or None."""
    tags = list(_TAG.finditer(text))
    if not tags:
        return None
    rest = text[tags[-1].end() :][: 2 * MAX_MATH_CHARS]
    end = _END_TAG.search(rest)
    return (rest[: end.start()] if end is not None else rest).strip() or None


def phrases(text: str) -> Iterator[str]:
    """Yield what the sentences after "the answer is" say, the last one first."""
    for match in reversed(list(PHRASE.finditer(text))[-50:]):
        yield sentence_at(text, match.end())


def sentence_at(text: str, start: int) -> str:
    """Return the sentence that begins at an index, or the paragraph or displayed formula below it."""
    rest = text[start : start + 4 * MAX_MATH_CHARS].lstrip(" \t*_")
    if rest.startswith("\n"):
        rest = rest.lstrip()
    rest = rest.lstrip(":\uff1a \t")
    for left, right in ((r"\[", r"\]"), ("$$", "$$"), (r"\(", r"\)"), ("$", "$")):
        if rest.startswith(left) and (close := rest.find(right, len(left))) > 0:
            tail = rest[close + len(right) :].partition("\n")[0]
            return rest[: close + len(right)] + _first_sentence(tail)
    line = rest.partition("\n")[0]
    if _DENIAL.match(line):
        first = _first_sentence(line)
        return first + " " + _first_sentence(line[len(first) :].lstrip(" .!"))
    if r"\begin{" in line and r"\end{" not in line and (close := rest.find(r"\end{")) > 0:
        line = rest[: rest.find("}", close) + 1]
    return _first_sentence(line)


def _first_sentence(line: str) -> str:
    dollars = 0
    at = 0
    for end in _SENTENCE_END.finditer(line):
        dollars += line.count("$", at, end.start())
        at = end.start()
        if dollars % 2 == 0 or "$" not in line[at:]:
            return line[:at].strip()
    return line.strip()


def _boxes(text: str) -> Iterator[tuple[int, str, int]]:
    """Yield start, content and end of each closed box."""
    for match in list(_BOX.finditer(text))[-_MAX_BOXES:]:
        at = match.end()
        if text[at : at + 1] == "{":
            window = text[at : at + MAX_MATH_CHARS + 10]
            close = closing_brace(window, 0)
            if close is None:
                continue
            content = bare_math(window[1:close])
            at += close + 1
        else:
            token, at = unbraced_box(text, at)
            content = bare_math(token)
        if content is not None:
            yield match.start(), content, at


def _are_joined(between: str) -> bool:
    if not between.strip():
        return True
    if len(between) > 60 or "\n\n" in between.strip(" "):
        return False
    bare = _NAMED.sub("", between)
    if _BETWEEN_BOXES.fullmatch(bare):
        return True
    return bool(_OTHER_ONE.fullmatch(bare)) and not _CONCLUSION.search(bare)
