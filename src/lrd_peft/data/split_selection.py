"""Selects the rows of a source that make up a split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from lrd_peft.data.problem_sources import ArrangedRow
from lrd_peft.data.row_parsing import question_of
from lrd_peft.runtime.errors import UserError

# Percentage of the train split that serves as validation if the data set has no validation split.
VALIDATION_PERCENT = 7
# A single file is cut into ten parts: eight for train, one each for validation and test.
FILE_PARTS = 10


@dataclass(frozen=True)
class SplitRows:
    """The rows to read for a split.

    Attributes:
        origin: Split of the source that the rows are read from.
        rows: The rows; some may belong to another split.
        owner_of: Maps a question in comparable form to its split.
        held_out: Questions of other splits, which this split must not contain.
    """

    origin: str
    rows: Iterator[ArrangedRow]
    owner_of: Callable[[str], str]
    held_out: frozenset[str] = frozenset()


def select_split(openers: Mapping[str, Callable[[], Iterator[ArrangedRow]]], *, split: str, label: str) -> SplitRows:
    """Select the rows of a split from its own source, or cut them from another one by content.

    Without its own source, validation is cut from train, never from test.

    Args:
        openers: Splits that the source has.
        split: Name of the split; `all` is for single files.
        label: Name of the data set, for messages.

    Returns:
        The rows, and which of them belong to the split.

    Raises:
        UserError: If the source has no such split.
    """
    later = {"train": ("validation", "test"), "validation": ("test",)}.get(split, ())
    held_out = frozenset(question_of(row.fields) for name in later if name in openers for row in openers[name]())
    if split in openers:
        cut = split == "train" and "validation" not in openers
        return SplitRows(split, openers[split](), _owner_in_train if cut else lambda _: split, held_out)
    if split == "validation" and "train" in openers:
        return SplitRows("train", openers["train"](), _owner_in_train, held_out)
    if "all" not in openers:
        raise UserError(f'{label} has no split "{split}"; its files contain {", ".join(openers)}')
    if split == "all":
        return SplitRows("all", openers["all"](), lambda _: split)
    rows = list(openers["all"]())
    owners = owners_in_file({question_of(row.fields) for row in rows})
    return SplitRows("all", iter(rows), owners.__getitem__)


def owners_in_file(questions: set[str]) -> dict[str, str]:
    """Assign the questions of a single file to splits: a tenth (at least one) each to validation and test."""
    ordered = sorted(questions, key=lambda question: (_rank(question), question))
    owners = dict.fromkeys(ordered, "train")
    if len(ordered) >= 3:  # fewer all go to train
        num_held_out = max(1, len(ordered) // FILE_PARTS)
        owners.update(dict.fromkeys(ordered[:num_held_out], "validation"))
        owners.update(dict.fromkeys(ordered[num_held_out : 2 * num_held_out], "test"))
    return owners


def _owner_in_train(question: str) -> str:
    return "validation" if _rank(question) % 100 < VALIDATION_PERCENT else "train"


def _rank(question: str) -> int:
    # "replace": a lone surrogate also needs a rank; its row is refused later.
    return int.from_bytes(hashlib.sha256(question.encode("utf-8", "replace")).digest()[:8], "big")
