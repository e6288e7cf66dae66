"""Answers that are words, or numbers with a unit: what is compared as words, and never as a product of letters."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lrd_peft.evaluation.math_text import TEXT_BEGINS, TEXT_ENDS

_SMALL_NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen"),
)
_ABBREVIATIONS: dict[str, str] = {
    **{"cm": "centimeter", "mm": "millimeter", "km": "kilometer", "m": "meter", "ft": "foot", "feet": "foot"},
    **{"in": "inch", "yd": "yard", "mi": "mile", "lb": "pound", "oz": "ounce", "kg": "kilogram", "g": "gram"},
    **{"mg": "milligram", "l": "liter", "ml": "milliliter", "hr": "hour", "h": "hour", "min": "minute", "s": "second"},
    **{"sec": "second", "usd": "dollar", "buck": "dollar", "deg": "degree", "rad": "radian", "sq": "square"},
    **{"metre": "meter", "centimetre": "centimeter", "kilometre": "kilometer", "litre": "liter"},
    **{"mph": "mile per hour"},
    **{"gal": "gallon", "pt": "point", "pts": "point", "kph": "kilometer per hour", "people": "person"},
    **{"am": "am", "pm": "pm"},
}
_LETTER_UNITS = frozenset("mgshl")
_NO_UNITS = frozenset({"unit", "or", "and", "less", "more"})
_FUNCTIONS = frozenset(
    {
        *("sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "arcsin", "arccos", "arctan", "sinh", "cosh"),
        *("tanh", "gcd", "lcm", "max", "min", "mod", "bmod", "pmod", "det", "lim", "cr", "sqrt", "frac", "infty"),
    }
)
_RUN = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{2,}")
_COMMAND = re.compile(r"\\(?:begin|end)\{[^{}]*\}(?:\{[lcr|]*\})?|\\[A-Za-z]+")
_WORDS_ONLY = re.compile(r"[^\W\d_][^\d_=+*/^\\{}<>|]*")
_BASE = re.compile(
    r"\(?([0-9A-Fa-f]+)\)?\s*(?:_\s*(?:\{\s*([A-Za-z0-9]+)\s*\}|([0-9A-Za-z]+))"
    r"|\(?\s*(?:in\s+)?base[ -]?([A-Za-z0-9]+)\s*\)?)"
)
_LABEL = re.compile(r"\(([A-J])\)\s*|([A-J])\)\s*")
_REMARK = re.compile(r"\s*\(\s*[A-Za-z][A-Za-z ,'-]*[A-Za-z]\s*\)$")
_QUANTITY = re.compile(
    r"(?P<value>.*?[0-9A-Za-z)}!|])\s*"
    r"(?P<unit>(?:[A-Za-z]{2,}|\b[mgshLl]\b|\bsq\.|[ap]\.\s?m\b\.?)[A-Za-z. /-]*(?:\^\s*\{?\s*[23]\s*\}?)?"
    r"(?:\s*(?:/|per)\s*[A-Za-z]+)?)"
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """An answer and its unit.

    Attributes:
        value: LaTeX without words.
        unit: Unit in one spelling; "" without one.
    """

    value: str
    unit: str


def unmarked(text: str) -> str:
    """Remove the marks around words."""
    return text.replace(TEXT_BEGINS, "").replace(TEXT_ENDS, "")


def without_label(text: str) -> str:
    """Remove the letter of an option before a value, and a remark in words after one."""
    plain = re.sub(r"\s+", " ", unmarked(text)).strip()
    label = _LABEL.match(plain)
    if label is not None and plain[label.end() :].strip():
        return plain[label.end() :].strip()
    remark = _REMARK.search(plain)
    if remark is not None and re.search("[0-9]", plain[: remark.start()]) and is_wordy(remark.group()):
        return plain[: remark.start()]
    return text


def based_digits(text: str) -> tuple[str, str] | None:
    """Return digits and base of a number in positional notation such as 1234_5, or None."""
    match = _BASE.fullmatch(unmarked(text).strip())
    if match is None:
        return None
    base = (match[2] or match[3] or match[4]).lower()
    if base in _SMALL_NUMBERS:
        base = str(_SMALL_NUMBERS.index(base))
    if not base.isdigit() or not re.search("[0-9]", match[1]):
        return None
    return match[1].upper(), base


def quantity_of(text: str) -> Quantity:
    """Split a unit in words from a value. Text without a value in front of words has no unit."""
    if TEXT_BEGINS in text:
        value, _, rest = text.partition(TEXT_BEGINS)
        words, _, power = rest.partition(TEXT_ENDS)
        power = unmarked(power).strip()
        if re.search("[0-9]", value) and re.fullmatch(r"(?:\^\s*\{?\s*[0-9]\s*\}?|[A-Za-z/. ])*", power):
            return Quantity(value.strip(), _unit(words + power))
        text = unmarked(text)
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or not re.search("[0-9]", match["value"]):
        return Quantity(text.strip(), "")
    first = re.match("[A-Za-z]+", match["unit"])
    assert first is not None
    spaced = match["unit"] and text[match.start("unit") - 1] == " "
    name = first.group()
    if match["unit"][:2] in ("a.", "p."):
        known = True
    elif len(name) == 1:
        known = name.lower() in _LETTER_UNITS and spaced and not re.search("[A-Za-z]", match["value"])
    else:
        known = _is_word(name) or not {name.lower(), name.lower().rstrip("s")}.isdisjoint(_ABBREVIATIONS)
    if not known or name in _FUNCTIONS or re.search(r"[A-Za-z]$", match["value"]):
        return Quantity(text.strip(), "")
    return Quantity(match["value"].strip(), _unit(match["unit"]))


def is_wordy(text: str) -> bool:
    """Return whether a text holds words, so that it is no product of letters."""
    if TEXT_BEGINS in text and any(len(run) > 1 for run in re.findall(f"{TEXT_BEGINS}([^{TEXT_ENDS}]*)", text)):
        return True
    bare = _COMMAND.sub(" ", unmarked(text)).strip()
    runs = [run for run in _RUN.findall(bare) if run.lower() not in _FUNCTIONS]
    if not runs:
        return False
    if _WORDS_ONLY.fullmatch(bare) and (" " in bare or not _is_product(bare)):
        return True
    return any(_is_word(run) for run in runs)


def same_words(a: str, b: str) -> bool:
    """Compare two answers as words, without case, punctuation and a leading article."""
    left, right = _plain_words(a), _plain_words(b)
    return bool(left) and left == right


def number_in_words(text: str) -> str:
    """Return "5" for "five", and any other text as it is."""
    word = unmarked(text).strip().lower()
    return str(_SMALL_NUMBERS.index(word)) if word in _SMALL_NUMBERS else text


def _plain_words(text: str) -> str:
    words = re.sub(r"[\s.,;:!?\"'`()\[\]{}-]+", " ", _COMMAND.sub(" ", unmarked(text))).strip().casefold()
    return re.sub(r"^(?:the|an?) (?=.)", "", words)


def _is_word(run: str) -> bool:
    """Return whether a run of letters is a word: it has a vowel, and is no product of usual variables."""
    return len(run) > 2 and bool(re.search("[aeiouAEIOU]", run)) and not _is_product(run)


def _is_product(run: str) -> bool:
    letters = set(run)
    return run.isalpha() and (not letters & set("aeiouAEIOU") or letters <= set("abc") or letters <= set("axyz"))


def _unit(text: str) -> str:
    """Return a unit in one spelling; units that a bare number means as well are ""."""
    text = re.sub(r"(?<=[A-Za-z])\s*/\s*(?=[A-Za-z])", " per ", unmarked(text)).lower()
    text = re.sub(r"\^\s*\{?\s*2\s*\}?", " squared ", text)
    text = re.sub(r"\^\s*\{?\s*3\s*\}?", " cubed ", text)
    names: list[str] = []
    words: list[str] = re.findall(r"[a-z]+", text.replace(".", ""))
    for word in words:
        if word in _ABBREVIATIONS:
            word = _ABBREVIATIONS[word]
        elif word.endswith("ies"):
            word = word[:-3] + "y"
        elif word.endswith(("ches", "shes", "sses", "xes")):
            word = word[:-2]
        elif word.endswith("s") and not word.endswith("ss"):
            word = word[:-1]
            word = _ABBREVIATIONS.get(word, word)
        if word in ("squared", "cubed"):
            names.insert(max(len(names) - 1, 0), "square" if word == "squared" else "cubic")
        elif word not in _NO_UNITS:
            names.append(word)
    return " ".join(names)
