"""Loss and accuracy of a model in training on held-out problems."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from lrd_peft.data.collate import to_device
from lrd_peft.evaluation.metrics import ProblemResult, wilson
from lrd_peft.evaluation.score import score, written_limit
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.runtime.processes import gather, num_processes, rank
from lrd_peft.training.curriculum import Item, StageCollator

# Training problems that the length of an answer is estimated from.
_KNOWN_PROBLEMS = 300


@torch.no_grad()
def task_loss(
    model: nn.Module,
    items: Sequence[Item],
    collator: StageCollator,
    *,
    batch_size: int,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
    after_batch: Callable[[], None],
) -> float:
    """Compute the mean cross-entropy per labeled token.

    Several processes share the batches. All make the same number of forward passes, because the weights may be sharded.

    Args:
        model: Model in evaluation mode.
        items: Problems.
        collator: Makes their batches.
        batch_size: Problems per batch.
        device: Device of this process.
        autocast: Context of the training's precision.
        after_batch: Called after each forward pass.

    Returns:
        The mean over all labeled tokens, in nats.
    """
    batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    loss_sum, num_labels = 0.0, 0
    for round_number in range(math.ceil(len(batches) / num_processes())):
        own = round_number * num_processes() + rank()
        inputs = to_device(collator(batches[min(own, len(batches) - 1)]), device)
        with autocast():
            output = model(**inputs)
        after_batch()
        if own < len(batches):
            loss_sum += output.loss_sum.item()
            num_labels += int(output.num_labels)
    sums = gather([(loss_sum, num_labels)])
    return math.fsum(loss for loss, _ in sums) / sum(labels for _, labels in sums)


def answers(
    model: ThinkingModel, items: Sequence[Item], known: Sequence[Item], *, batch_size: int, label: str
) -> list[ProblemResult]:
    """Let a model answer held-out problems and grade the answers.

    Args:
        model: Model that answers with all its thoughts.
        items: Problems to answer.
        known: Training problems, whose answers set the limit of generated tokens.
        batch_size: Most problems per batch.
        label: Label of the progress line.

    Returns:
        The graded answers, in the order of the problems.
    """
    training = [item.encoded.problem for item in known[:_KNOWN_PROBLEMS]]
    return score(
        model,
        [item.encoded.problem for item in items],
        thinking=True,
        batch_size=batch_size,
        max_new_tokens=written_limit(model, training, thinking=True),
        label=label,
    )


def accuracy_metrics(results: Sequence[ProblemResult]) -> dict[str, float]:
    """Return accuracy, its Wilson 95% interval, and the number of problems."""
    num_right = sum(result.right for result in results)
    low, high = wilson(num_right, len(results))
    return {
        "accuracy": num_right / len(results),
        "accuracy_low": low,
        "accuracy_high": high,
        "num_problems": len(results),
    }
