"""Reads rows from a file: JSON, JSON Lines, CSV, TSV, text, Parquet and Arrow, compressed or not."""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrd_peft.data.row_parsing import aqua_tsv_fields
from lrd_peft.data.row_values import MalformedRow
from lrd_peft.runtime.errors import UserError

_SPACE = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row as it was read.

    Attributes:
        place: File and line, or hub name and row, for messages.
        number: Position in its source, from 0.
        fields: The columns.
    """

    place: str
    number: int
    fields: Mapping[str, Any]


def format_of(path: Path) -> str | None:
    """Return the suffix that tells a file's format, without `.gz`; None if it is no format that is read."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffix = "".join(suffixes[-2:-1])
        return suffix if suffix in _READERS else None
    suffix = "".join(suffixes[-1:])
    return suffix if suffix in FORMATS else None


def read_file(path: Path) -> Iterator[SourceRow]:
    """Read a file row by row. Blank lines are skipped.

    Args:
        path: The file. Its suffix tells the format; `.gz` may follow (not for Parquet and Arrow).

    Yields:
        The rows.

    Raises:
        UserError: If the file cannot be read or a row is malformed. The message names file and line or row.
    """
    suffix = format_of(path)
    if suffix is None:
        raise UserError(f'"{path}" has no format that is read; the formats are {", ".join(FORMATS)}, also with .gz')
    if suffix in (".parquet", ".arrow"):
        found: Iterator[tuple[str, Mapping[str, Any]]] = _table_rows(path, suffix)
    else:
        found = _text_rows(path, _READERS[suffix])
    for number, (place, fields) in enumerate(found):
        yield SourceRow(place, number, fields)


def table_rows(rows: Any, place: str) -> Iterator[SourceRow]:
    """Number the rows of a `datasets` table. Failures of the library become a UserError that names the place."""
    number = 0
    iterator = iter(rows)
    while True:
        try:
            fields = next(iterator, None)
        except Exception as error:  # whatever the library raises while it decodes
            raise UserError(f"{place}, row {number + 1}: {reason_of(error)}") from error
        if fields is None:
            return
        yield SourceRow(f"{place}, row {number + 1}", number, fields)
        number += 1


def reason_of(error: Exception) -> str:
    """Return the first line of an error of a library, shortened."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")


def _table_rows(path: Path, suffix: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    from datasets import Dataset, load_dataset  # takes a second to import

    try:
        if suffix == ".arrow":
            table: Any = Dataset.from_file(str(path))
        else:  # streaming: nothing is copied into a cache
            table = load_dataset("parquet", data_files=[str(path)], split="train", streaming=True)
    except Exception as error:
        raise UserError(f'cannot read "{path}": {reason_of(error)}') from error
    for row in table_rows(table, str(path)):
        yield row.place, row.fields


def _text_rows(path: Path, reader: Callable[[Path, Any], Iterator[Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as source:
            yield from reader(path, source)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f'cannot read "{path}": not a complete gzip file ({error})') from error
    except OSError as error:
        raise UserError(f'cannot read "{path}": {error.strerror or error}') from error


def _lines(path: Path, source: Any, parse: Callable[[str], Any]) -> Iterator[tuple[str, Any]]:
    # In bytes, only a line feed ends a line, and a malformed line can be named.
    for number, line in enumerate(source, start=1):
        place = f"{path}, line {number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            if text.strip():
                yield place, parse(text)
        except UnicodeDecodeError as error:
            raise UserError(f"{place}: not UTF-8 (byte {error.start + 1} of the line)") from error
        except MalformedRow as error:
            raise UserError(f"{place}: {error}") from error


def _json_rows(path: Path, source: Any) -> Iterator[tuple[str, Any]]:
    """Read JSON Lines, an array of objects, one object a file, columns, or rows below one key."""
    if _has_rows_in_lines(source, only=format_of(path) == ".jsonl"):
        yield from _lines(path, source, _json_object)
        return
    try:
        text = source.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start + 1})") from error
    number = 0
    for value in _values(text, str(path)):
        for fields in _rows_of(value):
            number += 1
            place = f"{path}, row {number}"
            if not isinstance(fields, dict):
                raise UserError(f"{place}: a row must be a JSON object, not a {type(fields).__name__}")
            yield place, fields


def _has_rows_in_lines(source: Any, *, only: bool) -> bool:
    """Return whether a JSON file has one object a line, by its first two lines (one is enough if `only`)."""
    filled = (line for line in source if line.strip())
    first, second = next(filled, b"").lstrip(codecs.BOM_UTF8).strip(), next(filled, None)
    source.seek(0)
    if not first.startswith((b"{", b"[")):
        return True
    try:
        return (only or second is not None) and isinstance(_loads(first.decode()), dict)
    except (MalformedRow, UnicodeDecodeError):
        return False


def _values(text: str, path: str) -> Iterator[Any]:
    """Yield the JSON values of a text, one after another."""
    decoder = json.JSONDecoder(object_pairs_hook=_without_repeats)
    at = 0
    while True:
        space = _SPACE.match(text, at)
        assert space is not None
        at = space.end()
        if at == len(text):
            return
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {error.lineno}: not JSON: {error.msg} (column {error.colno})") from error
        except (MalformedRow, ValueError, RecursionError) as error:
            line = text.count("\n", 0, at) + 1
            raise UserError(f"{path}, line {line}: not usable JSON: {error}") from error
        yield value


def _rows_of(value: Any) -> Sequence[Any]:
    """Return the rows of a JSON document: its array, its columns, the array below its only such key, or itself."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict) or not value:
        return [value]
    columns = list(value.values())
    are_lists = len(columns) > 1 and all(isinstance(column, list) for column in columns)
    if are_lists and len({len(column) for column in columns}) == 1:
        return [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]
    if all(isinstance(column, dict) for column in columns) and len({tuple(column) for column in columns}) == 1:
        return [{name: column[key] for name, column in value.items()} for key in columns[0]]
    arrays = [
        column for column in columns if isinstance(column, list) and column and all(isinstance(x, dict) for x in column)
    ]
    return arrays[0] if len(arrays) == 1 and not value.keys() & {"question", "problem", "answer"} else [value]


def _csv_rows(path: Path, source: Any, *, delimiter: str | None = None) -> Iterator[tuple[str, Any]]:
    """Read comma-separated values with a header; every cell stays a text."""
    place = f"{path}, line 1"
    head = next(iter(source), b"").decode("utf-8-sig", "replace")
    source.seek(0)
    reader = csv.reader(_decoded(source), delimiter=delimiter or max(",;\t", key=head.count), strict=True)
    try:
        header: list[str] | None = None
        for cells in reader:
            place = f"{path}, line {reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                twice = next((name for name in header if header.count(name) > 1), None)
                if twice is not None:
                    raise UserError(f'{place}: two columns are called "{twice}"')
                continue
            if len(cells) != len(header):
                raise UserError(f"{place}: {len(cells)} cells, but the header has {len(header)} columns")
            yield place, dict(zip(header, cells, strict=True))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}, line {reader.line_num + 1}: not UTF-8 (byte {error.start + 1} of the line)"
        ) from error
    except csv.Error as error:
        raise UserError(f"{place}: not valid CSV: {error}") from error


def _decoded(source: Any) -> Iterator[str]:
    for number, line in enumerate(source, start=1):
        yield line.decode("utf-8-sig" if number == 1 else "utf-8")


def _tsv_rows(path: Path, source: Any) -> Iterator[tuple[str, Any]]:
    """Read AQuA-RAT's form without a header, or tab-separated values with one."""
    first = next((line for line in source if line.strip()), b"").decode("utf-8-sig", "replace")
    source.seek(0)
    names = [cell.strip().casefold() for cell in first.split("\t")]
    if {"question", "problem", "query", "body", "input"} & set(names):
        return _csv_rows(path, source, delimiter="\t")
    return _lines(path, source, aqua_tsv_fields)


def _txt_rows(path: Path, source: Any) -> Iterator[tuple[str, Any]]:
    return _lines(path, source, _icot_fields)


def _icot_fields(line: str) -> dict[str, Any]:
    question, bars, solution = line.partition("||")
    if not bars or "||" in solution:
        raise MalformedRow('a line must be "question||steps #### answer", with one "||"')
    return {"question": question.strip(), "answer": solution.strip()}


def _json_object(text: str) -> dict[str, Any]:
    value = _loads(text)
    if not isinstance(value, dict):
        raise MalformedRow(f"a row must be a JSON object, not a {type(value).__name__}")
    return value


def _loads(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        raise MalformedRow(f"not JSON: {error.msg} (column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # thousands of digits or brackets
        raise MalformedRow(f"not usable JSON: {error}") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise MalformedRow(f"the key {json.dumps(twice)} is given twice")
    return found


_READERS: dict[str, Callable[[Path, Any], Iterator[Any]]] = {
    ".jsonl": _json_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".tsv": _tsv_rows,
    ".txt": _txt_rows,
}
FORMATS = (*_READERS, ".parquet", ".arrow")
"""Suffixes of the files that are read."""


def is_data_file(path: Path) -> bool:
    """Return whether a path is a file in one of the formats."""
    return format_of(path) is not None and os.path.isfile(path)
