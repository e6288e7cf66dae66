"""Answering with thoughts that are refined together, in fewer sequential passes than there are thoughts.

Thought j depends on the thoughts before it only, so from any start it is the sequential one after j refinements (Song
et al., arXiv 2002.03629). How many refinements the answers need depends on the start:

    first     the first thought in every slot, as in PCCoT (arXiv 2506.18582)
    mean      each slot's mean thought over training problems
    linear    a linear map of the first thought, fitted to the sequential thoughts of training problems by ridge
              regression
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import torch
from jaxtyping import Float
from torch import Tensor

from lrd_peft.data.problem import Problem
from lrd_peft.evaluation.metrics import Accuracy, mcnemar
from lrd_peft.evaluation.parallel_results import ParallelThoughts, RefinedRow
from lrd_peft.evaluation.thought_answers import ThoughtAnswer, ThoughtAnswers, problems_that_fit
from lrd_peft.model.generation import Refinement
from lrd_peft.model.loop import ThoughtStart
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.model.thought_distance import relative_distance
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.progress import Progress

# Relative changes at which a problem's refinement stops.
TOLERANCES = (0.3, 0.1, 0.03, 0.01)
# Ridge, as a fraction of the mean square of the first thought's components.
_RIDGE = 1e-3


@dataclass(frozen=True)
class LinearStart:
    """Makes all thoughts of the first one.

    Attributes:
        weight: Maps of the further thoughts.
        bias: Their values where the first thought is 0.
    """

    weight: Float[Tensor, "further hidden hidden"]
    bias: Float[Tensor, "further hidden"]

    @classmethod
    def fit(cls, thoughts: Float[Tensor, "problem thought hidden"]) -> LinearStart:
        """Fit the maps to sequential thoughts by ridge regression."""
        thoughts = thoughts.double()
        first, others = thoughts[:, 0], thoughts[:, 1:]
        mean, goal = first.mean(dim=0), others.mean(dim=0)
        centered = first - mean
        gram = centered.T @ centered
        gram += _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        weight = torch.linalg.solve(gram, torch.einsum("pi,pjo->ijo", centered, others - goal).flatten(1))
        weight = weight.unflatten(1, others.shape[1:]).permute(1, 0, 2)
        return cls(weight.float(), (goal - torch.einsum("i,jio->jo", mean, weight)).float())

    @classmethod
    def mean(cls, thoughts: Float[Tensor, "problem thought hidden"]) -> LinearStart:
        """Return the start that is each slot's mean."""
        goal = thoughts[:, 1:].float().mean(dim=0)
        return cls(goal.new_zeros(*goal.shape, goal.shape[-1]), goal)

    def __call__(self, first: Float[Tensor, "batch 1 hidden"]) -> Float[Tensor, "batch thought hidden"]:
        weight, bias = self.weight.to(first), self.bias.to(first)
        others = torch.einsum("bi,jio->bjo", first[:, 0], weight) + bias
        return torch.cat([first, others], dim=1)


def refine(
    model: ThinkingModel,
    problems: Sequence[Problem],
    *,
    training: Sequence[Problem],
    name: str,
    dataset: str,
    batch_size: int = 64,
    max_new_tokens: int = 32,
) -> ParallelThoughts:
    """Answer problems after sequential thoughts, and after thoughts refined in parallel.

    Args:
        model: A model that thinks one thought after another, in evaluation mode.
        problems: Held-out problems.
        training: Training problems, on which the starts are fitted.
        name: What the model is called in the result.
        dataset: Name of the data set.
        batch_size: Problems per batch; results do not depend on it.
        max_new_tokens: Maximum number of tokens per answer.

    Raises:
        UserError: If the model has fewer than two thoughts or refines them in parallel anyway, or no problem fits.

    Example:
        >>> from lrd_peft import TeacherModel, load_problems
        >>> from lrd_peft.evaluation.parallel_thoughts import refine
        >>> teacher = TeacherModel.from_pretrained("tiny-graph-teacher")
        >>> some = load_problems("graph-mini", split="train", limit=16)
        >>> held_out = load_problems("graph-mini", split="test", limit=8)
        >>> found = refine(teacher, held_out, training=some, name="teacher", dataset="graph-mini")
        >>> {row.start for row in found.rows} == {"first", "mean", "linear"}
        True
    """
    count = model.options.num_thoughts
    if count < 2:
        raise UserError(f"{name} has {count} thoughts; parallel refinement needs at least 2")
    if model.options.jacobi_passes is not None:
        raise UserError(f"{name} was trained to refine its thoughts in parallel; only sequential thoughts are compared")
    num_given = len(problems)
    problems, training = (
        problems_that_fit(model, each, num_thoughts=count, max_new_tokens=max_new_tokens)
        for each in (problems, training)
    )
    if not problems or not training:
        raise UserError("no problem fits into the model's context with its thoughts and answer")
    ways: list[tuple[str, ThoughtStart | None, int, float | None]] = []
    with Progress(f"{name} on {dataset}, training problems", total=len(training), unit="problems") as progress:
        known = ThoughtAnswers(model, training, batch_size=batch_size, max_new_tokens=1)
        _, thoughts = _answered(known, None, progress)
    starts = {"first": None, "mean": LinearStart.mean(thoughts), "linear": LinearStart.fit(thoughts)}
    for start, made in starts.items():
        ways += [(start, made, passes, None) for passes in range(1, count + 1)]
        ways += [(start, made, count, tolerance) for tolerance in TOLERANCES]
    answers = ThoughtAnswers(model, problems, batch_size=batch_size, max_new_tokens=max_new_tokens)
    rows = []
    total = len(problems) * (1 + len(ways))
    with Progress(f"{name} on {dataset}", total=total, unit="problems") as progress:
        sequential, thoughts = _answered(answers, None, progress)
        right = [each.right for each in sequential]
        for number, (start, made, passes, tolerance) in enumerate(ways, start=1):
            how = Refinement(passes, made, tolerance)
            graded, refined = _answered(answers, how, progress, done=number * len(problems))
            rows.append(
                RefinedRow(
                    start=start,
                    max_passes=passes,
                    tolerance=tolerance,
                    accuracy=Accuracy.of([each.right for each in graded]),
                    mean_passes=mean(each.num_passes for each in graded),
                    p_value=mcnemar([each.right for each in graded], right).p_value,
                    num_changed=sum(a.predicted != b.predicted for a, b in zip(graded, sequential, strict=True)),
                    distance=round(relative_distance(refined, thoughts), 6),
                )
            )
    return ParallelThoughts(
        model=name,
        dataset=dataset,
        num_thoughts=count,
        num_fitted=len(training),
        sequential=Accuracy.of(right),
        rows=tuple(rows),
        num_too_long=num_given - len(problems),
    )


def _answered(
    answers: ThoughtAnswers, refinement: Refinement | None, progress: Progress, *, done: int = 0
) -> tuple[list[ThoughtAnswer], Float[Tensor, "problem thought hidden"]]:
    """Return the answers to all problems and the thoughts before them; without a refinement they are sequential."""
    model, count = answers.model, len(answers.problems)
    found: dict[int, ThoughtAnswer] = {}
    thoughts = torch.empty(count, model.options.num_thoughts, model.hidden_size)
    for rows in answers.batches():
        given, thinking = answers.given(rows, refinement=refinement)
        found |= given
        thoughts[rows] = thinking.thoughts.float().cpu()
        progress.update(done + len(found))
    return [found[i] for i in range(count)], thoughts
