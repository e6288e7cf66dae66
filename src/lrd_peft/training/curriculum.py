"""The COCONUT curriculum: which training row a problem becomes at each stage, and the batches made of these rows.

At stage k the first k steps of every problem are replaced by k * thoughts_per_step thoughts (Hao et al., arXiv
2412.06769, section 3). A problem with fewer steps keeps the stage's number of thoughts and loses all its steps, because
the trained model answers every problem with the same number of thoughts.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lrd_peft.data.collate import Batch, ReplacedStep, Row, collate
from lrd_peft.data.encoding import Encoded
from lrd_peft.data.problem import Problem
from lrd_peft.model.inspection import context_length
from lrd_peft.model.loop import unwrap
from lrd_peft.model.step_decoder import StepDecoder
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.runtime.errors import UserError
from lrd_peft.training.token_removal import TokenRemoval


@dataclass(frozen=True, slots=True)
class Item:
    """An encoded problem, its index in the data set, and the optimizer update that takes it (from 0).

    One that fills the batch of a process without problems of its own runs and counts nothing.
    """

    index: int
    encoded: Encoded
    update: int = 0
    fills: bool = False


def items(encoded: Sequence[Encoded]) -> list[Item]:
    """Number encoded problems from 0."""
    return [Item(i, row) for i, row in enumerate(encoded)]


def row_at(
    item: Item,
    *,
    stage: int,
    thoughts_per_step: int,
    model: ThinkingModel,
    last: bool = False,
    with_steps: bool = False,
) -> Row:
    """Build a problem's training row at a stage.

    Args:
        item: The problem.
        stage: Number of steps to replace. Stage 0 keeps all steps.
        thoughts_per_step: Thoughts for each replaced step; 0 removes steps without putting thoughts in their place.
        model: Model whose markers surround the thoughts.
        last: Remove all steps, including those beyond the stage's number. Has no effect at stage 0.
        with_steps: Add the replaced steps to the row, each with the last of the thoughts that stand for it. If the
            model has an auxiliary decoder, its targets take their place.

    Returns:
        The row.
    """
    encoded = item.encoded
    num_thoughts = stage * thoughts_per_step
    removed = len(encoded.steps) if last and stage > 0 else min(stage, len(encoded.steps))
    suffix = encoded.suffix(removed)
    steps: tuple[ReplacedStep, ...] = ()
    if with_steps and num_thoughts > 0 and model.step_decoder is not None:
        steps = _decoded(encoded, stage, model.step_decoder)
    elif with_steps and num_thoughts > 0:
        steps = _replaced(encoded.steps[:removed], stage, thoughts_per_step)
    question, suffix = model.around_thoughts(encoded.prompt, suffix, num_thoughts=num_thoughts)
    return Row(
        index=item.index,
        question=question,
        num_thoughts=num_thoughts,
        suffix=suffix,
        answer_start=len(suffix) - len(encoded.answer),
        steps=steps,
        num_unlabeled=len(suffix) - len(encoded.suffix(removed)),
    )


def _replaced(steps: Sequence[tuple[int, ...]], stage: int, thoughts_per_step: int) -> tuple[ReplacedStep, ...]:
    """Pair steps with thoughts. The last thought of the stage stands for all remaining steps."""
    remaining = tuple(token for step in steps[stage - 1 :] for token in step)
    texts = (*steps[: stage - 1], remaining)
    return tuple(ReplacedStep((j + 1) * thoughts_per_step - 1, ids) for j, ids in enumerate(texts) if ids)


def _decoded(encoded: Encoded, stage: int, decoder: StepDecoder) -> tuple[ReplacedStep, ...]:
    """Pair the decoder's targets with thoughts. On the curriculum, thoughts without a step write the answer."""
    if decoder.form == "both-paths":
        return tuple(ReplacedStep(j, ids, group=j) for j, ids in enumerate(encoded.step_targets))
    spare = (*encoded.marker, *encoded.answer)
    texts = (*encoded.step_targets[:stage], *[spare] * (stage - len(encoded.step_targets)))
    per_step = decoder.thoughts_per_group
    return tuple(ReplacedStep((j + 1) * per_step - 1, ids, group=stage - 1) for j, ids in enumerate(texts))


def _row_of_tokens(item: Item, removal: TokenRemoval) -> Row:
    """Build a row without the step tokens that the item's update removes."""
    encoded = item.encoded
    kept = removal.kept(encoded.steps, update=item.update, index=item.index)
    suffix = (*kept, *encoded.marker, *encoded.answer)
    return Row(item.index, encoded.prompt, 0, suffix, answer_start=len(suffix) - len(encoded.answer))


def thinking_rows(items: Sequence[Item], *, num_thoughts: int, model: ThinkingModel) -> list[Row]:
    """Build rows in which `num_thoughts` thoughts replace all steps."""
    return [row_at(item, stage=num_thoughts, thoughts_per_step=1, model=model, last=True) for item in items]


@dataclass(frozen=True)
class StageCollator:
    """Makes batches at one stage of the curriculum, optionally mixed with other stages.

    All rows of a batch have the same number of thoughts (but for `thoughts_fit_steps`), and all batches of an optimizer
    update share one stage, so accumulation does not change the result. The stage depends on the seed and
    the update's number only, so a resumed training makes the same batches.

    Attributes:
        model: Model that the batches are for.
        stage: Number of steps to replace.
        max_stage: The stage at which all steps are gone.
        thoughts_per_step: Thoughts for each replaced step; 0 removes steps without putting thoughts in their place.
        thinking_stages: Number of steps that thoughts stand for at most; a stage beyond it only removes steps.
        uniform_prob: Probability of drawing an update's stage uniformly from 0 to `max_stage`.
        seed: Seed of that draw.
        rise_updates: The stage rises from 0 to `stage` over this many updates, with equal time for each level.
        begins: Updates at which the stages from 1 to `stage` begin, in place of `rise_updates`.
        thoughts_fit_steps: At the last stage, give a problem with fewer steps thoughts for its own steps only.
        removal: Removes steps token by token; stages are then numbers of removed tokens.
        with_steps: Add the replaced steps to the batches, so that the thoughts can be trained to write them.
    """

    model: ThinkingModel
    stage: int
    max_stage: int
    thoughts_per_step: int
    thinking_stages: int | None = None
    uniform_prob: float = 0.0
    seed: int = 0
    rise_updates: float = 0.0
    begins: tuple[float, ...] = ()
    thoughts_fit_steps: bool = False
    removal: TokenRemoval | None = None
    with_steps: bool = False

    @property
    def is_constant(self) -> bool:
        """Whether all updates have one stage."""
        return self.removal is None and not (self.uniform_prob or self.begins or self.rise_updates)

    def stage_at(self, update: int) -> int:
        """Return the stage of an optimizer update, counted from 0."""
        if self.removal is None and self.uniform_prob > 0:
            rng = random.Random(f"{self.seed}/{self.stage}/{update}")
            if rng.random() < self.uniform_prob:
                return rng.randint(0, self.max_stage)
        return self.scheduled_stage(update)

    def scheduled_stage(self, update: int) -> int:
        """Return the stage that an update has where none is drawn."""
        if self.removal is not None:
            return self.removal.scheduled(update)
        if self.begins:
            return bisect_right(self.begins, update)
        if update < self.rise_updates:
            return int(self.stage * update / self.rise_updates)
        return self.stage

    def fixed(self, stage: int) -> StageCollator:
        """Return the collator of one stage, whatever the update."""
        removal = None if self.removal is None else replace(self.removal, fixed=stage)
        return replace(self, stage=stage, rise_updates=0.0, begins=(), uniform_prob=0.0, removal=removal)

    def __call__(self, batch: Sequence[Item]) -> Batch:
        """Collate problems of one optimizer update."""
        pad = self.model.tokenizer.pad_token_id
        assert isinstance(pad, int)
        rows, decoder = self.rows(batch), self.model.step_decoder
        if self.with_steps and decoder is not None and rows[0].num_thoughts and not any(row.steps for row in rows):
            # Every process runs the decoder, whatever its problems are. This group counts nothing.
            nothing = ReplacedStep(decoder.thoughts_per_group - 1, (pad,), group=decoder.num_groups)
            rows[0] = replace(rows[0], steps=(nothing,))
        collated = collate(rows, pad_id=pad)
        if batch[0].fills:
            collated["fills"] = True
        return collated

    def rows(self, batch: Sequence[Item]) -> list[Row]:
        """Build the rows of problems of one optimizer update."""
        assert len({item.update for item in batch}) == 1, "a batch belongs to one optimizer update"
        if self.removal is not None:
            return [_row_of_tokens(item, self.removal) for item in batch]
        stage = self.stage_at(batch[0].update)
        thinking = stage if self.thinking_stages is None else min(stage, self.thinking_stages)
        own = self.thoughts_fit_steps and stage == self.max_stage
        return [
            row_at(
                item,
                stage=min(thinking, len(item.encoded.steps)) if own else thinking,
                thoughts_per_step=self.thoughts_per_step,
                model=self.model,
                last=stage == self.max_stage,
                with_steps=self.with_steps,
            )
            for item in batch
        ]


def last_stage(model: ThinkingModel, *, thoughts_per_step: int = 1, with_steps: bool = False) -> StageCollator:
    """Return the collator of a model's last stage, where all steps are thoughts.

    Raises:
        UserError: If the model's number of thoughts is not a multiple of `thoughts_per_step`.
    """
    num_thoughts = model.options.num_thoughts
    if thoughts_per_step < 1 or num_thoughts % thoughts_per_step:
        raise UserError(
            f"thoughts_per_step is {thoughts_per_step}, but the student thinks {num_thoughts} thoughts; "
            "thoughts_per_step must divide that number"
        )
    stage = num_thoughts // thoughts_per_step
    return StageCollator(
        model, stage=stage, max_stage=stage, thoughts_per_step=thoughts_per_step, with_steps=with_steps
    )


def encode_items(
    collator: StageCollator, problems: Sequence[Problem], *, whose: str, all_stages: bool = False
) -> list[Item]:
    """Encode problems and check that they fit into the model's context.

    Args:
        collator: Collator of the last stage that the problems are trained at.
        problems: Problems to encode.
        whose: Name of the model in the error message, `student` or `teacher`.
        all_stages: Check the lengths at every stage up to the collator's, not at its stage alone.

    Returns:
        The encoded problems, in order.

    Raises:
        UserError: If a problem with its thoughts, or a step that a thought must write, exceeds the context.
    """
    model = collator.model
    encoded = items(model.encoder.encode_many(problems))
    limit = context_length(unwrap(model.lm).config)
    stages = range(collator.stage + 1) if all_stages else (collator.stage,)
    rows_at = [replace(collator, stage=stage).rows(encoded) for stage in stages]
    lengths = [
        max(length for row in rows for length in (row.length, *(len(step.ids) for step in row.steps)))
        for rows in zip(*rows_at, strict=True)
    ]
    num_too_long = 0 if limit is None else sum(length > limit for length in lengths)
    if num_too_long:
        also = ", or the steps that a thought must write," if collator.with_steps else ""
        also += ", or the steps that earlier stages still write," if all_stages else ""
        raise UserError(
            f"{num_too_long} of {len(problems)} problems with their {model.options.num_thoughts} thoughts{also} exceed "
            f"the {whose}'s context of {limit} tokens (the longest has {max(lengths)}); remove them from the data"
        )
    return encoded
