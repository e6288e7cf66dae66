"""Reads data sets from the Hugging Face hub and from folders that `datasets.save_to_disk` wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from lrd_peft.data.catalog import CatalogEntry
from lrd_peft.data.file_formats import SourceRow, reason_of, table_rows
from lrd_peft.data.folder_search import split_of_stem
from lrd_peft.runtime.errors import UserError

# Split -> function that reads it, for each split that has its own source. A source without splits offers "all".
Openers = Mapping[str, Callable[[], Iterator[SourceRow]]]

_HUB_TIMEOUT_SECONDS = 5


def catalog_openers(entry: CatalogEntry, *, hub_id: str, revision: str | None) -> Openers:
    """Return the splits of a named data set on the hub. Nothing is downloaded until one is read.

    Args:
        entry: The data set.
        hub_id: Its id, or that of a copy.
        revision: Commit, tag or branch.

    Raises:
        UserError: If the data set is not on the hub.
    """
    if not entry.hub_id:
        raise UserError(
            f"{entry.name} is not on the hub, but {entry.note}; put its files into a folder and give data_dir "
            f"(a folder with {entry.name}_train.json, {entry.name}_valid.json and {entry.name}_test.json)"
        )

    def opener(split: str) -> Callable[[], Iterator[SourceRow]]:
        return lambda: _read_hub(entry, hub_id=hub_id, split=split, revision=revision)

    return {ours: opener(theirs) for ours, theirs in entry.splits.items()}


def any_hub_openers(name: str, *, revision: str | None) -> Openers:
    """Return the splits of any data set on the hub.

    Args:
        name: Hub id, with a configuration as a third part if it has several: "openai/gsm8k/socratic".
        revision: Commit, tag or branch.

    Raises:
        UserError: If it cannot be loaded.
    """
    from datasets import load_dataset  # takes a second to import; only the hub needs it

    owner, repository, *subset = name.split("/")
    hub_id = f"{owner}/{repository}"
    try:
        _check_hub()
        tables = load_dataset(hub_id, subset[0] if subset else None, revision=revision)
    except Exception as error:
        raise UserError(
            f'cannot load "{name}" from the hub: {reason_of(error)}. There is no file or folder of this name; without '
            "a network, give one; HF_HUB_OFFLINE=1 uses an earlier download; a configuration is written "
            "OWNER/NAME/CONFIGURATION"
        ) from error
    return table_openers(tables, name)


def saved_openers(folder: Path) -> Openers:
    """Return the splits of a folder that `datasets.save_to_disk` wrote.

    Raises:
        UserError: If it cannot be loaded.
    """
    from datasets import load_from_disk

    try:
        tables = load_from_disk(str(folder))
    except Exception as error:
        raise UserError(f'cannot load "{folder}", a folder of datasets.save_to_disk: {reason_of(error)}') from error
    return table_openers(tables, str(folder))


def table_openers(tables: Any, name: str) -> Openers:
    """Return the splits of a `DatasetDict`; a single table, or a lone train split, is all of its data set.

    Raises:
        UserError: If two of its splits are one of ours, or none is.
    """

    def opener(table: Any, place: str) -> Callable[[], Iterator[SourceRow]]:
        return lambda: table_rows(table, place)

    if not isinstance(tables, Mapping):
        return {"all": opener(tables, name)}
    found: dict[str, Callable[[], Iterator[SourceRow]]] = {}
    for theirs, table in tables.items():
        ours = split_of_stem(str(theirs))
        if ours in found:
            raise UserError(f'"{name}" has several splits that may be "{ours}": {", ".join(map(str, tables))}')
        if ours is not None:
            found[ours] = opener(table, f"{name} {theirs}")
    if not found and len(tables) == 1:
        [(theirs, table)] = tables.items()
        return {"all": opener(table, f"{name} {theirs}")}
    if not found:
        raise UserError(f'"{name}" has no split train, validation or test, but {", ".join(map(str, tables))}')
    return {"all": found["train"]} if found.keys() == {"train"} else found


def interleaved(sources: Sequence[Iterator[SourceRow]], place: Callable[[SourceRow, int], str]) -> Iterator[SourceRow]:
    """Yield rows of several sources by turns, numbered anew.

    Args:
        sources: The sources.
        place: Names a row, given its new number.
    """
    number = 0
    for turn in zip_longest(*sources):
        for row in turn:
            if row is not None:
                yield SourceRow(place(row, number), number, row.fields)
                number += 1


def _read_hub(entry: CatalogEntry, *, hub_id: str, split: str, revision: str | None) -> Iterator[SourceRow]:
    from datasets import load_dataset  # takes a second to import; only the hub needs it

    tables = []
    try:
        _check_hub()
        for subset in entry.subsets:
            tables.append(load_dataset(hub_id, subset, split=split, revision=revision))
    except Exception as error:
        # Whatever failed (network, proxy, cache, revision), the remedy is the same.
        files = " and ".join(f"{name}.jsonl" for name in entry.splits if name != "validation")
        raise UserError(
            f'cannot load "{hub_id}" ({split}) from the hub: {reason_of(error)}. Without a network, '
            f"give data_dir, a folder with {entry.name}/{files}; HF_HUB_OFFLINE=1 uses an earlier download"
        ) from error
    sources = [table_rows(table, f"{hub_id} {split}") for table in tables]
    yield from interleaved(sources, lambda _, number: f"{hub_id} {split}, row {number + 1}")


def _check_hub() -> None:
    """Fail within seconds if the hub does not answer; its client would retry for half a minute."""
    from huggingface_hub import constants, get_session

    if not constants.HF_HUB_OFFLINE:
        get_session().head(constants.ENDPOINT, timeout=_HUB_TIMEOUT_SECONDS)
