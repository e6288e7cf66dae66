r"""Rewrites the spellings of a mathematical answer (Unicode, Markdown, LaTeX and ASCII) into one LaTeX spelling."""

# ruff: noqa: RUF001  (the ambiguous characters are what this module is about)
from __future__ import annotations

import re

MAX_MATH_CHARS = 1_000
# Private characters around the words of \\text{...}, which are no variables.
TEXT_BEGINS, TEXT_ENDS = "\ue000", "\ue001"

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "0123456789+-()ni", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙ", "0123456789+-()n", strict=True))
_FRACTIONS = {
    **{"½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5), "⅗": (3, 5)},
    **{"⅘": (4, 5), "⅙": (1, 6), "⅚": (5, 6), "⅐": (1, 7), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8), "⅞": (7, 8)},
    **{"⅑": (1, 9), "⅒": (1, 10)},
}
_SYMBOLS = {
    **{"∞": r"\infty ", "±": r"\pm ", "∓": r"\mp ", "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "÷": r"\div "},
    **{"≤": r"\leq ", "≥": r"\geq ", "⩽": r"\leq ", "⩾": r"\geq ", "≠": r"\neq ", "∪": r"\cup ", "∩": r"\cap "},
    **{"∈": r"\in ", "∅": r"\emptyset ", "°": r"^{\circ}", "º": r"^{\circ}", "π": r"\pi ", "θ": r"\theta "},
    **{"α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ", "μ": r"\mu ", "ω": r"\omega "},
    **{"φ": r"\phi ", "σ": r"\sigma ", "δ": r"\delta ", "Δ": r"\Delta ", "…": r"\ldots ", "⁄": "/", "∕": "/"},
    **{"−": "-", "‐": "-", "‑": "-", "‒": "-", "–": "-", "—": "-", "﹣": "-", "－": "-"},
    **{"′": "'", "’": "'", "∠": r"\angle "},
    **{"⟨": r"\langle ", "⟩": r"\rangle ", "“": '"', "”": '"', "⇒": r"\Rightarrow ", "→": r"\to ", "∗": "*"},
}
_SPACES = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_NOTHING = "\u200b\u200c\u200d\u2060\ufeff\u00ad"
_CHARACTERS = str.maketrans(
    {
        **_SYMBOLS,
        **{sign: rf"\frac{{{top}}}{{{bottom}}}" for sign, (top, bottom) in _FRACTIONS.items()},
        **dict.fromkeys(_SPACES, " "),
        **dict.fromkeys(_NOTHING, ""),
        **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},
    }
)
_ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}

_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_MARKDOWN = (("**", "**"), ("__", "__"), ("`", "`"), ("*", "*"))
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|mbox|hbox|math(?:bf|rm|it|sf|tt|cal)|boldsymbol|bm|underline|operatorname\*?)"
    r"\s*\{([^{}]*)\}"
)
_LAYOUT = re.compile(
    r"\\(?:left|right|bigg?[lrm]?|Bigg?[lrm]?|displaystyle|textstyle|scriptstyle|limits|rm|bf|it|cal|quad|qquad"
    r"|enspace|thinspace|nobreak|hfill|newline)(?![A-Za-z])"
)
_MEASURED = re.compile(r"\\[hv]?(?:space|phantom|skip)\*?\{[^{}]*\}")
_THOUSANDS = re.compile(
    r"(?<![0-9.])[0-9]{1,3}(?:(?:,|\{,\})(?:\\!\s*)[0-9]{3}|(?:,|\{,\}|\\[,;:> ]|~| )[0-9]{3})+(?![0-9])"
)
_NOT_DIGITS = re.compile(r"[^0-9]+")
_ASCII = {
    **{"sqrt": r"\sqrt", "infinity": r"\infty", "inf": r"\infty", "pi": r"\pi", "<=": r"\leq ", ">=": r"\geq "},
    **{"!=": r"\neq ", "+/-": r"\pm ", "+-": r"\pm ", "theta": r"\theta"},
}
_ASCII_WORDS = re.compile(r"(?<![A-Za-z\\])(sqrt|infinity|inf|pi|theta)(?![A-Za-z])|<=|>=|!=|\+/-|\+-(?=\s*[0-9\\])")
_SAME = {
    **{r"\le": r"\leq", r"\ge": r"\geq", r"\leqslant": r"\leq", r"\geqslant": r"\geq", r"\ne": r"\neq"},
    **{r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\cfrac": r"\frac", r"\dbinom": r"\binom", r"\tbinom": r"\binom"},
    **{r"\dots": r"\ldots", r"\cdots": r"\ldots", r"\lbrace": r"\{", r"\rbrace": r"\}", r"\lbrack": "["},
    **{r"\rbrack": "]", r"\colon": ":", r"\lt": "<", r"\gt": ">", r"\varnothing": r"\emptyset", r"\ast": "*"},
    **{r"\land": r"\wedge", r"\lvert": "|", r"\rvert": "|", r"\vert": "|", r"\degree": r"^{\circ}"},
    **{r"\degrees": r"^{\circ}"},
}
_END_OF_VALUE = r"(?=\s*(?:$|[,;)\]=<>]|\\\}|\\leq|and\b|or\b))"
_CURRENCY = re.compile(r"(?<![0-9A-Za-z])(-?)\s*\\?[$€£]\s*(-?[0-9][0-9,]*(?:\.[0-9]+)?)" + _END_OF_VALUE)
_CIRCLE = r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))"
_TRIGONOMETRY = re.compile(r"\\(sin|cos|tan|cot|sec|csc)\s*[({]*\s*([0-9]+(?:\.[0-9]+)?)\s*" + _CIRCLE + r"\s*[)}]*")
_CHOOSE = re.compile(r"\{\s*([^{}\\]+?)\s*\\choose\s*([^{}\\]+?)\s*\}")
_ORDINAL = re.compile(rf"(?<=[0-9])\s*\^?\s*\{{?\s*{TEXT_BEGINS}?(?:st|nd|rd|th){TEXT_ENDS}?\s*\}}?(?![A-Za-z])")
_REPEATING = re.compile(r"([0-9]*)\.([0-9]{0,20})\\overline\s*\{([0-9]{1,20})\}")
_SCIENTIFIC = re.compile(r"(?<![A-Za-z0-9.])([0-9]+(?:\.[0-9]+)?)[eE]([+-]?[0-9]{1,3})(?![0-9A-Za-z.])")
_DEGREES = re.compile(_CIRCLE + _END_OF_VALUE)
_PERCENT = re.compile(r"\\?%" + _END_OF_VALUE)
_LOST_UNITS = re.compile(_CIRCLE + r"|\\?[%$]|[€£]")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_MATRIX = re.compile(r"\\(?:begin|end)\{[A-Za-z*]+\}")


def bare_math(text: str) -> str | None:
    """Remove delimiters, emphasis and the final period around an answer. Return None if it is empty or too long."""
    text = text.strip()
    if len(text) > MAX_MATH_CHARS:
        return None
    while True:
        inner = text
        for left, right in (*_DELIMITERS, *_MARKDOWN):
            if len(inner) > len(left) + len(right) and inner.startswith(left) and inner.endswith(right):
                core = inner[len(left) : -len(right)]
                if left not in core and right not in core:
                    inner = core.strip()
        if inner.endswith((".", ",", ";", ":")) and not inner.endswith((r"\left.", r"\right.", r"\,", r"\;", r"\:")):
            inner = inner[:-1].strip()
        for name in (r"\boxed{", r"\fbox{"):
            if inner.startswith(name) and inner.endswith("}") and closing_brace(inner, len(name) - 1) == len(inner) - 1:
                inner = inner[len(name) : -1].strip()
        if inner == text:
            return None if not text or text in ("$", "*", "`", "**", "__", "$$", r"\(", r"\[") else text
        text = inner


def closing_brace(text: str, start: int) -> int | None:
    """Return the index of the brace that closes the one at `start`, or None."""
    depth, at = 0, start
    while at < len(text):
        if text[at] == "\\":
            at += 1  # \{ and \} do not group
        elif text[at] == "{":
            depth += 1
        elif text[at] == "}":
            depth -= 1
            if depth == 0:
                return at
        at += 1
    return None


def plain_characters(text: str) -> str:
    """Rewrite Unicode mathematics, spaces and full-width characters as ASCII LaTeX."""
    if text.isascii():
        return text
    text = re.sub(f"[{''.join(_SUPERSCRIPTS)}]+", lambda run: _script("^", run.group(), _SUPERSCRIPTS), text)
    text = re.sub(f"[{''.join(_SUBSCRIPTS)}]+", lambda run: _script("_", run.group(), _SUBSCRIPTS), text)
    text = re.sub(r"([√∛∜])\s*([0-9]+|[A-Za-z])", lambda root: f"{_ROOTS[root[1]]}{{{root[2]}}}", text)
    text = re.sub(r"([√∛∜])\s*", lambda root: _ROOTS[root[1]] + " ", text)
    return text.translate(_CHARACTERS)


def canonical_math(text: str) -> str:
    r"""Return an answer in one spelling, without delimiters, layout and units of currency.

    Spaces are single. Words of a text command stay between `TEXT_BEGINS` and `TEXT_ENDS`.
    """
    text = bare_math(text) or ""
    text = bare_math(plain_characters(text)) or ""
    # Some copies of MATH have lost one of the two backslashes that end the row of a matrix.
    if _MATRIX.search(text):
        text = re.sub(r"\\\\\s*(?:\[[^\]]*\])?|\\(?=[0-9\s-])", r" \\cr ", text)
    text = _THOUSANDS.sub(lambda number: _joined(number, text), text)
    text = text.replace(r"\!", "").replace("{,}", ",")
    text = _MEASURED.sub(" ", text)
    text = _LAYOUT.sub(" ", text)
    text = re.sub(r"\\[,;:> ]|~", " ", text)
    for _ in range(4):  # nested
        text, changes = _TEXT.subn(_marked_words, text)
        if not changes:
            break
    text = text.replace("**", "^") if not re.search(r"\*\*\s*\*|\*\*$|^\*\*", text) else text.replace("**", "")
    text = _COMMAND.sub(lambda command: _SAME.get(command[0], command[0]), text)
    text = _TRIGONOMETRY.sub(r"\\\1(\\frac{\2\\pi}{180})", text)
    text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
    text = _ORDINAL.sub("", text)
    text = _REPEATING.sub(_as_fraction, text)
    text = _SCIENTIFIC.sub(r"\1\\cdot 10^{\2}", text)
    text = re.sub(r"(?<=[0-9])\s*[xX]\s*(?=10\s*\^)", r"\\times ", text)
    text = re.sub(r"\\\{\s*\\\}", r"\\emptyset ", text)
    text = re.sub(r"((?:^|[(\[,])\s*)\+", r"\1", text)
    text = re.sub(r"^\s*(?:=|\\approx|\\sim)(?![A-Za-z])", "", text)
    text = _CURRENCY.sub(rf" \1\2 {TEXT_BEGINS}dollars{TEXT_ENDS} ", text)
    text = _DEGREES.sub(f" {TEXT_BEGINS}degrees{TEXT_ENDS} ", text)
    text = _PERCENT.sub(f" {TEXT_BEGINS}percent{TEXT_ENDS} ", text)
    text = _LOST_UNITS.sub(" ", text)
    text = _ASCII_WORDS.sub(lambda word: _ASCII[word[0]], text)
    text = re.sub(r"_\s*([0-9])(?![0-9])", r"_{\1}", text)
    text = _with_braces(text)
    text = re.sub(r"\s+", " ", text).strip()
    return _THOUSANDS.sub(lambda number: _joined(number, text), text)


def without_spaces(text: str) -> str:
    """Remove spaces, except between two digits and after a command's name that a letter follows."""
    text = re.sub(r"(?<![0-9])\s+|\s+(?![0-9])", "\0", text)
    text = re.sub(r"(\\[A-Za-z]+)\0(?=[A-Za-z])", r"\1 ", text)
    return text.replace("\0", "")


def _joined(number: re.Match[str], text: str) -> str:
    """Join the groups of thousands, unless commas or spaces are those of a list or a tuple."""
    found = number.group()
    separators = set(_NOT_DIGITS.findall(found))
    if len({separator.replace(r"\!", "").strip() or " " for separator in separators}) > 1:
        return found
    if found.startswith("0"):
        return found
    before, after = text[: number.start()].rstrip(), text[number.end() :].lstrip()
    if "," in found and "{,}" not in found and r"\!" not in found and not _stands_alone(before, after):
        return found
    if found.count(" ") and "\\" not in found and (before[-1:].isdigit() or after[:1].isdigit()):
        return found
    return _NOT_DIGITS.sub("", found)


def _stands_alone(before: str, after: str) -> bool:
    """Return whether a comma between digits cannot be that of a tuple or set: it is in no bracket."""
    opened = sum(before.count(sign) for sign in "([") - sum(before.count(sign) for sign in ")]") + before.count(r"\{")
    return opened - before.count(r"\}") <= 0 or not re.search(r"[)\]]|\\\}", after)


def _as_fraction(decimal: re.Match[str]) -> str:
    """Return a repeating decimal as a fraction: 0.1\\overline{6} is (16 - 1) / 90."""
    start, repeated = decimal[1] + decimal[2], decimal[3]
    top = int(start + repeated) - int(start or "0")
    return rf"\frac{{{top}}}{{{10 ** len(decimal[2]) * (10 ** len(repeated) - 1)}}}"


def _marked_words(command: re.Match[str]) -> str:
    words = command[1].replace(TEXT_BEGINS, "").replace(TEXT_ENDS, "")
    if not re.search("[A-Za-z]", words) or re.search(r"[\\^_=]", words):
        return f" {words} "
    return f" {TEXT_BEGINS}{words}{TEXT_ENDS} "


def _script(sign: str, run: str, table: dict[str, str]) -> str:
    return f"{sign}{{{''.join(table[character] for character in run)}}}"


_FRAC_ARGUMENT = r"\s*(\{|[0-9]|[A-Za-z]|\\[A-Za-z]+)"
_FRAC = re.compile(r"\\frac" + _FRAC_ARGUMENT)
_ROOT = re.compile(r"\\sqrt\s*(\[[^\[\]]*\])?\s*(\(|[0-9]+(?:\.[0-9]+)?|[A-Za-z]|\\[A-Za-z]+)")


def _with_braces(text: str) -> str:
    r"""Give the arguments of \frac and \sqrt their braces."""
    pieces: list[str] = []
    at = 0
    while (match := _FRAC.search(text, at)) is not None:
        pieces.append(text[at : match.start()] + r"\frac")
        at = match.start(1)
        for _ in range(2):
            argument = re.compile(_FRAC_ARGUMENT).match(text, at)
            if argument is None:
                break
            if argument[1] == "{":
                end = closing_brace(text, argument.start(1))
                if end is None:
                    return "".join(pieces) + text[at:]
                pieces.append("{" + _with_braces(text[argument.start(1) + 1 : end]) + "}")
                at = end + 1
            else:
                pieces.append("{" + argument[1] + "}")
                at = argument.end()
    text = "".join(pieces) + text[at:]
    return _ROOT.sub(_braced_root, _roots_of_brackets(text))


def _roots_of_brackets(text: str) -> str:
    r"""Turn \sqrt(x + 1) into \sqrt{x + 1}."""
    at = 0
    while (match := re.compile(r"\\sqrt\s*(\[[^\[\]]*\])?\s*\(").search(text, at)) is not None:
        depth, end = 0, match.end() - 1
        while end < len(text):
            depth += (text[end] == "(") - (text[end] == ")")
            if depth == 0:
                break
            end += 1
        if depth:
            return text
        text = f"{text[: match.start()]}\\sqrt{match[1] or ''}{{{text[match.end() : end]}}}{text[end + 1 :]}"
        at = match.start() + 5
    return text


def _braced_root(match: re.Match[str]) -> str:
    if match[2] == "(":
        return match[0]
    # Of "\sqrt 23" TeX takes the 2; a person means 23.
    return f"\\sqrt{match[1] or ''}{{{match[2]}}}"
