"""Answers problems with a model in batches and grades the answers."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from lrd_peft.data.encoding import MARKER
from lrd_peft.data.problem import Problem
from lrd_peft.evaluation.answers import Grade, grade, kind_of
from lrd_peft.evaluation.metrics import ProblemResult
from lrd_peft.model.generation import Generated, answer_batch
from lrd_peft.model.loop import unwrap
from lrd_peft.model.memory import rows_that_fit
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.runtime.processes import gather, is_main, num_processes, share
from lrd_peft.runtime.progress import Progress


def score(
    model: ThinkingModel,
    problems: Sequence[Problem],
    *,
    thinking: bool,
    batch_size: int,
    max_new_tokens: int,
    label: str = "evaluation",
    force_marker: bool | None = None,
) -> list[ProblemResult]:
    """Answer and grade problems. Several processes share the batches, and each returns all results.

    Args:
        model: Model that answers.
        problems: Problems to answer.
        thinking: Answer after continuous thoughts if the model has slots, otherwise in written steps.
        batch_size: Maximum number of problems per batch. Batches are smaller if memory is estimated or found to be
            too small.
        max_new_tokens: Maximum number of tokens per answer. A truncated text is graded as it is.
        label: Name of the progress bar.
        force_marker: See `answer_batch`.

    Returns:
        Results in the order of the problems.
    """
    thinking = thinking and model.options.num_thoughts > 0
    forced = thinking and model.options.force_marker if force_marker is None else force_marker
    was_training = model.training
    model.eval()
    # Questions of similar length share a batch, to reduce padding.
    order = sorted(range(len(problems)), key=lambda i: len(problems[i].question_text))
    longest = len(model.encoder.prompt(problems[order[-1]].question_text)) if order else 1
    positions = longest + model.options.num_thoughts + max_new_tokens
    most = min(batch_size, *gather([rows_that_fit(unwrap(model.lm), question=longest, positions=positions)]))
    batches = [order[start : start + most] for start in range(0, len(order), most)]
    waiting = list(share(batches))[::-1]
    own: list[tuple[int, ProblemResult]] = []
    with Progress(label, total=len(problems), unit="problems", quiet=not is_main()) as progress:
        while waiting:
            chosen = waiting.pop()
            if len(chosen) > most:
                waiting += [chosen[most:], chosen[:most]]
                continue
            began = time.perf_counter()
            try:
                rows = answer_batch(
                    model,
                    [problems[i].question_text for i in chosen],
                    thinking=thinking,
                    force_marker=forced,
                    max_new_tokens=max_new_tokens,
                )
            except RuntimeError as error:
                if len(chosen) == 1 or not should_reduce_batch_size(error):
                    raise
                most = len(chosen) // 2
                waiting.append(chosen)
                clear_device_cache()
                continue
            seconds = (time.perf_counter() - began) / len(chosen)
            for i, row in zip(chosen, rows, strict=True):
                graded = _grade(model, problems[i], row, forced=forced, seconds=seconds)
                own.append((i, graded))
            progress.update(min(len(own) * num_processes(), len(problems)))
    model.train(was_training)
    results = dict(gather(own))
    return [results[i] for i in range(len(problems))]


def grade_written(model: ThinkingModel, problem: Problem, row: Generated, *, forced: bool) -> tuple[str, Grade]:
    """Grade what a model wrote for a problem.

    Args:
        model: Model that wrote it.
        problem: The problem.
        row: What was written.
        forced: Whether the answer marker was put before it.

    Returns:
        The text in which the answer stands after `MARKER`, whatever the model's own marker is, and its grade.
    """
    text = str(model.tokenizer.decode(list(row.tokens), skip_special_tokens=True))
    text = MARKER + text if forced else text.replace(model.encoder.shown_marker, MARKER.strip())
    return text, grade(kind_of(problem), text, problem.answer)


def _grade(model: ThinkingModel, problem: Problem, row: Generated, *, forced: bool, seconds: float) -> ProblemResult:
    _, graded = grade_written(model, problem, row, forced=forced)
    return ProblemResult(
        problem_id=problem.id,
        subject=problem.subject,
        num_steps=problem.num_steps,
        predicted=graded.predicted,
        gold=problem.answer,
        right=graded.right,
        parsed=graded.parsed,
        num_tokens=row.num_tokens,
        num_thoughts=row.num_thoughts,
        num_passes=row.num_passes,
        confidence=_confidence(row, _answer_start(model, row, forced=forced)),
        seconds=seconds,
        strict=graded.strict,
        timed_out=graded.timed_out,
    )


def _answer_start(model: ThinkingModel, row: Generated, *, forced: bool) -> int:
    """Return the index of the answer's first token, or 0 if the text has no marker."""
    marker = model.encoder.marker
    if forced:
        return 0
    for start in range(len(row.tokens) - len(marker), -1, -1):
        if row.tokens[start : start + len(marker)] == marker:
            return start + len(marker)
    return 0


def _confidence(row: Generated, start: int) -> float | None:
    """Return the joint probability of the answer's tokens, or None if there are none."""
    chosen = row.probabilities[start:]
    if not chosen:
        return None
    return math.exp(sum(math.log(max(p, 1e-30)) for p in chosen))


def written_limit(model: ThinkingModel, problems: Sequence[Problem], *, thinking: bool) -> int:
    """Return a limit of new tokens: one and a half times the longest text of these problems, plus 4."""
    encoded = model.encoder.encode_many(problems)
    at_once = thinking and model.options.num_thoughts > 0 and model.options.force_marker
    longest = max(len(row.answer) if at_once else len(row.suffix(0)) for row in encoded)
    return math.ceil(longest * 1.5) + 4
