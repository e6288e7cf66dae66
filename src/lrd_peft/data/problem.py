"""A problem: question, reasoning steps, answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lrd_peft.config.choices import AnswerKind

LETTERS = "ABCDE"


@dataclass(frozen=True, slots=True)
class Problem:
    """One row of a data set.

    Attributes:
        id: Unique within the data set and split.
        question: Text without the options.
        steps: Reasoning steps, one sentence or equation each.
        answer: Final answer; for multiple choice the letter, `"A"` to `"E"`.
        options: Texts of the options without their letters; empty if the question is not multiple choice.
        subject: Kind of problem, if the data set has kinds.
        num_steps: Number of steps of the problem's own solution; `len(steps)` unless given.
        answer_kind: How the answer is graded; None: decided by the answer itself.
    """

    id: str
    question: str
    steps: tuple[str, ...]
    answer: str
    options: tuple[str, ...] = ()
    subject: str = ""
    num_steps: int = -1
    answer_kind: AnswerKind | None = None

    def __post_init__(self) -> None:
        if self.num_steps == -1:
            object.__setattr__(self, "num_steps", len(self.steps))

    @property
    def question_text(self) -> str:
        """The question as the model reads it, with any options on a second line."""
        if not self.options:
            return self.question
        listed = " ".join(f"({letter}) {text}" for letter, text in zip(LETTERS, self.options, strict=False))
        return f"{self.question}\nOptions: {listed}"

    def to_row(self) -> dict[str, Any]:
        """Return the problem in SPEC.md's data format with further fields, in JSON types."""
        row: dict[str, Any] = {
            "id": self.id,
            "question": self.question,
            "steps": list(self.steps),
            "answer": self.answer,
            "options": list(self.options),
            "subject": self.subject,
            "num_steps": self.num_steps,
        }
        return row if self.answer_kind is None else {**row, "answer_kind": self.answer_kind}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Problem:
        """Build a problem from the mapping of `to_row`. Unknown keys are ignored.

        Args:
            row: Fields of the problem.

        Returns:
            The problem.

        Raises:
            KeyError: If `question` or `answer` is missing.
        """
        return cls(
            id=str(row.get("id", "")),
            question=row["question"],
            steps=tuple(row.get("steps", ())),
            answer=row["answer"],
            options=tuple(row.get("options", ())),
            subject=row.get("subject", ""),
            num_steps=row.get("num_steps", -1),
            answer_kind=row.get("answer_kind"),
        )
