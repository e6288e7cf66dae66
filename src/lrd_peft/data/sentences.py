r"""Splits solution texts into sentences and finds boxed answers."""

from __future__ import annotations

import re

from lrd_peft.data.gold import unbraced_box

# Spans without sentence boundaries; the first match wins: escaped characters (so that `\$` opens nothing), display and
# inline mathematics, environments, Asymptote figures.
_OPAQUE = re.compile(
    r"\[asy\].*?\[/asy\]"
    r"|\$\$.*?\$\$"
    r"|\\\[.*?\\\]"
    r"|\\\(.*?\\\)"
    r"|\\begin\{(?P<env>[A-Za-z]+\*?)\}.*?\\end\{(?P=env)\}"
    r"|\\[^A-Za-z\s]"
    r"|\$(?:\\.|[^$\\])*\$",
    re.DOTALL,
)
_FIGURE = re.compile(r"\[asy\].*?\[/asy\]", re.DOTALL)
_ABBREVIATION = re.compile(r"(?:^|[\s(~])(?:i\.e|e\.g|etc|vs|cf|Eq|Eqs|Fig|No|Dr|Mr|Mrs|Ms|St|Rs)\.$")
_END = re.compile(r"[.!?][\"')\]]*$")
_GAP = re.compile(r"\s+")
_LABEL = re.compile(r"\s*\(?\w{1,2}[.)]\s*")
# A sentence starts with anything but a lower-case letter or a punctuation mark.
_OPENING = re.compile(r"[^a-z\s.,;:!?)\]}]")
_BOXED = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")


def one_line(text: str) -> str:
    """Replace every run of white space by one space."""
    return " ".join(text.split())


def split_sentences(text: str, *, latex: bool) -> list[str]:
    r"""Split a solution into sentences, each on one line.

    Blank lines always end a sentence.

    Args:
        text: The solution.
        latex: Treat the text as LaTeX: mathematics is not split, a period just inside the closing delimiter ends a
            sentence (`so $x = 3.$ Hence ...`), and Asymptote figures are removed. Otherwise `$` is a currency sign.

    Returns:
        The sentences.
    """
    if latex:
        text = _FIGURE.sub("\n\n", text)
    parts: list[str] = []
    for paragraph in _paragraphs(text, latex=latex):
        start = 0
        for cut in _boundaries(paragraph, latex=latex):
            parts.append(paragraph[start:cut])
            start = cut
        parts.append(paragraph[start:])
    return [sentence for part in parts if (sentence := one_line(part))]


def last_boxed(solution: str) -> str | None:
    r"""Return the content of the last `\boxed{...}` including nested braces, or None.

    `\fbox{...}` counts too, and `\boxed 7` boxes the single token after it. A box that is not closed is ignored.
    """
    found: str | None = None
    for match in _BOXED.finditer(solution):
        content = _group(solution, match.end())
        if content is not None:
            found = content
    return found


def _group(text: str, start: int) -> str | None:
    if start >= len(text):
        return None
    if text[start] != "{":
        return unbraced_box(text, start)[0] or None
    depth, position = 0, start
    while position < len(text):
        if text[position] == "\\":
            position += 1  # an escaped brace does not group
        elif text[position] == "{":
            depth += 1
        elif text[position] == "}":
            depth -= 1
            if depth == 0:
                return text[start + 1 : position].strip()
        position += 1
    return None


def _spans(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in _OPAQUE.finditer(text)]


def _paragraphs(text: str, *, latex: bool) -> list[str]:
    spans = _spans(text) if latex else []
    parts: list[str] = []
    start = 0
    for gap in re.finditer(r"\n\s*\n", text):
        if not any(left < gap.start() < right for left, right in spans):
            parts.append(text[start : gap.start()])
            start = gap.end()
    return [*parts, text[start:]]


def _boundaries(text: str, *, latex: bool) -> list[int]:
    """Return the positions at which one sentence ends and the next starts."""
    spans = _spans(text) if latex else []
    closes = {right: text[left:right] for left, right in spans}
    cuts: list[int] = []
    # Candidates are gaps, and the ends of displayed mathematics, which often have no gap after them.
    candidates = {gap.span() for gap in _GAP.finditer(text)}
    candidates |= {(end, end) for end, span in closes.items() if span.startswith(("\\[", "$$", "\\begin"))}
    for left, right in sorted(candidates):
        inside = any(a < left < b for a, b in spans)
        if inside or left == 0 or right == len(text) or not _OPENING.match(text[right:]):
            continue
        alone = _LABEL.fullmatch(text[cuts[-1] if cuts else 0 : left])  # the "1." of a list is not a sentence
        if not alone and _ends_sentence(text[:left], closes.get(left)):
            cuts.append(right)
    return cuts


def _ends_sentence(before: str, span: str | None) -> bool:
    if span is not None:
        content = re.sub(r"(?:\$\$?|\\\]|\\\)|\\end\{[A-Za-z]+\*?\})$", "", span).rstrip()
        return content.endswith((".", "!", "?")) and not content.endswith((r"\.", "..."))
    tail = before[-12:]
    return bool(_END.search(tail)) and not _ABBREVIATION.search(tail)
