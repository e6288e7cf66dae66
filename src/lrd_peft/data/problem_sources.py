"""Opens a data set by its name: files, folders and the hub, with rows under the names of a schema."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from lrd_peft.data.catalog import CATALOG, NAMES, CatalogEntry
from lrd_peft.data.file_formats import FORMATS, SourceRow, format_of, is_data_file, read_file
from lrd_peft.data.folder_search import SAVED, STEMS, expected_files, find_splits
from lrd_peft.data.generators import SETS, is_generated
from lrd_peft.data.hub_reading import Openers, any_hub_openers, catalog_openers, interleaved, saved_openers
from lrd_peft.data.layouts import Arrangement, arrangement_of
from lrd_peft.data.row_parsing import RowSchema
from lrd_peft.data.row_values import MalformedRow
from lrd_peft.runtime.errors import UserError, nearest

# Rows by which the layout of a source is recognized: the first may lack a column, or its "####".
_NUM_INSPECTED = 200


@dataclass(frozen=True, slots=True)
class ArrangedRow:
    """One row under the names of its schema.

    Attributes:
        place: File and line, or hub name and row, for messages.
        number: Position in its source, from 0.
        fields: The columns.
        schema: Schema of the row.
        unused: Columns that hold something and are not read.
    """

    place: str
    number: int
    fields: Mapping[str, Any]
    schema: RowSchema
    unused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProblemSource:
    """A data set that can be read.

    Attributes:
        label: Its name in ids and messages.
        openers: Split -> function that reads its rows.
        entry: Its entry in the catalog, if it has one.
        unread_files: Names of files beside it that might be data.
    """

    label: str
    openers: Mapping[str, Callable[[], Iterator[ArrangedRow]]]
    entry: CatalogEntry | None = None
    unread_files: tuple[str, ...] = field(default_factory=tuple)


def is_named(name: str) -> bool:
    """Return whether a data set is generated or in the catalog, so that its columns are known."""
    return is_generated(name) or name in CATALOG


def open_source(
    name: str, *, data_dir: Path | None, revision: str | None = None, columns: Mapping[str, str] | None = None
) -> ProblemSource:
    """Find a data set that is not generated.

    Args:
        name: Name, hub id, file or folder.
        data_dir: Folder with local copies.
        revision: Revision on the hub.
        columns: Field of a problem -> column, where the user named them.

    Raises:
        UserError: If there is none, or its files are ambiguous.
    """
    entry = CATALOG.get(name)
    if entry is not None:
        if data_dir is None:
            hub_id = name if "/" in name else entry.hub_id
            return _source(entry.name, catalog_openers(entry, hub_id=hub_id, revision=revision), entry=entry)
        openers, unread = _local(entry, data_dir)
        return _source(entry.name, openers, entry=entry, unread=unread)
    # os.path returns False for a name that is too long or a folder without permission, where Path raises.
    for path in [Path(name), *([data_dir / name] if data_dir is not None else [])]:
        if os.path.isfile(path):
            return _source(_label(path), _file_openers(path), columns=columns)
        if os.path.isdir(path):
            openers, unread = _folder_openers(path)
            if not openers:
                raise UserError(f'folder "{path}" contains no file of a split: {expected_files()}')
            return _source(path.resolve().name, openers, columns=columns, unread=unread)
    if format_of(Path(name)) is not None or name.startswith((".", "/", "~")):
        raise UserError(f'no file "{name}"' + (f' here or in "{data_dir}"' if data_dir is not None else ""))
    if name.count("/") in (1, 2) and all(name.split("/")) and len(name) < 200:
        return _source(name.replace("/", "--"), any_hub_openers(name, revision=revision), columns=columns)
    known = [*SETS, *NAMES]
    hint = nearest(name.lower(), known)
    raise UserError(
        f'unknown data set "{name}"; choose one of {", ".join(known)}, or give a hub id (OWNER/NAME), a folder, or a '
        f"file ({', '.join(FORMATS)}).{hint}"
    )


def _source(
    label: str,
    openers: Openers,
    *,
    entry: CatalogEntry | None = None,
    columns: Mapping[str, str] | None = None,
    unread: tuple[Path, ...] = (),
) -> ProblemSource:
    schema = None if entry is None else entry.schema

    def arranged(opener: Callable[[], Iterator[SourceRow]]) -> Callable[[], Iterator[ArrangedRow]]:
        return lambda: _arranged(opener(), columns, schema)

    found = {split: arranged(opener) for split, opener in openers.items()}
    return ProblemSource(label, found, entry, tuple(path.name for path in unread))


def _arranged(
    rows: Iterator[SourceRow], columns: Mapping[str, str] | None, schema: RowSchema | None
) -> Iterator[ArrangedRow]:
    first = list(islice(rows, _NUM_INSPECTED))
    if not first:
        return
    arrangement: Arrangement | None = None
    for row in chain(first, rows):
        try:
            if arrangement is None:
                arrangement = arrangement_of([each.fields for each in first], columns, schema=schema)
            fields, unused = arrangement.arrange(row.fields), arrangement.unused(row.fields)
        except MalformedRow as error:
            raise UserError(f"{row.place}: {error}") from error
        yield ArrangedRow(row.place, row.number, fields, arrangement.schema, tuple(unused))


def _local(entry: CatalogEntry, data_dir: Path) -> tuple[Openers, tuple[Path, ...]]:
    """Find the files of a named data set in `data_dir`, or in its folder there."""
    if not os.path.isdir(data_dir):
        raise UserError(f'data_dir "{data_dir}" is not a folder; give the folder that contains {entry.name}/')
    inner = [data_dir / name for name in entry.local_names if os.path.isdir(data_dir / name)]
    only_test = "train" not in entry.splits
    for folder in (*inner, data_dir):
        single = [path for path in _single_files(folder, entry) if is_data_file(path)]
        if len(single) > 1:
            raise UserError(f'"{folder}" has {single[0].name} and {single[1].name}; keep one')
        if single and only_test:
            return {"test": _opener((single,))}, ()
        openers, unread = _folder_openers(folder, entry)
        if openers:
            return openers, unread
        if single:
            return {"all": _opener((single,))}, ()
    names = ", ".join(str(data_dir / name) for name in dict.fromkeys(name.lower() for name in entry.local_names))
    raise UserError(f'no file of {entry.name} in "{data_dir}": looked for {expected_files()} there and in {names}')


def _single_files(folder: Path, entry: CatalogEntry) -> list[Path]:
    names = {name.lower() for name in entry.local_names}
    return [path for path in sorted(folder.iterdir()) if path.name.split(".")[0].lower() in names]


def _folder_openers(folder: Path, entry: CatalogEntry | None = None) -> tuple[Openers, tuple[Path, ...]]:
    """Return the splits of a folder, and files beside them that might be data."""
    if any(os.path.isfile(folder / name) for name in SAVED):
        return saved_openers(folder), ()
    found = find_splits(
        folder,
        names=() if entry is None else entry.local_names,
        subsets=() if entry is None else [subset for subset in entry.subsets if subset is not None],
    )
    wanted = found.groups if entry is None else _wanted(found.groups, entry)
    return {split: _opener(groups) for split, groups in wanted.items()}, found.unread


def _wanted(groups: Mapping[str, Any], entry: CatalogEntry) -> dict[str, Any]:
    """Return the local splits of a named data set; what the hub calls otherwise is renamed as there."""
    renamed = {theirs: ours for ours, theirs in entry.splits.items() if ours != theirs}
    found = dict(groups)
    for theirs, ours in renamed.items():
        if ours not in found and theirs in found and theirs not in entry.splits:
            found[ours] = found.pop(theirs)
    return found


def _file_openers(path: Path) -> Openers:
    """Return the held-out split that a file is named after, or all its rows."""
    stem = path.name.split(".")[0]
    held_out = (split for split in ("validation", "test") if stem in STEMS[split])
    return {next(held_out, "all"): _opener(((path,),))}


def _label(path: Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[0] or path.name


def _opener(groups: Any) -> Callable[[], Iterator[SourceRow]]:
    """Return what reads files one after another, and several groups of them by turns."""

    def rows() -> Iterator[SourceRow]:
        sources = [chain.from_iterable(read_file(path) for path in group) for group in groups]
        return interleaved(sources, lambda row, _: row.place)

    return rows
