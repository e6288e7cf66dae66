"""Problems with the teacher's steps and what the student's thoughts decode to: answers.json."""

from __future__ import annotations

from dataclasses import dataclass

from lrd_peft.runtime.json_files import FileData


@dataclass(frozen=True, slots=True)
class TopToken(FileData):
    """A token that the LM head reads in a thought, with its probability."""

    token: str
    probability: float


@dataclass(frozen=True, slots=True)
class DecodedProblem(FileData):
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
    thoughts: tuple[tuple[TopToken, ...], ...]


@dataclass(frozen=True, slots=True)
class Answers(FileData):
    """What `lrd inspect` writes into answers.json.

    Attributes:
        source: the student and the problems, in a few words.
        problems: in the order of their data sets.
    """

    source: str
    problems: tuple[DecodedProblem, ...]
