"""Which rows of a source make up a split. Knows questions and hashes, not schemas."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lrd_peft.data.readers import question_of
from lrd_peft.data.sources import Openers, Row
from lrd_peft.errors import UserError

# Per cent of a train split that serves as validation where the set has no such split of its own.
VALIDATION_PERCENT = 7
# A single file is cut into ten parts: eight train, one validation, one test.
FILE_PARTS = 10


@dataclass(frozen=True)
class Chosen:
    """What to read for a split.

    Attributes:
        origin: the source split that the rows are read from.
        rows: those rows, some of which may belong to another split.
        owner_of: the split that a question (in comparable form) belongs to.
        held_out: the questions of the splits that this one must not contain.
    """

    origin: str
    rows: Iterator[Row]
    owner_of: Callable[[str], str]
    held_out: frozenset[str] = frozenset()


def choose(openers: Openers, *, split: str, label: str) -> Chosen:
    """Choose the rows of a split: its own source, or a cut by content.

    Validation is cut from train where it has no source, never from test. `all` is for single files.

    Raises:
        UserError: if the source cannot offer the split.
    """
    later = {"train": ("validation", "test"), "validation": ("test",)}.get(split, ())
    held_out = frozenset(question_of(row.fields) for name in later if name in openers for row in openers[name]())
    if split in openers:
        cut = split == "train" and "validation" not in openers
        return Chosen(split, openers[split](), _owner_in_train if cut else lambda _: split, held_out)
    if split == "validation" and "train" in openers:
        return Chosen("train", openers["train"](), _owner_in_train, held_out)
    if "all" not in openers:
        raise UserError(f'{label} has no split "{split}"; its files hold {", ".join(openers)}')
    if split == "all":
        return Chosen("all", openers["all"](), lambda _: split)
    rows = list(openers["all"]())
    owners = owners_in_file({question_of(row.fields) for row in rows})
    return Chosen("all", iter(rows), owners.__getitem__)


def owners_in_file(questions: set[str]) -> dict[str, str]:
    """Cut the questions of a single file: a tenth, but at least one, for validation and for test each."""
    ordered = sorted(questions, key=lambda question: (_rank(question), question))
    owners = dict.fromkeys(ordered, "train")
    if len(ordered) >= 3:  # fewer are not cut: train has them all
        num_held_out = max(1, len(ordered) // FILE_PARTS)
        owners.update(dict.fromkeys(ordered[:num_held_out], "validation"))
        owners.update(dict.fromkeys(ordered[num_held_out : 2 * num_held_out], "test"))
    return owners


def _owner_in_train(question: str) -> str:
    return "validation" if _rank(question) % 100 < VALIDATION_PERCENT else "train"


def _rank(question: str) -> int:
    # "replace": half a surrogate pair has a rank too; the reader refuses its row later.
    return int.from_bytes(hashlib.sha256(question.encode("utf-8", "replace")).digest()[:8], "big")
