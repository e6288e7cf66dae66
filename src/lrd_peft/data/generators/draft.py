"""A drawn problem, before it gets an id and a split."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Draft:
    """A drawn problem.

    Attributes:
        question: Text of the question, without options.
        steps: Written steps of the solution.
        answer: Final answer.
        signature: Kind, structure and numbers, without names and wording. Drafts with the same signature are the same
            arithmetic in other words, so the signature determines the split.
        subject: Kind of problem.
        options: Answer options, if any.
    """

    question: str
    steps: tuple[str, ...]
    answer: str
    signature: str
    subject: str
    options: tuple[str, ...] = ()
