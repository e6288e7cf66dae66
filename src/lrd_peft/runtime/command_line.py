"""Parses a command line into a typed dataclass with tyro; a mistake is a `UserError` of one line."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, TypeVar

import tyro
from tyro import _errors  # Private: a test names what is used, and pyproject.toml caps tyro.

from lrd_peft.runtime.errors import UserError, escaped, nearest

T = TypeVar("T")

# Words for the placeholders of help texts, in messages about values that cannot be read.
_EXPECTED = {"INT": "a whole number", "FLOAT": "a number"}


def parse(
    kind: type[T], argv: Sequence[str], *, prog: str, description: str, flags: Iterable[str] = (), registry: Any = None
) -> T:
    """Parse arguments into a dataclass; `--help` prints and exits.

    Args:
        kind: Dataclass with a field for each argument.
        argv: Arguments after the name of the command.
        prog: Command as the user types it, for the usage line and messages.
        description: First line of the help text.
        flags: Names of the flags, from which the nearest to an unknown one is suggested.
        registry: tyro's `ConstructorRegistry` with rules for types of our own.

    Raises:
        UserError: If an argument is unknown or missing, or a value cannot be read.
    """

    def refuse(event: _errors.ParseErrorEvent) -> NoReturn:
        raise UserError(escaped(f"{_message(event, argv, flags)} See {prog} --help.")) from None

    with _errors.on_parse_error(refuse):
        return tyro.cli(
            kind, args=list(argv), prog=prog, description=description, use_underscores=True, registry=registry
        )


def setting_of(argument: str) -> str:
    """Return the name that a flag such as `--lora-r=8` stands for: `lora_r`."""
    return argument.partition("=")[0].lstrip("-").replace("-", "_")


def _message(event: _errors.ParseErrorEvent, argv: Sequence[str], flags: Iterable[str]) -> str:
    """Return what is wrong, as one sentence."""
    match event:
        case _errors.UnrecognizedArgs(tokens=tokens):
            return _unknown(tokens, argv, flags)
        case _errors.MissingArgs(missing_arguments=missing):
            return f"missing {' and '.join(_shown(each.arg) for each in missing)}."
        case _errors.BadValue(argument=argument):
            return f"{_shown(argument)} needs a value."
        case _errors.InvalidChoice(argument=argument, value=value, choices=choices):
            hint = nearest(value, choices)
            return f'{_shown(argument)} is "{value}"; it must be one of {", ".join(choices)}.{hint}'
        case _errors.InstantiationFailure(argument=argument) if argument is not None:
            flag, placeholder = _shown(argument), str(argument.lowered.metavar).split()[0]
            return f'{flag} is "{_given(flag, argv)}"; it must be {_EXPECTED.get(placeholder, placeholder)}.'
    return "the arguments cannot be read."


def _unknown(tokens: Sequence[str], argv: Sequence[str], flags: Iterable[str]) -> str:
    flag = next((token.partition("=")[0] for token in tokens if token.startswith("-")), None)
    if flag is not None:
        hint = nearest(setting_of(flag), flags).replace(' "', ' "--')
        return f"unknown flag {flag}.{hint}"
    before = [part for part in argv[: list(argv).index(tokens[0])] if part.startswith("--")]
    if before:
        return f'"{tokens[0]}" after {before[-1]} belongs to no flag.'
    return f'"{tokens[0]}" is one argument too many.'


def _shown(argument: Any) -> str:
    """Return an argument as the user types it: a flag, or the placeholder of a positional argument."""
    if argument.is_positional():
        return str(argument.lowered.metavar).strip("[]").split()[0]
    return str(argument.lowered.name_or_flags[0])


def _given(flag: str, argv: Sequence[str]) -> str:
    """Return the value that a flag was given."""
    for index, argument in enumerate(argv):
        if argument.startswith("--") and setting_of(argument) == setting_of(flag):
            _, equals, value = argument.partition("=")
            after = itertools.takewhile(lambda part: not part.startswith("--"), argv[index + 1 :])
            return value if equals else " ".join(after)
    return ""
