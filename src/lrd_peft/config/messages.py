"""Validation errors of settings, told in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ValidationError

from lrd_peft.runtime.errors import escaped, nearest

ALIASES = {"alpha": "distill_alpha", "lr": "learning_rate"}
"""Short flag names and the fields that they set."""


def nearest_setting(name: str, model: type[BaseModel], *, extra: tuple[str, ...] = ()) -> str:
    """Return `' Did you mean "x"?'` for the field nearest to a wrong name, or an empty string."""
    if name in ALIASES:
        return f' Did you mean "{ALIASES[name]}"?'
    return nearest(name, [*model.model_fields, *ALIASES, *extra])


def expected_value(field: str, model: type[BaseModel]) -> str:
    """Return what a field may hold, such as "a number from 0 to 1"."""
    return _describe(_schema(field, model))


def explain(error: ValidationError, model: type[BaseModel], *, place: Callable[[str], str] = lambda _: "") -> str:
    """Return a validation error in one line.

    Args:
        error: Error of `model`.
        model: Model whose fields the message names.
        place: Maps a field to the words that precede its error, such as the file and the line.
    """
    lines: dict[str, str] = {}  # Only the first error of each field: a union reports one for each member.
    for detail in error.errors():
        field = str(detail["loc"][0]) if detail["loc"] else ""
        if detail["type"] == "extra_forbidden":
            line = f'unknown setting "{field}".{nearest_setting(field, model)}'
        elif detail["type"] == "value_error":
            reason = str(detail["ctx"]["error"]) if "ctx" in detail else detail["msg"]
            line = f"{field}: {reason}" if field in model.model_fields else reason
        else:
            element = len(detail["loc"]) > 1 and isinstance(detail["loc"][-1], int)
            verb = "holds" if element else "is"
            value = f'"{detail["input"]}"' if isinstance(detail["input"], str) else repr(detail["input"])
            schema = _schema(field, model)
            hint = nearest(str(detail["input"]), _choices(schema))
            line = f"{field} {verb} {value}; it must be {_describe(schema)}" + (f".{hint}" if hint else "")
        lines.setdefault(field, place(field) + line)
    return escaped("; ".join(lines.values()))


def _schema(field: str, model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()["properties"][field]


def _choices(schema: dict[str, Any]) -> list[str]:
    """Return the names that a field or its elements may have; empty if any text will do."""
    own = [schema["const"]] if "const" in schema else schema.get("enum", [])
    parts = [*schema.get("anyOf", []), *([schema["items"]] if "items" in schema else [])]
    return [*map(str, own), *(choice for part in parts for choice in _choices(part))]


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
