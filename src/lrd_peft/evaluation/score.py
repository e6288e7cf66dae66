"""Lets a model answer problems in batches and grades what it wrote. Knows models and answers, not methods or disks."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from lrd_peft.data.encoding import MARKER
from lrd_peft.data.problem import Problem
from lrd_peft.evaluation.answers import grade, kind_of
from lrd_peft.evaluation.metrics import ProblemResult
from lrd_peft.model.generate import Generated
from lrd_peft.model.memory import rows_that_fit
from lrd_peft.model.models import write
from lrd_peft.model.thinking import unwrap
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.processes import gather, is_main, num_processes, share
from lrd_peft.progress import Progress


def score(
    model: ThinkingModel,
    problems: Sequence[Problem],
    *,
    thinking: bool,
    batch_size: int,
    max_new_tokens: int,
    label: str = "evaluation",
    force_marker: bool = True,
) -> list[ProblemResult]:
    """Answer and grade problems; results come in the order of the problems.

    Several processes share the batches out, and all of them get all results.

    Args:
        batch_size: the most problems at a time; fewer where memory does not hold them, by estimate or by experience.
        thinking: in continuous thoughts if the model has slots for them, else in written steps.
        max_new_tokens: the most tokens that a problem may take; a text cut there is graded as it stands.
        force_marker: after the thoughts, make the model answer at once; False lets it write remaining steps first.
    """
    thinking = thinking and model.options.num_thoughts > 0
    was_training = model.training
    model.eval()
    # Neighbours in length share a batch, so that little is padded.
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
                rows = write(
                    model,
                    [problems[i].question_text for i in chosen],
                    thinking=thinking,
                    force_marker=force_marker,
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
                graded = _grade(model, problems[i], row, thinking=thinking and force_marker, seconds=seconds)
                own.append((i, graded))
            progress.update(min(len(own) * num_processes(), len(problems)))
    model.train(was_training)
    results = dict(gather(own))
    return [results[i] for i in range(len(problems))]


def _grade(model: ThinkingModel, problem: Problem, row: Generated, *, thinking: bool, seconds: float) -> ProblemResult:
    text = str(model.tokenizer.decode(list(row.tokens), skip_special_tokens=True))
    full = MARKER + text if thinking else text
    graded = grade(kind_of(problem), full, problem.answer)
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
        confidence=_confidence(row, _answer_start(model, row, thinking=thinking)),
        seconds=seconds,
        strict=graded.strict,
    )


def _answer_start(model: ThinkingModel, row: Generated, *, thinking: bool) -> int:
    """Return the index of the first generated token of the answer; the whole text if no marker was written."""
    marker = model.encoder.marker
    if thinking:
        return 0
    for start in range(len(row.tokens) - len(marker), -1, -1):
        if row.tokens[start : start + len(marker)] == marker:
            return start + len(marker)
    return 0


def _confidence(row: Generated, start: int) -> float | None:
    """Return the probability of the answer's tokens, the product of each given those before; None without any."""
    chosen = row.probabilities[start:]
    if not chosen:
        return None
    return math.exp(sum(math.log(max(p, 1e-30)) for p in chosen))


def written_limit(model: ThinkingModel, problems: Sequence[Problem], *, thinking: bool) -> int:
    """Return a limit for new tokens: one and a half times the longest of these problems' texts, and some."""
    encoded = model.encoder.encode_many(problems)
    thinking = thinking and model.options.num_thoughts > 0
    longest = max(len(row.answer) if thinking else len(row.suffix(0)) for row in encoded)
    return math.ceil(longest * 1.5) + 4
