"""Errors of the configuration in one line of plain words. Knows pydantic's errors, not files or flags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from lrd_peft.config.fields import Fields
from lrd_peft.errors import nearest

ALIASES = {"alpha": "distill_alpha", "lr": "learning_rate"}
"""The short names of SPEC.md's flags, and the fields that they set."""


def nearest_field(name: str, *, extra: tuple[str, ...] = ()) -> str:
    """Return `' Did you mean "x"?'` for the field nearest to a wrong name, or an empty string."""
    if name in ALIASES:
        return f' Did you mean "{ALIASES[name]}"?'
    return nearest(name, [*Fields.model_fields, *ALIASES, *extra])


def expected(field: str) -> str:
    """Return what a field may hold: "a number from 0 to 1"."""
    return _describe(Fields.model_json_schema()["properties"][field])


def explain(error: ValidationError, *, place: Callable[[str], str] = lambda _: "") -> str:
    """Return a validation error in one line.

    Args:
        place: from a field's name to words that go before its error, such as the file and the line.
    """
    lines: dict[str, str] = {}  # the first error of each field is enough: a union reports one for each member
    for detail in error.errors():
        field = str(detail["loc"][0]) if detail["loc"] else ""
        if detail["type"] == "extra_forbidden":
            line = f'there is no setting "{field}".{nearest_field(field)}'
        elif detail["type"] == "value_error":
            reason = str(detail["ctx"]["error"]) if "ctx" in detail else detail["msg"]
            line = f"{field}: {reason}" if field else reason
        else:
            element = len(detail["loc"]) > 1 and isinstance(detail["loc"][-1], int)
            verb = "holds" if element else "is"
            line = f"{field} {verb} {detail['input']!r}; it must be {expected(field)}"
        lines.setdefault(field, place(field) + line)
    return "; ".join(lines.values())


def _describe(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_describe(part) for part in schema["anyOf"])
    if "const" in schema:
        return f'"{schema["const"]}"'
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    match schema["type"]:
        case "null":
            return "null (None as a flag)"
        case "boolean":
            return "true or false"
        case "integer":
            return "a whole number" + _range(schema)
        case "number":
            return "a number" + _range(schema)
        case "array":
            return f"a list of one or more, each {_describe(schema['items'])}"
        case _:
            return "text"


def _range(schema: dict[str, Any]) -> str:
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    if "minimum" in schema and "maximum" in schema:
        return f" from {schema['minimum']:g} to {schema['maximum']:g}"
    bounds = [f"{word} {schema[key]}" for key, word in words.items() if key in schema]
    return " " + " and ".join(bounds) if bounds else ""
