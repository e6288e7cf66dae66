"""Problems with the teacher's steps and what the student's thoughts decode to. Knows one JSON file, not models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class DecodedProblem:
    """One problem with what the teacher wrote and the student thought.

    Attributes:
        dataset: the data set's name.
        question: without its options.
        options: answer options with their letters; empty for an open question.
        answer: the right answer.
        teacher_steps: the steps that the teacher wrote; empty if the run has no teacher that writes.
        student_answer: None where nothing could be parsed.
        right: whether the student's answer is right.
        thoughts: for each thought the likeliest tokens of the LM head at its slot with their probabilities.
    """

    dataset: str
    question: str
    options: tuple[str, ...]
    answer: str
    teacher_steps: tuple[str, ...]
    student_answer: str | None
    right: bool
    thoughts: tuple[tuple[tuple[str, float], ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types only."""
        thoughts = [
            [{"token": token, "probability": probability} for token, probability in slot] for slot in self.thoughts
        ]
        lists = {"options": list(self.options), "teacher_steps": list(self.teacher_steps), "thoughts": thoughts}
        return asdict(self) | lists

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> DecodedProblem:
        """Make it from `to_dict`'s mapping."""
        given = row["student_answer"]
        return cls(
            dataset=str(row["dataset"]),
            question=str(row["question"]),
            options=tuple(map(str, row["options"])),
            answer=str(row["answer"]),
            teacher_steps=tuple(map(str, row["teacher_steps"])),
            student_answer=None if given is None else str(given),
            right=bool(row["right"]),
            thoughts=tuple(
                tuple((str(token["token"]), float(token["probability"])) for token in thought)
                for thought in row["thoughts"]
            ),
        )


@dataclass(frozen=True, slots=True)
class Answers:
    """What `lrd inspect` writes into answers.json.

    Attributes:
        source: the student and the problems, in a few words.
        problems: in the order of their data sets.
    """

    source: str
    problems: tuple[DecodedProblem, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types only."""
        return {"source": self.source, "problems": [problem.to_dict() for problem in self.problems]}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Answers:
        """Make it from `to_dict`'s mapping."""
        return cls(str(row["source"]), tuple(DecodedProblem.from_dict(each) for each in row["problems"]))
