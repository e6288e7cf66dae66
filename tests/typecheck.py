"""The type checker of the tests: beartype, for every function whose annotations can be read at run time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintException

F = TypeVar("F", bound=Callable[..., Any])

# As everywhere in Python's typing, an int may stand where a float is asked for.
_CHECK = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function: F) -> F:
    """Return `function` with its arguments and result checked at each call, shapes included.

    A function that names what only type checkers import (`if TYPE_CHECKING`) stays as it is.
    """
    try:
        get_type_hints(function, include_extras=True)
        return _CHECK(function)
    except (NameError, BeartypeDecorHintException):
        return function
