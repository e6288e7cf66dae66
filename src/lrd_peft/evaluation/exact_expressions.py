r"""Reads a LaTeX expression as an exact value."""

from __future__ import annotations

import re
from fractions import Fraction

from lrd_peft.evaluation.exact_values import (
    MAX_BITS,
    ExactValue,
    NoExactValue,
    added,
    binomial_of,
    constant_value,
    divided_by,
    factorial_of,
    multiplied,
    named_value,
    negated,
    raised_to,
)

_MAX_DEPTH = 40
_TOKEN = re.compile(
    r"(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)|(?P<command>\\[A-Za-z]+)|(?P<letter>[A-Za-z])|(?P<other>\S)|(?P<gap>\s+)"
)
_GREEK = frozenset(
    "\\" + name
    for name in (
        *("alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "kappa", "lambda", "mu"),
        *("nu", "xi", "rho", "sigma", "tau", "phi", "varphi", "chi", "psi", "omega"),
        *("Gamma", "Delta", "Theta", "Lambda", "Sigma", "Phi", "Psi", "Omega"),
    )
)
_TIMES = frozenset({"*", r"\cdot", r"\times"})
_OVER = frozenset({"/", r"\div"})


def exact_value(text: str) -> ExactValue | None:
    r"""Return the value of an expression, or None if it has another form or is too large.

    Args:
        text: LaTeX with `\frac{a}{b}` and `\sqrt{a}` in braces; spaces only between digits.
    """
    try:
        return _Parser(text).value()
    except (NoExactValue, OverflowError, RecursionError, ValueError, ZeroDivisionError):
        return None


class _Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, text: str) -> None:
        tokens = [(match.lastgroup or "", match.group()) for match in _TOKEN.finditer(text)]
        kinds = ["", *(kind for kind, _ in tokens), ""]
        # Only a space between two numbers means something.
        self._tokens = [
            token
            for place, token in enumerate(tokens)
            if token[0] != "gap" or kinds[place] == kinds[place + 2] == "number"
        ]
        self._at = 0
        self._depth = 0

    def value(self) -> ExactValue:
        found = self._sum()
        if self._at < len(self._tokens):
            raise NoExactValue
        return found

    def _peek(self, ahead: int = 0) -> tuple[str, str]:
        at = self._at + ahead
        return self._tokens[at] if at < len(self._tokens) else ("end", "")

    def _take(self) -> tuple[str, str]:
        token = self._peek()
        self._at += 1
        return token

    def _expect(self, text: str) -> None:
        if self._take()[1] != text:
            raise NoExactValue

    def _sum(self) -> ExactValue:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise NoExactValue
        sign = -1 if self._peek()[1] == "-" else 1
        if self._peek()[1] in ("-", "+"):
            self._take()
        total = self._term()
        if sign < 0:
            total = negated(total)
        while self._peek()[1] in ("+", "-"):
            negative = self._take()[1] == "-"
            term = self._term()
            total = added(total, negated(term) if negative else term)
        self._depth -= 1
        return total

    def _term(self) -> ExactValue:
        total = self._factor()
        divided = False
        while True:
            kind, text = self._peek()
            if text in _TIMES:
                self._take()
                total = multiplied(total, self._signed_factor())
                divided = False
            elif text in _OVER:
                if divided:
                    raise NoExactValue  # a/b/c
                self._take()
                total = divided_by(total, self._signed_factor())
                divided = True
            elif kind in ("letter", "command") or text in ("(", "[", "{"):
                # "1/2x" is read in both ways by different people.
                if divided or text in (r"\right", r"\pm", r"\mp"):
                    raise NoExactValue
                total = multiplied(total, self._factor())
            else:
                return total

    def _signed_factor(self) -> ExactValue:
        if self._peek()[1] == "-":
            self._take()
            return negated(self._factor())
        return self._factor()

    def _factor(self) -> ExactValue:
        base = self._base()
        while True:
            text = self._peek()[1]
            if text == "^":
                self._take()
                base = raised_to(base, self._argument())
            elif text == "!":
                self._take()
                if self._peek()[1] == "!":
                    raise NoExactValue  # a double factorial
                base = factorial_of(base)
            else:
                return base

    def _argument(self) -> ExactValue:
        """Read a braced argument, or one token as TeX does; a sign before it is read with it."""
        kind, text = self._peek()
        if text == "-":
            self._take()
            return negated(self._argument())
        if kind == "number" and "." not in text and len(text) > 1 and self._peek(-1)[1] == "^":
            # Written by people, 2^10 is 1024.
            self._take()
            return constant_value(Fraction(text))
        if text == "{":
            self._take()
            inside = self._sum()
            self._expect("}")
            return inside
        return self._base()

    def _base(self) -> ExactValue:
        kind, text = self._take()
        if kind == "number":
            return self._number(text)
        if kind == "letter":
            return self._symbol(text)
        if text in ("(", "[", "{"):
            inside = self._sum()
            self._expect({"(": ")", "[": "]", "{": "}"}[text])
            return inside
        if text == r"\frac":
            top = self._argument()
            return divided_by(top, self._argument())
        if text == r"\sqrt":
            return self._root()
        if text == r"\binom":
            return binomial_of(self._argument(), self._argument())
        if text == r"\pi":
            return named_value("pi")
        if text in _GREEK:
            return self._symbol(text[1:])
        raise NoExactValue

    def _number(self, text: str) -> ExactValue:
        if len(text) > MAX_BITS // 4:
            raise NoExactValue
        whole = Fraction("0" + text if text.startswith(".") else text.rstrip("."))
        kind, following = self._peek()
        if kind == "gap":  # "1 1/2", and no other two numbers side by side
            tokens = [self._peek(ahead) for ahead in (1, 2, 3)]
            if [token[0] for token in tokens] != ["number", "other", "number"] or tokens[1][1] != "/":
                raise NoExactValue
            part = Fraction(tokens[0][1]) / Fraction(tokens[2][1])
            if "." in text or not part < 1:
                raise NoExactValue
            self._at += 4
            return constant_value(whole + part)
        if kind == "command" and following == r"\frac" and "." not in text:
            start = self._at
            part = self._base().rational()
            if part is None or not 0 < part < 1:
                self._at = start
                return constant_value(whole)
            return constant_value(whole + part)  # a mixed number
        return constant_value(whole)

    def _symbol(self, letter: str) -> ExactValue:
        if self._peek()[1] != "_":
            return named_value(letter)
        self._take()
        inside = [self._take()[1]]
        if inside == ["{"]:
            inside = []
            while self._peek()[1] not in ("}", ""):
                inside.append(self._take()[1])
            self._expect("}")
        return named_value(f"{letter}_{''.join(inside)}")

    def _root(self) -> ExactValue:
        degree = Fraction(2)
        if self._peek()[1] == "[":
            self._take()
            found = self._sum().rational()
            self._expect("]")
            if found is None or found.denominator != 1 or not 2 <= found <= 100:
                raise NoExactValue
            degree = found
        return raised_to(self._argument(), constant_value(1 / degree))
