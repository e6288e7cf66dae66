"""What a generator draws: a problem before it has an id and a split."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Draft:
    """A drawn problem.

    Attributes:
        signature: its content without names, things and wording: kind, structure and numbers. Two drafts with
            one signature are the same arithmetic in other clothes, so the split is a function of it.
    """

    question: str
    steps: tuple[str, ...]
    answer: str
    signature: str
    subject: str
    options: tuple[str, ...] = ()
