"""Where rows come from: files and the hub. Knows names, layouts and formats, not what a row means."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from lrd_peft.data.readers import MalformedRow, Schema, aqua_tsv_fields
from lrd_peft.errors import UserError


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it was read.

    Attributes:
        place: the file and line, or hub name and row, for messages.
        number: its position in its source, from 0.
        fields: the columns.
    """

    place: str
    number: int
    fields: Mapping[str, Any]


# What a set offers: for each split with a source of its own, a function that reads it. A single file that is
# not named after a split offers "all".
Openers = Mapping[str, Callable[[], Iterator[Row]]]

# The file stems of the splits, the best one first.
STEMS: dict[str, tuple[str, ...]] = {
    "train": ("train", "train_part"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "math500"),
}
_HUB_TIMEOUT_SECONDS = 5
_SUFFIXES = (".jsonl", ".tsv", ".json")


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A public data set: its names, its schema and what the hub holds.

    Attributes:
        folders: the names its folder may have under `data_dir`.
        subsets: the hub configurations; several are read in turns, so that a limit meets them all.
    """

    name: str
    hub_id: str
    schema: Schema
    folders: tuple[str, ...]
    subsets: tuple[str | None, ...]
    hub_splits: tuple[str, ...] = ("train", "test")


_MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
_ALL_SPLITS = ("train", "validation", "test")
_BENCHMARKS = (
    Benchmark("gsm8k", "openai/gsm8k", "gsm8k", ("gsm8k",), ("main",)),
    Benchmark("math", "EleutherAI/hendrycks_math", "math", ("math", "hendrycks_math"), _MATH_SUBJECTS),
    Benchmark("aqua", "deepmind/aqua_rat", "aqua", ("aqua", "aqua_rat"), ("raw",), _ALL_SPLITS),
    Benchmark("gsm8k-aug", "whynlp/gsm8k-aug", "rows", ("gsm8k-aug", "gsm8k_aug"), (None,), _ALL_SPLITS),
)
# By short name and by hub id.
BENCHMARKS: dict[str, Benchmark] = {
    **{benchmark.name: benchmark for benchmark in _BENCHMARKS},
    **{benchmark.hub_id: benchmark for benchmark in _BENCHMARKS},
}


def local_openers(benchmark: Benchmark, data_dir: Path) -> Openers:
    """Find a benchmark's files under `data_dir`, its parent or the set's own folder.

    Raises:
        UserError: if the folder does not exist or holds none of the files.
    """
    if not os.path.isdir(data_dir):
        raise UserError(f'data_dir "{data_dir}" is not a folder; give the one that holds {benchmark.name}/')
    inner = [data_dir / folder for folder in benchmark.folders if os.path.isdir(data_dir / folder)]
    searched = [*inner[:1], data_dir]
    for folder in searched:
        openers = folder_openers(folder)
        if openers:
            return openers
    names = ", ".join(f"{stem}{{{','.join(_SUFFIXES)}}}" for stems in STEMS.values() for stem in stems)
    folders = ", ".join(str(data_dir / folder) for folder in benchmark.folders)
    raise UserError(f'no file of {benchmark.name} in "{data_dir}": looked for {names} there and in {folders}')


def folder_openers(folder: Path) -> Openers:
    """Return the splits that a folder holds, by their file names; empty if none."""
    openers: dict[str, Callable[[], Iterator[Row]]] = {}
    for split, stems in STEMS.items():
        candidates = (folder / f"{stem}{suffix}" for stem in stems for suffix in _SUFFIXES)
        path = next((path for path in candidates if os.path.isfile(path)), None)
        if path is not None:
            openers[split] = _opener(path)
    return openers


def file_openers(path: Path) -> Openers:
    """Return what one file offers: the held-out split that it is named after, else all its rows."""
    held_out = (split for split in ("validation", "test") if path.stem in STEMS[split])
    return {next(held_out, "all"): _opener(path)}


def hub_openers(benchmark: Benchmark, *, revision: str | None) -> Openers:
    """Return the splits of a benchmark on the hub; nothing is downloaded before one is read."""
    return {split: _hub_opener(benchmark, split, revision) for split in benchmark.hub_splits}


def read_file(path: Path) -> Iterator[Row]:
    """Read a JSON-lines file, or AQuA-RAT's tab-separated one, row by row. Blank lines are no rows.

    Raises:
        UserError: if the file cannot be read or a line is malformed; it names file and line.
    """
    number = 0
    try:
        with path.open("rb") as lines:  # bytes: only a line feed ends a line, and a bad one is named
            for line_number, line in enumerate(lines, start=1):
                place = f"{path}, line {line_number}"
                try:
                    text = line.decode("utf-8-sig" if line_number == 1 else "utf-8").rstrip("\r\n")
                    if not text.strip():
                        continue
                    fields = aqua_tsv_fields(text) if path.suffix == ".tsv" else _json_object(text)
                except UnicodeDecodeError as error:
                    raise UserError(f"{place}: not UTF-8 (byte {error.start + 1} of the line)") from error
                except MalformedRow as error:
                    raise UserError(f"{place}: {error}") from error
                yield Row(place, number, fields)
                number += 1
    except OSError as error:
        raise UserError(f'cannot read "{path}": {error.strerror or error}') from error


def _opener(path: Path) -> Callable[[], Iterator[Row]]:
    return lambda: read_file(path)


def _hub_opener(benchmark: Benchmark, split: str, revision: str | None) -> Callable[[], Iterator[Row]]:
    return lambda: _read_hub(benchmark, split=split, revision=revision)


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise MalformedRow(f"not JSON: {error.msg} (column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise MalformedRow(f"not usable JSON: {error}") from error
    if not isinstance(value, dict):
        raise MalformedRow(f"a row must be a JSON object, not a {type(value).__name__}")
    return value


def _read_hub(benchmark: Benchmark, *, split: str, revision: str | None) -> Iterator[Row]:
    from datasets import load_dataset  # takes a second to import, and only the hub needs it

    tables = []
    try:
        _check_hub()
        for subset in benchmark.subsets:
            tables.append(load_dataset(benchmark.hub_id, subset, split=split, revision=revision))
    except Exception as error:
        # Whatever failed in there (network, proxy, cache, revision), the user's way out is the same.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        raise UserError(
            f'cannot load "{benchmark.hub_id}" ({split}) from the hub: {reason}. Without a network, '
            f"give data_dir, a folder with {benchmark.folders[0]}/train.jsonl and the like; "
            "HF_HUB_OFFLINE=1 uses an earlier download"
        ) from error
    number = 0
    for turn in zip_longest(*tables):
        for fields in turn:
            if fields is not None:
                yield Row(f"{benchmark.hub_id} {split}, row {number + 1}", number, fields)
                number += 1


def _check_hub() -> None:
    """Fail within seconds where the hub does not answer: its client would retry for half a minute."""
    from huggingface_hub import constants, get_session

    if not constants.HF_HUB_OFFLINE:
        get_session().head(constants.ENDPOINT, timeout=_HUB_TIMEOUT_SECONDS)
