"""What each phase of a run computes: real batches of a typical problem, measured on models without weights."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from lrd_peft.config import RunConfig
from lrd_peft.config.methods import METHODS
from lrd_peft.data.collate import to_device
from lrd_peft.data.encoding import Encoded
from lrd_peft.data.problem import Problem
from lrd_peft.model.loop import head_logits, unwrap
from lrd_peft.pipeline.dry_run.meter import Measurement, Work, measure
from lrd_peft.pipeline.dry_run.weightless import WeightlessModel
from lrd_peft.pipeline.from_config import student_collator
from lrd_peft.pipeline.train_teacher import stage_collator, stages
from lrd_peft.training.curriculum import StageCollator, items

_META = torch.device("meta")
_MOST_LEVELS = 8  # of removed tokens, that are measured
_MOST_UPDATES = 20_000  # of a training, whose stages are looked at; a training can have millions


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean numbers of tokens of a problem's parts.

    Attributes:
        question: Tokens of the question.
        steps: Tokens of all written steps.
        marker: Tokens of the answer marker.
        answer: Tokens of the answer and its end-of-text token.
    """

    question: float
    steps: float
    marker: float
    answer: float

    @property
    def end(self) -> float:
        """Tokens after the steps."""
        return self.marker + self.answer

    def problem(self, num_steps: int) -> Encoded:
        """Return a problem of these lengths, its written steps cut into `num_steps` of equal length."""
        num_steps = max(1, num_steps)
        ends = [round(self.steps * step / num_steps) for step in range(num_steps + 1)]
        steps = tuple((0,) * (stop - start) for start, stop in itertools.pairwise(ends))
        parts = [(0,) * max(1, round(count)) for count in (self.question, self.marker, self.answer)]
        # An end token in place of what ends a step: a decoder's targets are as long as the steps.
        return Encoded(Problem("typical", "", (), ""), parts[0], steps, parts[1], parts[2], step_targets=steps)


@dataclass(frozen=True, slots=True)
class DryRun:
    """A configuration with its models and the size of its data.

    Attributes:
        config: Configuration of the run.
        teacher: The teacher, or None if the method needs none.
        student: The student.
        lengths: Lengths of a typical problem.
        num_problems: Problems to train on.
        num_held_out: Problems that each method is graded on.
    """

    config: RunConfig
    teacher: WeightlessModel | None
    student: WeightlessModel
    lengths: Lengths
    num_problems: int
    num_held_out: int
    _measured: dict[StageCollator, Measurement] = field(default_factory=dict, repr=False)

    def works(self) -> dict[str, Work]:
        """Return the work of each phase that the method goes through, summed over all processes."""
        makers = {"teacher": self._teacher, "store": self._store, "student": self._student}
        makers["evaluation"] = self._evaluation
        return {phase: makers[phase]() for phase in self.config.needed_phases}

    def activation_bytes(self) -> dict[str, float]:
        """Return the activations of the largest batch of each training, by model."""
        found = {}
        if self.teacher is not None:
            collators = [collator for collator, _ in self._teacher_updates()]
            found["teacher"] = max(self._teacher_batch(collator).activation_bytes for collator in collators)
        if self.student.num_trained:
            found["student"] = max(
                sum(self._student_batch(collator).activation_bytes for collator in collators)
                for collators, _ in self._student_updates()
            )
        return found

    def _batch(self, collator: StageCollator, rows: int) -> dict[str, Any]:
        problem = self.lengths.problem(self.config.thinking.max_stage)
        return to_device(collator(items([problem] * rows)), _META)

    # --- phase 1

    def _teacher_updates(self) -> list[tuple[StageCollator, float]]:
        """Return the kinds of batches of phase 1, each with its number of updates."""
        config = self.config
        assert self.teacher is not None
        found: list[tuple[StageCollator, float]] = []
        for stage in stages(config):
            weighted = config.teacher.teacher_step_loss_weight > 0 and stage.number > 0
            collator = replace(stage_collator(config, self.teacher.one_block, stage), with_steps=weighted)
            found += _by_stage(collator, stage.epochs * self.num_problems / config.teacher.teacher_batch_size)
        return found

    def _teacher_batch(self, collator: StageCollator) -> Measurement:
        assert self.teacher is not None
        batch = self._batch(collator, self.config.teacher.teacher_batch_size)
        return self._trained_on(self.teacher, collator, batch)

    def _trained_on(
        self, model: WeightlessModel, collator: StageCollator, batch: dict[str, Any], **options: Any
    ) -> Measurement:
        """Measure a batch of a training, once for each collator."""
        if collator not in self._measured:
            self._measured[collator] = measure(
                model.one_block.train(),
                lambda: _loss(model.one_block(**batch, **options)),
                num_blocks=model.num_blocks,
                num_trained=model.num_updated if collator.with_steps else model.num_trained,
            )
        return self._measured[collator]

    def _teacher(self) -> Work:
        config = self.config
        assert self.teacher is not None
        total = Work()
        for collator, updates in self._teacher_updates():
            total += self._teacher_batch(collator).work * updates
        count = config.data.num_validation_problems * len(config.data.dataset_parts)
        for stage in stages(config) if count else ():
            replaced = min(stage.number, config.thinking.max_stage)
            num_tokens = self.lengths.steps * (1 - replaced / max(1, config.thinking.max_stage)) + self.lengths.end
            thoughts = replaced * config.thinking.thoughts_per_step
            total += self._answers(self.teacher, thoughts=thoughts, num_tokens=num_tokens, count=count)
        return total

    # --- phase 2

    def _store(self) -> Work:
        config, model = self.config, self.teacher
        assert model is not None
        deepest, writes = max(config.stored_layers), config.distill.align_to == "steps"
        if writes:
            collator = StageCollator(model.one_block, stage=0, max_stage=0, thoughts_per_step=0)
        else:
            stage, per_step = config.thinking.max_stage, config.thinking.thoughts_per_step
            collator = StageCollator(model.one_block, stage=stage, max_stage=stage, thoughts_per_step=per_step)
        batch = self._batch(collator, config.evaluation.eval_batch_size)
        if config.distill.positions != "all":  # nothing after the last stored position is run
            end = int(batch["suffix_ids"].shape[1]) - len(self.lengths.problem(1).answer)
            end = end if writes or config.distill.positions == "thoughts+answer" else 0
            batch["suffix_ids"], batch["labels"] = batch["suffix_ids"][:, :end], batch["labels"][:, :end]

        def call() -> None:
            with torch.no_grad():
                model.one_block(**batch, layers=[1], positions=config.distill.positions, with_loss=False)

        # A teacher that thinks runs all blocks for its thoughts, and only the last pass ends at the deepest layer.
        blocks = model.num_blocks if batch["num_thoughts"] else deepest
        return measure(model.one_block.eval(), call, num_blocks=blocks).work * (
            self.num_problems / config.evaluation.eval_batch_size
        )

    # --- phase 3

    def _student_updates(self) -> list[tuple[list[StageCollator], float]]:
        """Return the kinds of batches of phase 3 (a kind may run several rows of a problem) with their updates."""
        config, updates = self.config, self._num_student_updates()
        if not config.method.trains_student:
            return []
        writes_steps = config.method.objective == "latent" or config.follows_curriculum or config.decodes_student_steps
        collator = replace(
            student_collator(
                config,
                self.student.one_block,
                num_updates=updates,
                per_epoch=self._num_student_problems / config.student.batch_size,
                longest_steps=self.lengths.problem(1).num_step_tokens,
            ),
            with_steps=writes_steps and config.distill.step_loss_weight > 0,
        )
        if config.method.pairs_rows:
            written = replace(collator, stage=0, max_stage=0, thoughts_per_step=0, with_steps=False)
            return [([written, collator], updates)]
        return [([one], count) for one, count in _by_stage(collator, updates)]

    def _num_student_updates(self) -> float:
        """Return how many batches the student is trained on."""
        config = self.config
        if config.student.max_steps is not None:
            return config.student.max_steps * config.student.gradient_accumulation_steps
        return config.student.epochs * self._num_student_problems / config.student.batch_size

    @property
    def _num_student_problems(self) -> int:
        limit = self.config.student.num_student_problems
        if limit is None:
            return self.num_problems
        return min(self.num_problems, limit * len(self.config.data.dataset_parts))

    def _student_batch(self, collator: StageCollator) -> Measurement:
        config, model = self.config, self.student
        batch = self._batch(collator, config.student.batch_size)
        options: dict[str, Any] = {"with_logits": config.method.objective == "tokens"}
        if self.teacher is not None and config.method.objective == "latent" and config.distill.reads_states:
            options |= {"layer_map": dict.fromkeys(config.distill.layers, 1), "positions": config.distill.positions}
            if config.distill.thoughts_from in ("teacher", "refined"):
                shape = (config.student.batch_size, batch["num_thoughts"], self.teacher.hidden_size)
                options["teacher_thoughts"] = torch.empty(shape, device=_META, dtype=_dtype(model))
                options["refine_passes"] = config.distill.num_refine_passes
        return self._trained_on(model, collator, batch, **options)

    def _student(self) -> Work:
        total = Work()
        for collators, updates in self._student_updates():
            for collator in collators:
                total += self._student_batch(collator).work * updates
                if self.config.method.objective == "tokens":
                    total += self._teacher_logits(collator) * updates
        return total

    def _teacher_logits(self, collator: StageCollator) -> Work:
        """Return the work of the frozen teacher on a batch of the student."""
        model = self.teacher
        assert model is not None
        batch = self._batch(collator, self.config.student.batch_size)

        def call() -> None:
            with torch.no_grad():
                model.one_block(**batch, with_logits=True, with_loss=False)

        return measure(model.one_block.eval(), call, num_blocks=model.num_blocks).work

    # --- phase 4

    def _evaluation(self) -> Work:
        config, total = self.config, Work()
        available: set[str | None] = {None}
        if config.makes_teacher:
            available |= {"teacher/cot", f"teacher/{config.needed_teacher}"}
        for name in config.graded_methods:
            method = METHODS[name]
            if name != config.student.method and method.needs not in available:
                continue
            model = self.teacher if method.is_teacher else self.student
            assert model is not None
            num_tokens = self.lengths.answer if method.thinks else self.lengths.steps + self.lengths.end
            thoughts = config.thinking.num_thoughts if method.thinks else 0
            total += self._answers(model, thoughts=thoughts, num_tokens=num_tokens, count=self.num_held_out)
        return total

    def _answers(self, model: WeightlessModel, *, thoughts: int, num_tokens: float, count: int) -> Work:
        """Return the work of answering `count` problems in batches, as if all answers had the mean length."""
        rows = max(1, min(self.config.evaluation.eval_batch_size, count))
        problem = self.lengths.problem(0)
        problem = replace(problem, steps=(), answer=problem.answer[:1])
        # The marker is forced after thoughts, and the head runs for the token after it.
        collator = StageCollator(model.one_block, stage=thoughts, max_stage=thoughts, thoughts_per_step=1)
        batch = to_device(collator(items([problem] * rows)), _META)
        forced = len(problem.marker) if thoughts else 0
        batch["suffix_ids"], batch["labels"] = batch["suffix_ids"][:, :forced], batch["labels"][:, :0]
        inner = unwrap(model.one_block.lm)
        start = batch["question_ids"].shape[1] + thoughts + forced

        def think() -> None:
            with torch.no_grad():
                output = model.one_block(**batch)
                head_logits(model.one_block.lm, output.thoughts.new_empty(rows, model.hidden_size))

        def write(context: int) -> Work:
            cache = DynamicCache(config=inner.config)

            def inputs(length: int) -> Tensor:
                return torch.empty(rows, length, model.hidden_size, device=_META, dtype=_dtype(model))

            def call() -> None:
                with torch.no_grad():
                    found = inner.base_model(inputs_embeds=inputs(1), past_key_values=cache, use_cache=True)
                    head_logits(model.one_block.lm, found.last_hidden_state[:, -1])

            with torch.no_grad():
                inner.base_model(inputs_embeds=inputs(context), past_key_values=cache, use_cache=True)
            return measure(model.one_block, call, num_blocks=model.num_blocks).work

        model.one_block.eval()
        work = measure(model.one_block, think, num_blocks=model.num_blocks).work
        further = max(0, round(num_tokens) - 1)
        if further:  # a token's work grows linearly with its context
            work += (write(start) + write(start + further - 1)) * (further / 2)
        return work * math.ceil(count / rows)


def _by_stage(collator: StageCollator, num_updates: float) -> list[tuple[StageCollator, float]]:
    """Split a training's updates by their stage: a collator that stays at the stage, and the number of its updates."""
    if not num_updates:
        return []
    if collator.is_constant:
        return [(collator, num_updates)]
    whole = math.ceil(num_updates)
    looked_at = range(0, whole, math.ceil(whole / _MOST_UPDATES))
    counts = Counter(collator.stage_at(update) for update in looked_at)
    if collator.removal is not None:  # the work is nearly linear in the tokens: a few numbers of them stand for all
        width = max(1, math.ceil(collator.stage / _MOST_LEVELS))
        merged: Counter[int] = Counter()
        for stage, count in counts.items():
            merged[min(collator.stage, round(stage / width) * width)] += count
        counts = merged
    return [(collator.fixed(stage), count * num_updates / len(looked_at)) for stage, count in sorted(counts.items())]


def _loss(output: Any) -> Tensor:
    """Return a loss whose backward pass reaches everything that a training's does."""
    loss = output.loss_sum
    if output.step_loss_sum is not None:
        loss = loss + output.step_loss_sum
    if output.step_sums is not None:
        loss = loss + output.step_sums.sum()
    for state in output.states.values():
        loss = loss + state.sum()
    return loss


def _dtype(model: WeightlessModel) -> torch.dtype:
    return unwrap(model.one_block.lm).dtype
