"""A problem: question, reasoning steps, answer. Knows no files, tokens or models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LETTERS = "ABCDE"


@dataclass(frozen=True, slots=True)
class Problem:
    """One row of a data set.

    Attributes:
        id: unique within its data set and split.
        question: the text without the options.
        steps: the reasoning chain, one sentence or equation each.
        answer: the final answer; for multiple choice the letter, `"A"` to `"E"`.
        options: the texts of a multiple-choice question, without their letters; empty otherwise.
        subject: the kind of problem, where the data set has kinds.
        num_steps: the number of steps of the problem's own solution; `len(steps)` unless given.
    """

    id: str
    question: str
    steps: tuple[str, ...]
    answer: str
    options: tuple[str, ...] = ()
    subject: str = ""
    num_steps: int = -1

    def __post_init__(self) -> None:
        if self.num_steps == -1:
            object.__setattr__(self, "num_steps", len(self.steps))

    @property
    def question_text(self) -> str:
        """The question as the model reads it: with its options on a second line, if it has any."""
        if not self.options:
            return self.question
        listed = " ".join(f"({letter}) {text}" for letter, text in zip(LETTERS, self.options, strict=False))
        return f"{self.question}\nOptions: {listed}"

    def to_row(self) -> dict[str, Any]:
        """Return the problem in SPEC.md's data format (JSON types only), with our extra fields."""
        return {
            "id": self.id,
            "question": self.question,
            "steps": list(self.steps),
            "answer": self.answer,
            "options": list(self.options),
            "subject": self.subject,
            "num_steps": self.num_steps,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Problem:
        """Make a problem from `to_row`'s mapping; keys beyond the fields are ignored.

        Raises:
            KeyError: if `question` or `answer` is missing.
        """
        return cls(
            id=str(row.get("id", "")),
            question=row["question"],
            steps=tuple(row.get("steps", ())),
            answer=row["answer"],
            options=tuple(row.get("options", ())),
            subject=row.get("subject", ""),
            num_steps=row.get("num_steps", -1),
        )
