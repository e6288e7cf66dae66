"""How long the trainings of a run will take here, measured on a few of their batches before the first one begins."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lrd_peft.config import RunConfig
from lrd_peft.data.collate import to_device
from lrd_peft.distillation import LatentDistillationLoss, map_layers
from lrd_peft.model.student import StudentModel
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.pipeline.from_config import load_options, student_collator, student_options, with_lora
from lrd_peft.runtime.processes import device_of, num_processes
from lrd_peft.runtime.progress import duration
from lrd_peft.training.curriculum import Item, StageCollator, items

logger = logging.getLogger(__name__)

FEWEST_UPDATES = 1000
"""Updates of a run's trainings below which nothing is measured."""
_MEASURED_PROBLEMS = 1024
# Trainings batch problems of similar length. After a first one of the median length, batches of these are measured.
_QUANTILES = (1 / 2, 1 / 6, 1 / 2, 5 / 6)
_ENOUGH_SECONDS = 3.0


def tell_expected_time(
    config: RunConfig,
    problems: Sequence[Item],
    *,
    teacher: ThinkingModel | None = None,
    stages: Sequence[tuple[StageCollator, float]] = (),
) -> None:
    """Log how long the trainings of a run will take, if they are long, by the time of a few of their batches.

    No weight and no random state changes. A student's batches have its update and, where it is aligned, the loss on
    states of the teacher's shape; a teacher's have neither updates nor evaluation. Reading the store and a loss on
    tokens are left out: the time is a little too short. With several processes nothing is measured, since batches of
    one of them alone would take another time.

    Args:
        config: Configuration of the run.
        problems: Training problems.
        teacher: Teacher to train, if any.
        stages: Collator and epochs of each stage of the teacher.
    """
    per_epoch = len(problems) / config.teacher.teacher_batch_size
    taught = sum(epochs for _, epochs in stages) * per_epoch
    learned = student_updates(config, num_problems=len(problems))
    if num_processes() > 1 or taught + learned < FEWEST_UPDATES:
        return
    seconds: dict[str, float] = {}
    with torch.random.fork_rng():
        if teacher is not None and taught:
            size = config.teacher.teacher_batch_size
            seconds["teacher"] = per_epoch * sum(
                epochs * seconds_per_batch(config, teacher, collator, problems, batch_size=size)
                for collator, epochs in stages
                if epochs
            )
        if learned:
            accumulated = learned * config.student.gradient_accumulation_steps
            seconds["student"] = accumulated * _seconds_of_student(config, problems, teacher)
    parts = ", ".join(f"{name} {duration(value)}" for name, value in seconds.items())
    logger.info(f"the trainings will take about {duration(sum(seconds.values()))} here ({parts}), by a few batches")


def student_updates(config: RunConfig, *, num_problems: int) -> int:
    """Return the updates of a run's student; 0 where there is none, or where a time sets them."""
    options = config.student
    if not config.trains_student or options.max_seconds is not None:
        return 0
    per_update = options.batch_size * options.gradient_accumulation_steps
    per_epoch = math.ceil(min(options.num_student_problems or num_problems, num_problems) / per_update)
    return options.max_steps or math.ceil(options.epochs * per_epoch)


def seconds_per_batch(
    config: RunConfig,
    model: ThinkingModel,
    collator: StageCollator,
    problems: Sequence[Item],
    *,
    batch_size: int,
    loss_of: Callable[[dict[str, Any]], Tensor] | None = None,
    after: Callable[[], object] = lambda: None,
) -> float:
    """Return the seconds of a batch's forward and backward passes, the first batch left out unless it is slow.

    Args:
        config: Configuration of the run: its device and precision.
        model: Model whose trainable weights get gradients, which are dropped.
        collator: Makes the batches.
        problems: Training problems.
        batch_size: Problems of a batch.
        loss_of: Loss of a batch; by default that of its labels.
        after: Called after each backward pass, within the measured time.
    """
    loss_of = loss_of or (lambda batch: model(**batch).loss_sum)
    device = device_of(config.run.device)
    model.to(device).train()
    half = torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.model.dtype == "bfloat16")
    times: list[float] = []
    ordered = sorted(problems[:_MEASURED_PROBLEMS], key=lambda item: item.encoded.num_tokens)
    for quantile in _QUANTILES:
        first = round(quantile * max(0, len(ordered) - batch_size))
        batch = to_device(collator(ordered[first : first + batch_size]), device)
        began = time.perf_counter()
        with half:
            loss = loss_of(batch)
        loss.backward()
        after()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
        if sum(times) > _ENOUGH_SECONDS:
            break
    model.zero_grad(set_to_none=True)
    return statistics.mean(times[1:] or times)


def _seconds_of_student(config: RunConfig, problems: Sequence[Item], teacher: ThinkingModel | None) -> float:
    """Return the seconds of a student's batch, on a student that is thrown away and starts from untrained blocks."""
    options = student_options(config)
    student = StudentModel(config.model.student, options=options, **load_options(config, student=True))
    if config.method.adapts_student:
        student = with_lora(config, student)
    loss_of = None
    if teacher is not None and config.makes_store and config.distill.distill_alpha > 0:
        loss_of = _aligned_loss(config, student, teacher)
    optimizer = torch.optim.AdamW([each for each in student.parameters() if each.requires_grad])

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad()

    encoded = student.encoder.encode_many([item.encoded.problem for item in problems[:_MEASURED_PROBLEMS]])
    longest = max(row.num_step_tokens for row in encoded)
    schedule = student_collator(config, student, num_updates=1.0, per_epoch=1.0, longest_steps=longest)
    seconds = seconds_per_batch(
        config,
        student,
        schedule.fixed(schedule.stage),
        items(encoded),
        batch_size=config.student.batch_size,
        loss_of=loss_of,
        after=update,
    )
    return seconds * (2 if config.method.objective == "self" else 1)  # a row with steps, and one with thoughts


def _aligned_loss(
    config: RunConfig, student: StudentModel, teacher: ThinkingModel
) -> Callable[[dict[str, Any]], Tensor]:
    """Return task loss and alignment to zeros in place of the teacher's states, which take as long."""
    distill = config.distill.resolved(teacher_blocks=teacher.num_blocks)
    layer_map = map_layers(
        distill.layers,
        teacher_blocks=teacher.num_blocks,
        student_blocks=student.num_blocks,
        student_layers=distill.student_layers,
    )
    student.attach_projectors(tuple(layer_map), teacher_hidden_size=teacher.hidden_size)
    criterion = LatentDistillationLoss(tuple(layer_map), loss=distill.distill_loss, normalize="none")

    def loss_of(batch: dict[str, Any]) -> Tensor:
        output = student(**batch, layer_map=layer_map, positions=distill.positions)
        states = {layer: torch.zeros_like(value) for layer, value in output.states.items()}
        aligned, _ = criterion(output.states, states, mask=output.mask, num_positions=output.mask.sum())
        return output.loss_sum + aligned

    return loss_of
