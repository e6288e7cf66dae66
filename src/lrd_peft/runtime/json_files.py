"""JSON on disk: canonical text, sealed JSON, and the base class of everything that is read back from a file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import xxhash
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from typing_extensions import Self

from lrd_peft.runtime.errors import UserError, os_errors
from lrd_peft.runtime.files import atomic

_SEAL = "seal"
Parsed = TypeVar("Parsed")
_Data = TypeVar("_Data", bound="FileData")


class FileModel(BaseModel):
    """Contents of a JSON file; unknown keys, missing keys and other types are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def to_json(self) -> dict[str, Any]:
        """Return JSON types only; numbers that are not finite become null."""
        return dump_json(self)

    @classmethod
    def from_json(cls, body: Any) -> Self:
        """Create it from the value that `to_json` returned or a JSON file held.

        Raises:
            UserError: naming the first part that is missing, unknown or of another type.
        """
        return parse_json(cls, body)


class FileData:
    """The same for a dataclass: pydantic reads and writes it, its constructor checks nothing."""

    __slots__ = ()
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    def to_json(self) -> dict[str, Any]:
        """Return JSON types only; numbers that are not finite become null."""
        return dump_json(self)

    @classmethod
    def from_json(cls, body: Any) -> Self:
        """Create it from the value that `to_json` returned or a JSON file held.

        Raises:
            UserError: naming the first part that is missing, unknown or of another type.
        """
        return parse_json(cls, body)


def dump_json(value: object) -> Any:
    """Return a model or dataclass as JSON types."""
    return plain_json(_adapter(type(value)).dump_python(value), type(value).__name__)


def parse_json(kind: type[Parsed], body: Any) -> Parsed:
    """Return JSON types as a model or dataclass.

    Raises:
        UserError: naming the first part that is missing, unknown or of another type.
    """
    try:
        # By way of text: strict validation takes a list for a tuple in JSON only.
        return _adapter(kind).validate_json(json.dumps(body))
    except ValidationError as error:
        raise UserError(explain_validation(error)) from error


@cache
def _adapter(kind: type[Parsed]) -> TypeAdapter[Parsed]:
    return TypeAdapter(kind)


def explain_validation(error: ValidationError) -> str:
    """Return the first problem that pydantic found, on one line, and how many more there are."""
    first, *others = error.errors(include_url=False)
    place = ".".join(map(str, first["loc"]))
    reason = str(first["msg"]).removeprefix("Value error, ")
    given = f", not {first['input']!r:.60}"
    if first["type"] in ("missing", "extra_forbidden", "unexpected_keyword_argument", "value_error"):
        reason, given = {"missing": "is missing", "value_error": reason}.get(first["type"], "is unknown"), ""
    more = f" ({len(others)} more)" if others else ""
    return f"{place and place + ': '}{reason[:1].lower()}{reason[1:]}{given}{more}"


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: if it cannot be read, or is not JSON (NaN and Infinity are not).
    """
    with os_errors("read", path):
        data = path.read_bytes()
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error})") from error


def read_optional(path: Path, kind: type[_Data]) -> _Data | None:
    """Return what a JSON file holds, or None where there is no file.

    Raises:
        UserError: if it cannot be read, or holds something else; the message names the file.
    """
    if not path.is_file():
        return None
    try:
        return kind.from_json(read_json(path))
    except UserError as error:
        raise UserError(f"{path}: {error}; remove it or write it again") from error


def write_json_atomic(path: str | Path, obj: Any) -> None:
    """Write canonical JSON so that the file appears completely or not at all.

    Raises:
        UserError: if the folder does not exist or cannot be written to, or the disk is full.
        TypeError: if a value is not a JSON type; the message names its place.
    """
    write_atomic(path, canonical_json(obj).encode())


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write bytes so that the file appears completely or not at all.

    Raises:
        UserError: if the folder does not exist or cannot be written to, or the disk is full.
    """
    with os_errors("write", path), atomic(Path(path)) as file:
        file.write(data)


def write_sealed(path: Path, body: Mapping[str, Any] | FileModel) -> None:
    """Write JSON with its own checksum so that the file appears completely or not at all.

    Raises:
        UserError: as `write_json_atomic` does.
    """
    write_atomic(path, seal(body))


def read_sealed(path: Path) -> dict[str, Any] | None:
    """Return what `write_sealed` wrote, or None if the file is missing, unreadable, or changed in any byte."""
    try:
        return unseal(path.read_bytes())
    except OSError:
        return None


def seal(body: Mapping[str, Any] | FileModel, *, line: bool = False) -> bytes:
    """Return canonical JSON with a checksum of the rest under the key "seal".

    Args:
        body: what to write.
        line: write it without line breaks inside (for a file of one JSON object per line).
    """
    values = body.to_json() if isinstance(body, FileModel) else body
    layout: dict[str, Any] = {"indent": None, "separators": (",", ":")} if line else {}
    digest = xxhash.xxh3_128(canonical_json(values, **layout).encode()).hexdigest()
    return canonical_json({**values, _SEAL: digest}, **layout).encode()


def unseal(data: bytes) -> dict[str, Any] | None:
    """Return what `seal` was given, or None if any byte differs from what it returned."""
    try:
        body = json.loads(data)
        if not isinstance(body, dict) or not isinstance(body.pop(_SEAL, None), str):
            return None
        is_line = data.find(b"\n") == len(data) - 1
        return body if seal(body, line=is_line) == data else None
    except (ValueError, RecursionError):
        return None


def canonical_json(obj: Any, **layout: Any) -> str:
    """Return JSON with sorted keys and a final line break; equal values give equal text."""
    text = json.dumps(
        plain_json(obj, "value"), **{"indent": 1, **layout}, sort_keys=True, ensure_ascii=False, allow_nan=False
    )
    # A lone surrogate cannot be written as UTF-8.
    return text.encode(errors="backslashreplace").decode() + "\n"


def plain_json(value: Any, place: str) -> Any:
    """Return the value as JSON types: str keys, lists, null for numbers that are not finite.

    Raises:
        TypeError: if a value or key is not a JSON type; the message names its place.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str | int) or isinstance(key, bool):
                raise TypeError(f"{place}: the key {key!r} is neither a string nor an integer")
        return {str(key): plain_json(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item, f"{place}[{index}]") for index, item in enumerate(value)]
    raise TypeError(f"{place}: {type(value).__name__} is not a JSON type")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
