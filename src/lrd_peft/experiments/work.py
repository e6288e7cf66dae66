"""What each phase of a run computes: the calls of every batch, and how many batches. Knows configurations, no data.

Lengths are means: padding is left out, the square of a mean stands for the mean of squares. A stage drawn by
`uniform_prob` counts as the stage of its time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lrd_peft.config import RunConfig
from lrd_peft.experiments.cost import Cost, Pass, Shape, Trained, activation_bytes, batch_cost, passes, writing
from lrd_peft.methods import METHODS


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean tokens of a problem's parts: question, written steps, marker and answer with its end."""

    question: float
    steps: float
    marker: float
    answer: float

    @property
    def end(self) -> float:
        return self.marker + self.answer


@dataclass(frozen=True, slots=True)
class Run:
    """A configuration with what the formulas need of its models and problems.

    Attributes:
        teacher: None where the method needs none.
        teacher_adapters, student_adapters: parameters of LoRA, 0 without.
        num_problems, num_held_out: problems to train on, to grade each method on.
    """

    config: RunConfig
    teacher: Shape | None
    student: Shape
    teacher_adapters: int
    student_adapters: int
    lengths: Lengths
    num_problems: int
    num_held_out: int

    @property
    def half(self) -> bool:
        return self.config.dtype != "float32"

    @property
    def weight_bytes(self) -> int:
        return 2 if self.half else 4

    @property
    def teacher_trained(self) -> Trained:
        return "all" if self.config.teacher_tuning == "full" else "lora"


def of_phases(run: Run) -> dict[str, Cost]:
    """Return the cost of each phase that the method goes through, of all processes together."""
    makers = {"teacher": _teacher, "store": _store, "student": _student, "evaluation": _evaluation}
    return {phase: makers[phase](run) for phase in run.config.needed_phases}


def _stages(run: Run) -> list[tuple[float, float, list[Pass]]]:
    """Return epochs, labels and calls of each stage of phase 1."""
    config, lengths = run.config, run.lengths
    found = [
        (config.epochs_stage0, lengths.steps + lengths.end, passes(lengths.question, 0, lengths.steps + lengths.end))
    ]
    if config.needed_teacher == "cot":
        return found
    for stage in range(1, config.max_stage + 1):
        # Steps are taken to be as many as stages.
        suffix = lengths.steps * (1 - stage / config.max_stage) + lengths.end
        epochs = config.last_stage_epochs if stage == config.max_stage else config.epochs_per_stage
        calls = passes(lengths.question, stage * config.thoughts_per_step, suffix)
        found.append((epochs, *_with_steps(run, suffix, calls, stage=stage, weight=config.teacher_step_loss_weight)))
    return found


def _with_steps(run: Run, labels: float, calls: list[Pass], *, stage: int, weight: float) -> tuple[float, list[Pass]]:
    """Return labels and calls with those of the steps that thoughts write, if these have a weight."""
    if weight == 0 or stage == 0:
        return labels, calls
    length = run.lengths.steps / run.config.max_stage
    return labels + stage * length, [*calls, Pass(length, length, rows=stage)]


def _student_batches(run: Run) -> list[tuple[float, list[tuple[float, list[Pass]]]]]:
    """Return the kinds of batches of phase 3: their share of all, and labels and calls of each of a batch's parts."""
    config, lengths, method = run.config, run.lengths, METHODS[run.config.method]

    def part(stage: int, *, thoughts_per_step: int = config.thoughts_per_step) -> tuple[float, list[Pass]]:
        written = lengths.steps * (1 - stage / max(1, config.max_stage)) + lengths.end
        thoughts = stage * thoughts_per_step
        calls = passes(lengths.question, thoughts, written)
        if method.loss == "latent" and config.thoughts_from == "teacher":
            calls = passes(lengths.question, 0, thoughts + written)
        weight = config.step_loss_weight if method.loss == "latent" else 0.0
        return _with_steps(run, written, calls, stage=stage, weight=weight)

    def rising(share: float, **options: int) -> list[tuple[float, list[tuple[float, list[Pass]]]]]:
        stages = range(config.max_stage if share else 0)
        return [
            *((share / config.max_stage, [part(stage, **options)]) for stage in stages),
            (1 - share, [part(config.max_stage, **options)]),
        ]

    steps, answer = part(0), (lengths.end, passes(lengths.question, 0, lengths.end))
    return {
        "steps": [(1.0, [steps])],
        "answer": [(1.0, [answer])],
        "stages": rising(0.5, thoughts_per_step=0),
        "thoughts": rising(config.student_curriculum if config.max_stage else 0.0),
        "both": [(1.0, [steps, part(config.max_stage)])],
        "none": [],
    }[method.rows]


def _teacher(run: Run) -> Cost:
    config, total = run.config, Cost()
    assert run.teacher is not None
    for epochs, labels, calls in _stages(run):
        batch = batch_cost(
            run.teacher,
            calls,
            rows=config.teacher_batch_size,
            labels=labels,
            trained=run.teacher_trained,
            adapters=run.teacher_adapters,
            weight_bytes=run.weight_bytes,
        )
        total += batch * (epochs * run.num_problems / config.teacher_batch_size)
    if config.num_validation_problems:
        for stage, _ in enumerate(_stages(run)):
            left = 1 - stage / max(1, config.max_stage)
            num_tokens = run.lengths.steps * left + run.lengths.end
            thoughts = stage * config.thoughts_per_step
            count = config.num_validation_problems * len(config.dataset_parts)
            total += _answers(run, run.teacher, thoughts=thoughts, num_tokens=num_tokens, count=count)
    return total


def _store(run: Run) -> Cost:
    config, lengths = run.config, run.lengths
    assert run.teacher is not None
    if config.align_to == "steps":
        *calls, last = passes(lengths.question, 0, lengths.steps + lengths.marker)
    else:
        marker = 0 if config.positions == "thoughts" else lengths.marker
        *calls, last = passes(lengths.question, config.num_thoughts, marker)
    # No head, and the last call ends at the deepest stored layer.
    deepest = max(config.stored_layers) / run.teacher.blocks
    calls.append(Pass(last.tokens * deepest, last.context))
    batch = batch_cost(
        run.teacher,
        calls,
        rows=config.eval_batch_size,
        labels=0,
        trained="nothing",
        weight_bytes=run.weight_bytes,
    )
    return batch * (run.num_problems / config.eval_batch_size)


def _student(run: Run) -> Cost:
    config, method = run.config, METHODS[run.config.method]
    total = Cost()
    for share, parts in _student_batches(run):
        for labels, calls in parts:
            batch = batch_cost(
                run.student,
                calls,
                rows=config.batch_size,
                labels=labels,
                trained=method.trains,
                adapters=run.student_adapters,
                weight_bytes=run.weight_bytes,
            )
            if method.loss == "tokens":
                assert run.teacher is not None
                batch += batch_cost(
                    run.teacher,
                    calls,
                    rows=config.batch_size,
                    labels=labels,
                    trained="nothing",
                    weight_bytes=run.weight_bytes,
                )
            total += batch * share
    if config.max_steps is not None:
        return total * (config.max_steps * config.gradient_accumulation_steps)
    num_problems = run.num_problems
    if config.num_student_problems is not None:
        num_problems = min(num_problems, config.num_student_problems * len(config.dataset_parts))
    return total * (config.epochs * num_problems / config.batch_size)


def _evaluation(run: Run) -> Cost:
    config, total = run.config, Cost()
    available = {"nothing", f"teacher/{config.needed_teacher}"}
    if config.needed_teacher == "latent":
        available.add("teacher/cot")
    for name in config.graded_methods:
        method = METHODS[name]
        if name != config.method and method.needs not in available:
            continue
        of_teacher = method.trains == "nothing" and method.needs != "nothing"
        shape = run.teacher if of_teacher else run.student
        assert shape is not None
        num_tokens = run.lengths.answer if method.thinks else run.lengths.steps + run.lengths.end
        thoughts = config.num_thoughts if method.thinks else 0
        total += _answers(run, shape, thoughts=thoughts, num_tokens=num_tokens, count=run.num_held_out)
    return total


def _answers(run: Run, shape: Shape, *, thoughts: int, num_tokens: float, count: int) -> Cost:
    """Return the cost of answering `count` problems in batches, as if all wrote as much as the mean."""
    rows = min(run.config.eval_batch_size, count)
    forced = run.lengths.marker if thoughts else 0
    calls = writing(run.lengths.question, thoughts, num_tokens, forced=forced)
    batch = batch_cost(shape, calls, rows=rows, labels=num_tokens, trained="nothing", weight_bytes=run.weight_bytes)
    return batch * math.ceil(count / rows)


def teacher_activations(run: Run) -> float:
    """Return the activations of the largest batch of phase 1, in bytes."""
    assert run.teacher is not None
    return max(
        activation_bytes(
            run.teacher, calls, rows=run.config.teacher_batch_size, labels=labels, item_bytes=run.weight_bytes
        )
        for _, labels, calls in _stages(run)
    )


def student_activations(run: Run) -> float:
    """Return the activations of the largest batch of phase 3, in bytes."""
    return max(
        sum(
            activation_bytes(run.student, calls, rows=run.config.batch_size, labels=labels, item_bytes=run.weight_bytes)
            for labels, calls in parts
        )
        for _, parts in _student_batches(run)
    )
