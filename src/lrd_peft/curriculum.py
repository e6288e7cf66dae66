"""The COCONUT curriculum: stage -> training rows. A pure room: knows encoded problems, not models or time.

At stage k the first k steps of every problem are replaced by k * thoughts_per_step thoughts (arXiv 2412.06769, section
3). A problem with fewer steps keeps the stage's number of thoughts and loses all its steps, since at the end a model
must answer with one number of thoughts whatever the problem.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from lrd_peft.data.collate import Batch, Row, collate
from lrd_peft.data.encoding import Encoded
from lrd_peft.model.thinking_model import ThinkingModel


@dataclass(frozen=True, slots=True)
class Item:
    """An encoded problem and its place in the data set."""

    index: int
    encoded: Encoded


def items(encoded: Sequence[Encoded]) -> list[Item]:
    return [Item(i, row) for i, row in enumerate(encoded)]


def row_at(item: Item, *, stage: int, thoughts_per_step: int, model: ThinkingModel, last: bool = False) -> Row:
    """Return a problem's row at a stage; `last` drops all steps, also those beyond the stage's number.

    Stage 0 has no thoughts in the place of steps, so it keeps them whatever `last` says.
    """
    encoded = item.encoded
    removed = len(encoded.steps) if last and stage > 0 else min(stage, len(encoded.steps))
    suffix = encoded.suffix(removed)
    question = encoded.prompt
    if stage > 0:
        question, suffix = model.around_thoughts(question, suffix)
    return Row(
        index=item.index,
        question=question,
        num_thoughts=stage * thoughts_per_step,
        suffix=suffix,
        answer_start=len(suffix) - len(encoded.answer),
    )


@dataclass(frozen=True)
class StageCollator:
    """Makes batches at one stage, some of them at another one.

    A batch has one number of thoughts, so the stage is drawn for the whole batch: with probability `uniform_prob`
    uniformly from 0 to `max_stage`, else `stage`. The draw depends on the seed and on which problems are in the batch
    and on nothing else, so a resumed training draws the same.

    Attributes:
        stage: the number of steps to replace.
        max_stage: at this stage all steps are gone.
    """

    model: ThinkingModel
    stage: int
    max_stage: int
    thoughts_per_step: int
    uniform_prob: float = 0.0
    seed: int = 0

    def __call__(self, batch: Sequence[Item]) -> Batch:
        stage = self.stage
        if self.uniform_prob > 0:
            rng = random.Random(f"{self.seed}/{self.stage}/{[item.index for item in batch]}")
            if rng.random() < self.uniform_prob:
                stage = rng.randint(0, self.max_stage)
        pad = self.model.tokenizer.pad_token_id
        assert isinstance(pad, int)
        rows = [
            row_at(
                item,
                stage=stage,
                thoughts_per_step=self.thoughts_per_step,
                model=self.model,
                last=stage == self.max_stage,
            )
            for item in batch
        ]
        return collate(rows, pad_id=pad)
