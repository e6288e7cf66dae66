r"""Exact values of LaTeX expressions: quotients of sums of rational multiples of radicals, constants and variables.

A value is a quotient of two sums. A term of a sum is a rational coefficient times a product of powers of primes,
constants (pi, e, i) and variables:

    \frac{3}{2^{52}}          = 3 * 2^(-52)
    \frac{1 + \sqrt{8}}{x}    = (1 + 2 * 2^(1/2)) / x

Radicals of different primes are linearly independent over the rationals (A. S. Besicovitch, "On the linear independence
of fractional powers of integers", J. London Math. Soc. 15, 1940), so two sums are equal exactly if their terms are.
What has another form (functions, variable exponents, nested radicals) or is too large has no value here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

MAX_BITS = 40_000
MAX_TERMS = 100
_MAX_POWER = 40  # of a sum of several terms
_SMALL_PRIMES = 2_000

# Factors of a term: a prime or a name, and its exponent.
Factors = tuple[tuple[int | str, Fraction], ...]
Terms = dict[Factors, Fraction]


class NoExactValue(Exception):
    """The expression is not of the form that this module decides."""


@dataclass(frozen=True, slots=True)
class ExactValue:
    """A quotient of two sums of terms.

    Attributes:
        top: The numerator's terms.
        bottom: The denominator's terms, never empty.
    """

    top: Mapping[Factors, Fraction]
    bottom: Mapping[Factors, Fraction]

    def rational(self) -> Fraction | None:
        """Return the value if it is a rational number."""
        if not self.top:
            return Fraction(0)
        if len(self.top) == len(self.bottom) == 1 and set(self.top) == set(self.bottom):
            return next(iter(self.top.values())) / next(iter(self.bottom.values()))
        return None

    def approximate(self) -> float | None:
        """Return the value as a floating-point number, or None if it has variables or is not finite and real."""
        try:
            return _sum_as_float(self.top) / _sum_as_float(self.bottom)
        except (KeyError, OverflowError, ZeroDivisionError):
            return None

    def has_variables(self) -> bool:
        """Return whether the value depends on a variable."""
        names = {name for terms in (self.top, self.bottom) for factors in terms for name, _ in factors}
        return any(isinstance(name, str) and name not in _CONSTANTS for name in names)


_CONSTANTS = {"pi": math.pi, "e": math.e, "i": None}
_ONE: Terms = {(): Fraction(1)}


def same_value(a: ExactValue, b: ExactValue) -> bool | None:
    """Return whether two values are equal; None if the cross products are too large."""
    try:
        return _product(a.top, b.bottom) == _product(b.top, a.bottom)
    except (NoExactValue, OverflowError):
        return None


def proportional(a: ExactValue, b: ExactValue) -> bool | None:
    """Return whether the numerators differ by a rational factor only, so that a = 0 and b = 0 have equal solutions."""
    if not a.top or not b.top:
        return not a.top and not b.top
    if set(a.top) != set(b.top):
        return None if _has_negative_power(a.top) or _has_negative_power(b.top) else False
    return len({a.top[factors] / b.top[factors] for factors in a.top}) == 1


def difference(a: ExactValue, b: ExactValue) -> ExactValue | None:
    """Return a - b, or None if it is too large."""
    try:
        return added(a, negated(b))
    except (NoExactValue, OverflowError):
        return None


def constant_value(number: Fraction) -> ExactValue:
    return ExactValue({(): number} if number else {}, _ONE)


def named_value(name: str) -> ExactValue:
    return ExactValue({((name, Fraction(1)),): Fraction(1)}, _ONE)


def negated(value: ExactValue) -> ExactValue:
    return ExactValue({factors: -number for factors, number in value.top.items()}, value.bottom)


def added(a: ExactValue, b: ExactValue) -> ExactValue:
    if a.bottom == b.bottom:
        return _simplified(_plus(a.top, b.top), a.bottom)
    top = _plus(_product(a.top, b.bottom), _product(b.top, a.bottom))
    return _simplified(top, _product(a.bottom, b.bottom))


def multiplied(a: ExactValue, b: ExactValue) -> ExactValue:
    return _simplified(_product(a.top, b.top), _product(a.bottom, b.bottom))


def divided_by(a: ExactValue, b: ExactValue) -> ExactValue:
    if not b.top:
        raise ZeroDivisionError
    return _simplified(_product(a.top, b.bottom), _product(a.bottom, b.top))


def _simplified(top: Mapping[Factors, Fraction], bottom: Mapping[Factors, Fraction]) -> ExactValue:
    """Divide by a denominator of one term."""
    if len(bottom) != 1 or bottom == _ONE:
        return ExactValue(top, bottom)
    (factors, number), *_ = bottom.items()
    inverse = _normal_term([(name, -power) for name, power in factors], 1 / number)
    return ExactValue(_product(top, dict([inverse])), _ONE)


def _plus(a: Mapping[Factors, Fraction], b: Mapping[Factors, Fraction]) -> Terms:
    total = dict(a)
    for factors, number in b.items():
        total[factors] = total.get(factors, Fraction(0)) + number
        if not total[factors]:
            del total[factors]
    return _checked(total)


def _product(a: Mapping[Factors, Fraction], b: Mapping[Factors, Fraction]) -> Terms:
    if len(a) * len(b) > MAX_TERMS * MAX_TERMS:
        raise NoExactValue
    total: Terms = {}
    for left, x in a.items():
        for right, y in b.items():
            factors, number = _normal_term([*left, *right], x * y)
            total[factors] = total.get(factors, Fraction(0)) + number
    return _checked({factors: number for factors, number in total.items() if number})


def _checked(terms: Terms) -> Terms:
    if len(terms) > MAX_TERMS:
        raise NoExactValue
    if any(max(abs(n.numerator).bit_length(), n.denominator.bit_length()) > 2 * MAX_BITS for n in terms.values()):
        raise NoExactValue
    if len(terms) > 1 and any(_is_large(name, power) for factors in terms for name, power in factors):
        raise NoExactValue  # such terms are not independent
    return terms


def _is_large(name: int | str, power: Fraction) -> bool:
    return isinstance(name, int) and abs(power) * name.bit_length() > MAX_BITS


def _normal_term(powers: list[tuple[int | str, Fraction]], number: Fraction) -> tuple[Factors, Fraction]:
    """Collect equal factors; whole powers of primes go into the coefficient, unless they are too large."""
    collected: dict[int | str, Fraction] = {}
    for name, power in powers:
        collected[name] = collected.get(name, Fraction(0)) + power
    if "i" in collected and collected["i"].denominator == 1:
        turns = int(collected.pop("i")) % 4
        number = -number if turns >= 2 else number
        if turns % 2:
            collected["i"] = Fraction(1)
    kept: list[tuple[int | str, Fraction]] = []
    for name, power in collected.items():
        if not isinstance(name, int):
            if power:
                kept.append((name, power))
        elif _is_large(name, power):
            inside, number = _without(number, name)
            kept.append((name, power + inside))
        else:
            whole = math.floor(power)
            number *= Fraction(name) ** whole
            if power != whole:
                kept.append((name, power - whole))
    return tuple(sorted(kept, key=lambda factor: str(factor[0]))), number


def _without(number: Fraction, prime: int) -> tuple[int, Fraction]:
    """Return the power of a prime in a number, and the number without it."""
    power = 0
    while number and number.numerator % prime == 0:
        number, power = number / prime, power + 1
    while number.denominator % prime == 0:
        number, power = number * prime, power - 1
    return power, number


def raised_to(base: ExactValue, exponent: ExactValue) -> ExactValue:
    power = exponent.rational()
    if power is None:
        raise NoExactValue
    if power == 0:
        if not base.top:
            raise NoExactValue  # 0^0
        return constant_value(Fraction(1))
    if power < 0:
        return divided_by(constant_value(Fraction(1)), raised_to(base, constant_value(-power)))
    if not base.top:
        return base
    if len(base.top) == 1 and len(base.bottom) == 1:
        return divided_by(_term_to(base.top, power), _term_to(base.bottom, power))
    if power.denominator != 1 or power > _MAX_POWER:
        raise NoExactValue
    result = constant_value(Fraction(1))
    for _ in range(int(power)):
        result = multiplied(result, base)
    return result


def _term_to(term: Mapping[Factors, Fraction], power: Fraction) -> ExactValue:
    (factors, number), *_ = term.items()
    raised: list[tuple[int | str, Fraction]] = []
    if power.denominator > 1:
        if power.denominator > 100:
            raise NoExactValue
        if number < 0:
            if power != Fraction(1, 2):
                raise NoExactValue
            raised.append(("i", Fraction(1)))
        for name, own in factors:
            # The root of x^2 is |x|.
            if name == "i" or (isinstance(name, str) and name not in _CONSTANTS and own.numerator % 2 == 0):
                raise NoExactValue
            if isinstance(name, str) and name not in _CONSTANTS and power.denominator % 2:
                raise NoExactValue
    raised += [(name, own * power) for name, own in factors]
    bits = max(abs(number.numerator).bit_length(), number.denominator.bit_length())
    if power.denominator == 1 and bits * power <= MAX_BITS:
        return ExactValue(dict([_normal_term(raised, number ** int(power))]), _ONE)
    sign = -1 if number < 0 and power.denominator == 1 and power.numerator % 2 else 1
    for part, direction in ((abs(number.numerator), 1), (number.denominator, -1)):
        raised += [(prime, own * power * direction) for prime, own in _factorized(part)]
    return ExactValue(dict([_normal_term(raised, Fraction(sign))]), _ONE)


@lru_cache(maxsize=1024)
def _factorized(number: int) -> tuple[tuple[int, int], ...]:
    """Return the prime factors of a positive number with their exponents."""
    found: list[tuple[int, int]] = []
    candidate = 2
    while candidate < _SMALL_PRIMES and candidate * candidate <= number:
        exponent = 0
        while number % candidate == 0:
            number, exponent = number // candidate, exponent + 1
        if exponent:
            found.append((candidate, exponent))
        candidate += 1 if candidate == 2 else 2
    if number == 1:
        return tuple(found)
    if number < _SMALL_PRIMES**2:
        return (*found, (number, 1))
    root = math.isqrt(number)
    if root * root == number and root < _SMALL_PRIMES**2:
        return (*found, (root, 2))
    raise NoExactValue


def factorial_of(value: ExactValue) -> ExactValue:
    number = value.rational()
    if number is None or number.denominator != 1 or not 0 <= number <= 3_000:
        raise NoExactValue
    return constant_value(Fraction(math.factorial(int(number))))


def binomial_of(n: ExactValue, k: ExactValue) -> ExactValue:
    top, bottom = n.rational(), k.rational()
    if top is None or bottom is None or top.denominator != 1 or bottom.denominator != 1 or not 0 <= bottom <= top:
        raise NoExactValue
    if top > 5_000:
        raise NoExactValue
    return constant_value(Fraction(math.comb(int(top), int(bottom))))


def _sum_as_float(terms: Mapping[Factors, Fraction]) -> float:
    total = 0.0
    for factors, number in terms.items():
        term = float(number)
        for name, power in factors:
            base = name if isinstance(name, int) else _CONSTANTS[name]
            if base is None:
                raise KeyError(name)
            term *= base ** float(power)
        total += term
    return total


def _has_negative_power(terms: Mapping[Factors, Fraction]) -> bool:
    return any(power < 0 for factors in terms for _, power in factors)
