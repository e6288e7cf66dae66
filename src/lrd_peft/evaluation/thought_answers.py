"""Answers of a model to fixed problems after thoughts that are made or changed in one way or another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from lrd_peft.data.problem import Problem
from lrd_peft.evaluation.score import grade_written
from lrd_peft.model.generation import answer_batch
from lrd_peft.model.inspection import context_length
from lrd_peft.model.loop import Thinking, unwrap
from lrd_peft.model.thinking_model import ThinkingModel


@dataclass(frozen=True, slots=True)
class ThoughtAnswer:
    """A graded answer. Answers are equal whatever passes they took.

    Attributes:
        text: What was written, the answer after the marker.
        predicted: The answer found in it.
        right: Whether it is right.
        num_passes: Sequential passes before the answer's first token.
    """

    text: str
    predicted: str | None
    right: bool
    num_passes: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class ThoughtAnswers:
    """Answers fixed problems, named by their indices.

    Attributes:
        model: A model that thinks, in evaluation mode.
        problems: The problems; all fit into the model's context.
        batch_size: Problems per batch.
        max_new_tokens: Maximum number of tokens per answer.
    """

    model: ThinkingModel
    problems: Sequence[Problem]
    batch_size: int
    max_new_tokens: int

    def batches(self) -> Iterator[list[int]]:
        """Yield the indices of problems of similar length."""
        order = sorted(range(len(self.problems)), key=lambda i: len(self.problems[i].question_text))
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    def given(self, rows: Sequence[int], **thinking_options: Any) -> tuple[dict[int, ThoughtAnswer], Thinking]:
        """Return the answers to some problems, and what was thought.

        Args:
            rows: Indices of the problems.
            thinking_options: `thoughts`, `num_thoughts` and `refinement` of `answer_batch`.
        """
        thinking: list[Thinking] = []
        forced = self.model.options.force_marker
        written = answer_batch(
            self.model,
            [self.problems[i].question_text for i in rows],
            thinking=True,
            force_marker=forced,
            max_new_tokens=self.max_new_tokens,
            thinking_out=thinking,
            **thinking_options,
        )
        found = {}
        for i, row in zip(rows, written, strict=True):
            text, graded = grade_written(self.model, self.problems[i], row, forced=forced)
            num_passes = row.num_passes - max(0, row.num_tokens - 1)
            found[i] = ThoughtAnswer(text, graded.predicted, graded.right, num_passes)
        return found, thinking[0]


def problems_that_fit(
    model: ThinkingModel, problems: Sequence[Problem], *, num_thoughts: int, max_new_tokens: int
) -> list[Problem]:
    """Return the problems that fit into a model's context with so many thoughts, the marker and the answer."""
    context = context_length(unwrap(model.lm).config)
    if context is None:
        return list(problems)
    room = context - num_thoughts - len(model.encoder.marker) - max_new_tokens
    return [each for each in problems if len(model.encoder.prompt(each.question_text)) <= room]
