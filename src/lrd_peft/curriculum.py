"""The COCONUT curriculum: optimizer step -> stage -> training rows. Knows encoded problems, not losses or disks.

At stage k the first k steps of every problem are replaced by k * thoughts_per_step thoughts (arXiv 2412.06769, section
3). A problem with fewer steps keeps the stage's number of thoughts and loses all its steps, since at the end a model
must answer with one number of thoughts whatever the problem.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from lrd_peft.data.collate import Batch, ReplacedStep, Row, collate
from lrd_peft.data.encoding import Encoded
from lrd_peft.model.thinking_model import ThinkingModel


@dataclass(frozen=True, slots=True)
class Item:
    """An encoded problem, its place in the data set, and the optimizer step that takes it."""

    index: int
    encoded: Encoded
    step: int = 0


def items(encoded: Sequence[Encoded]) -> list[Item]:
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
    """Return a problem's row at a stage; `last` drops all steps, also those beyond the stage's number.

    Stage 0 has no thoughts in the place of steps, so it keeps them whatever `last` says. `with_steps` adds the
    replaced steps, each beside the last of the thoughts that stand for it.
    """
    encoded = item.encoded
    num_thoughts = stage * thoughts_per_step
    removed = len(encoded.steps) if last and stage > 0 else min(stage, len(encoded.steps))
    suffix = encoded.suffix(removed)
    question = encoded.prompt
    if num_thoughts > 0:
        question, suffix = model.around_thoughts(question, suffix)
    return Row(
        index=item.index,
        question=question,
        num_thoughts=num_thoughts,
        suffix=suffix,
        answer_start=len(suffix) - len(encoded.answer),
        steps=_replaced(encoded.steps[:removed], stage, thoughts_per_step) if with_steps and num_thoughts > 0 else (),
    )


def _replaced(steps: Sequence[tuple[int, ...]], stage: int, thoughts_per_step: int) -> tuple[ReplacedStep, ...]:
    """Pair steps with thoughts; at the last stage the last thought stands for all steps that are left."""
    left = tuple(token for step in steps[stage - 1 :] for token in step)
    texts = (*steps[: stage - 1], left)
    return tuple(ReplacedStep((j + 1) * thoughts_per_step - 1, ids) for j, ids in enumerate(texts) if ids)


def thinking_rows(items: Sequence[Item], *, num_thoughts: int, model: ThinkingModel) -> list[Row]:
    """Return problems' rows where all steps are gone and so many thoughts stand in their place."""
    return [row_at(item, stage=num_thoughts, thoughts_per_step=1, model=model, last=True) for item in items]


@dataclass(frozen=True)
class StageCollator:
    """Makes batches at one stage, some of them at another one.

    A batch has one number of thoughts, so a stage holds for a whole batch, and it holds for all batches of an optimizer
    step, so that accumulation changes nothing. It depends on the seed and the step and on nothing else, so a resumed
    training takes the same. With probability `uniform_prob` it is drawn uniformly from 0 to `max_stage`.

    Attributes:
        stage: the number of steps to replace.
        max_stage: at this stage all steps are gone.
        thoughts_per_step: with 0 the steps go without thoughts in their place.
        with_steps: batches hold the replaced steps, for the thoughts to write them.
        rise_steps: the stage rises from 0 to `stage` over so many optimizer steps, each level taking as many.
    """

    model: ThinkingModel
    stage: int
    max_stage: int
    thoughts_per_step: int
    uniform_prob: float = 0.0
    seed: int = 0
    rise_steps: float = 0.0
    with_steps: bool = False

    def stage_at(self, step: int) -> int:
        """Return the stage of an optimizer step, the first being 0."""
        if self.uniform_prob > 0:
            rng = random.Random(f"{self.seed}/{self.stage}/{step}")
            if rng.random() < self.uniform_prob:
                return rng.randint(0, self.max_stage)
        if step < self.rise_steps:
            return int(self.stage * step / self.rise_steps)
        return self.stage

    def __call__(self, batch: Sequence[Item]) -> Batch:
        pad = self.model.tokenizer.pad_token_id
        assert isinstance(pad, int)
        return collate(self.rows(batch), pad_id=pad)

    def rows(self, batch: Sequence[Item]) -> list[Row]:
        """Return the rows of problems of one optimizer step."""
        assert len({item.step for item in batch}) == 1, "a batch belongs to one optimizer step"
        stage = self.stage_at(batch[0].step)
        return [
            row_at(
                item,
                stage=stage,
                thoughts_per_step=self.thoughts_per_step,
                model=self.model,
                last=stage == self.max_stage,
                with_steps=self.with_steps,
            )
            for item in batch
        ]
