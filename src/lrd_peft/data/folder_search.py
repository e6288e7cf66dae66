"""Finds the files of each split in a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lrd_peft.data.file_formats import FORMATS, format_of, is_data_file
from lrd_peft.runtime.errors import UserError

# File stems of the splits, in order of preference.
STEMS: dict[str, tuple[str, ...]] = {
    "train": ("train", "train_part"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "math500"),
}
SAVED = ("dataset_dict.json", "state.json")
"""Files that `datasets.save_to_disk` writes into the folder of a `DatasetDict` and of a `Dataset`."""
_SHARD = re.compile(r"-\d{5}-of-\d{5}(?:-[0-9a-f]+)?$")
_ABOUT = frozenset({"dataset_info", "dataset_infos", "state", "dataset_dict", "readme", "license", "metadata"})
_NUMBERS = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class SplitFiles:
    """Files of one folder.

    Attributes:
        groups: Split -> groups of files. The rows of several groups are interleaved.
        unread: Files that might be data and are not read.
    """

    groups: dict[str, tuple[tuple[Path, ...], ...]] = field(default_factory=dict)
    unread: tuple[Path, ...] = ()


def split_of_stem(stem: str) -> str | None:
    """Return the split that a file or a split on the hub is named after."""
    return next((split for split, stems in STEMS.items() if stem.lower() in stems), None)


def find_splits(folder: Path, *, names: Sequence[str] = (), subsets: Sequence[str] = ()) -> SplitFiles:
    """Find the files of each split: `train.jsonl`, `prosqa_valid.json`, `train-00000-of-00002.parquet`, `train/...`.

    Args:
        folder: The folder.
        names: Names that may stand before the split in a file's name; without any, one name common to all files.
        subsets: Folders to look into if there are several with files of splits, as in a download of the hub.

    Raises:
        UserError: If two files compete for a split.
    """
    found = _files_named_after_splits(folder, names)
    if not found.groups:
        found = _folders_named_after_splits(folder)
    if found.groups:
        return found
    below = {each.name: each for each in _subfolders(folder)}
    inner = {name: find for name, path in below.items() if (find := _inner(path, names)).groups}
    if subsets and set(subsets) <= inner.keys():
        inner = {name: inner[name] for name in subsets}
    elif len(inner) > 1:
        raise UserError(
            f'"{folder}" has the files of several data sets, in {", ".join(sorted(inner))}; name one of these folders'
        )
    groups: dict[str, tuple[tuple[Path, ...], ...]] = {}
    for each in inner.values():
        for split, more in each.groups.items():
            groups[split] = groups.get(split, ()) + more
    return SplitFiles(groups, tuple(path for each in inner.values() for path in each.unread))


def _inner(folder: Path, names: Sequence[str]) -> SplitFiles:
    found = _files_named_after_splits(folder, names)
    return found if found.groups else _folders_named_after_splits(folder)


def _files_named_after_splits(folder: Path, names: Sequence[str]) -> SplitFiles:
    candidates: dict[str, dict[tuple[str, str, str], list[Path]]] = {}
    others: list[Path] = []
    for path in _children(folder):
        if not is_data_file(path):
            continue
        stem = _SHARD.sub("", _stem(path))
        for split, prefix, word in _readings(stem):
            if not prefix or not names or prefix.lower() in {name.lower() for name in names}:
                candidates.setdefault(split, {}).setdefault((prefix, word, _suffix(path)), []).append(path)
                break
        else:
            if stem.lower() not in _ABOUT:
                others.append(path)
    chosen: dict[str, tuple[tuple[Path, ...], ...]] = {}
    prefixes: dict[str, list[Path]] = {}
    for split, keys in candidates.items():
        # A file without a name before the split comes first, then the usual word for the split.
        order = sorted(keys, key=lambda key: (bool(key[0]), STEMS[split].index(key[1])))
        first = order[0]
        rivals = [key for key in order[1:] if bool(key[0]) == bool(first[0]) and key[1] == first[1]]
        if rivals:
            paths = ", ".join(str(keys[key][0].name) for key in (first, *rivals))
            raise UserError(f'"{folder}" has several files for the split "{split}": {paths}; keep one, or name it')
        others += [path for key in order[1:] for path in keys[key]]
        chosen[split] = (tuple(sorted(keys[first], key=_natural)),)
        prefixes.setdefault(first[0], []).append(keys[first][0])
    if len(prefixes) > 1:
        shown = ", ".join(paths[0].name for paths in prefixes.values())
        raise UserError(f'"{folder}" has the files of several data sets: {shown}; name a file')
    return SplitFiles(chosen, tuple(sorted(others)) if chosen else ())


def _folders_named_after_splits(folder: Path) -> SplitFiles:
    """Find `train/` and `test/` with files below them, such as one problem a file."""
    groups: dict[str, tuple[tuple[Path, ...], ...]] = {}
    for path in _subfolders(folder):
        split = split_of_stem(path.name)
        if split is None:
            continue
        files: dict[str, list[Path]] = {}
        for parent, folders, names in os.walk(path):
            folders.sort()
            for each in (Path(parent) / name for name in names):
                if is_data_file(each) and _stem(each).lower() not in _ABOUT:
                    files.setdefault(parent, []).append(each)
        if files:
            if split in groups:
                raise UserError(f'"{folder}" has several folders for the split "{split}"; keep one, or name it')
            groups[split] = tuple(tuple(sorted(paths, key=_natural)) for _, paths in sorted(files.items()))
    return SplitFiles(groups)


def _readings(stem: str) -> Iterator[tuple[str, str, str]]:
    """Yield split, prefix and word of a stem such as "train", "prosqa_valid" or "gsm-test"."""
    for split, words in STEMS.items():
        for word in words:
            if stem.lower() == word:
                yield split, "", word
    for split, words in STEMS.items():
        for word in words:
            if stem.lower().endswith((f"_{word}", f"-{word}", f".{word}")):
                yield split, stem[: -len(word) - 1], word


def _stem(path: Path) -> str:
    name = path.name.removesuffix(".gz").removesuffix(".GZ")
    return Path(name).stem


def _suffix(path: Path) -> str:
    return (format_of(path) or "") + (".gz" if path.suffix.lower() == ".gz" else "")


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f'cannot read the folder "{folder}": {error.strerror or error}') from error


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in _children(folder) if os.path.isdir(path) and not path.name.startswith(".")]


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts 2.json before 10.json."""
    return [(int(part), "") if part.isdigit() and part.isascii() else (-1, part) for part in _NUMBERS.split(str(path))]


def expected_files() -> str:
    """Return which files are looked for, for messages."""
    stems = ", ".join(f"{words[0]}{{{','.join(FORMATS)}}}" for words in STEMS.values())
    return f"{stems} (also {', '.join(word for words in STEMS.values() for word in words[1:])}, NAME_train, train/...)"
