"""Objectives that need no store: their losses against plain forward passes, accumulation, resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import TrainerCallback

from lrd_peft.distillation import self_distillation
from lrd_peft.model.loop import unwrap
from lrd_peft.model.student import StudentModel
from lrd_peft.runtime.errors import UserError
from lrd_peft.training.callbacks import RestartOptimizer
from lrd_peft.training.checkpoints import last_checkpoint
from lrd_peft.training.curriculum import Item, StageCollator, items
from lrd_peft.training.objectives import SelfObjective, TaskObjective, TokenObjective
from lrd_peft.training.sampling import count_updates
from lrd_peft.training.thinking_trainer import ThinkingTrainer
from tests import tiny
from tests.training.small import assert_same_runs, moved, student, weights

SGD = {"optim": "sgd", "learning_rate": 0.1}
WIDER: dict[str, Any] = {"width": 32, "seed": 4}


def encoded(model: StudentModel, num_problems: int = 8) -> list[Item]:
    return items(model.encoder.encode_many(tiny.problems(num_problems)))


def tokens(folder: Path, own: StudentModel, *, num_problems: int = 8, **changes: Any) -> ThinkingTrainer:
    arguments = {**SGD, **changes.pop("arguments", {})}
    options = {"alpha": 0.25, "temperature": 2.0, **changes}
    objective = TokenObjective(own, options.pop("teacher", None) or tiny.teacher(**WIDER), **options)
    collator = StageCollator(own, stage=0, max_stage=0, thoughts_per_step=0)
    args = tiny.arguments(folder, **arguments)
    return ThinkingTrainer(
        own, objective=objective, items=encoded(own, num_problems), collator=collator, args=args, label="tokens"
    )


def codi(folder: Path, own: StudentModel, *, num_problems: int = 8, **arguments: Any) -> ThinkingTrainer:
    collator = StageCollator(own, stage=2, max_stage=2, thoughts_per_step=1)
    args = tiny.arguments(folder, **{**SGD, **arguments})
    rows = encoded(own, num_problems)
    objective = SelfObjective(own, rows, weight=3.0)
    return ThinkingTrainer(own, objective=objective, items=rows, collator=collator, args=args, label="codi")


def icot(folder: Path, own: StudentModel, *, num_problems: int = 8, **arguments: Any) -> ThinkingTrainer:
    args = tiny.arguments(folder, **arguments)
    rise = count_updates(args, num_problems) / 2
    collator = StageCollator(own, stage=2, max_stage=2, thoughts_per_step=0, rise_updates=rise)
    run = ThinkingTrainer(
        own, objective=TaskObjective(), items=encoded(own, num_problems), collator=collator, args=args
    )
    run.add_callback(RestartOptimizer(collator.stage_at))
    return run


def written(model: StudentModel, item: Item) -> tuple[Tensor, int]:
    """Return a problem's written sequence [1, T] and the length of its prompt."""
    return torch.tensor([[*item.encoded.prompt, *item.encoded.suffix(0)]]), len(item.encoded.prompt)


# The losses, against the definition


def test_the_token_loss_is_that_of_plain_forward_passes(tmp_path: Path):
    own = student(num_thoughts=0)
    run = tokens(tmp_path, own)
    assert isinstance(run.objective, TokenObjective)
    teacher = run.objective.teacher
    kl, cross_entropy, count = torch.zeros(()), torch.zeros(()), 0
    for item in run.items[:3]:
        ids, start = written(own, item)
        ours = unwrap(own.lm)(ids).logits[0, start - 1 : -1]
        theirs = unwrap(teacher.lm)(ids).logits[0, start - 1 : -1]
        cross_entropy = cross_entropy + F.cross_entropy(ours, ids[0, start:], reduction="sum")
        p, q = (theirs / 2).softmax(-1), (ours / 2).softmax(-1)
        kl = kl + (p * (p / q).log()).sum()
        count += len(ids[0]) - start
    batch = run.collator(run.items[:3])
    loss = run.compute_loss(own, batch)  # pyright: ignore[reportArgumentType]
    expected = 0.25 * 4 * kl / count + 0.75 * cross_entropy / count
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_the_two_paths_losses_are_those_of_their_definition(tmp_path: Path):
    own = student(num_thoughts=2)
    run = codi(tmp_path, own)
    chosen = run.items[:3]
    on_steps, count, at_answer = torch.zeros(()), 0, []
    for item in chosen:
        ids, start = written(own, item)
        output = unwrap(own.lm)(ids, output_hidden_states=True)
        on_steps = on_steps + F.cross_entropy(output.logits[0, start - 1 : -1], ids[0, start:], reduction="sum")
        count += len(ids[0]) - start
        at_answer.append([state[0, -len(item.encoded.answer) - 1] for state in output.hidden_states[1:]])
    batch = run.collator(chosen)
    thought = own(**batch, layers=[1, 2, 3])
    distance = self_distillation(
        {layer: thought.states[layer][:, 2] for layer in (1, 2, 3)},
        {layer: torch.stack([row[layer - 1] for row in at_answer]) for layer in (1, 2, 3)},
    )
    loss = run.compute_loss(own, batch)  # pyright: ignore[reportArgumentType]
    expected = on_steps / count + thought.loss_sum / thought.num_labels + 3.0 * distance / 3
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_a_head_padded_beyond_the_vocabulary_changes_nothing(tmp_path: Path):
    losses = []
    for padding in (0, 5):
        own, teacher = student(num_thoughts=0), tiny.teacher(**WIDER)
        lm: Any = teacher.lm
        lm.resize_token_embeddings(len(teacher.tokenizer) + padding, mean_resizing=False)
        run = tokens(tmp_path, own, teacher=teacher)
        losses.append(run.compute_loss(own, run.collator(run.items[:2])))  # pyright: ignore
    torch.testing.assert_close(losses[0], losses[1])


# One result however it is computed


@pytest.mark.parametrize("make", [tokens, codi, icot], ids=lambda make: make.__name__)
def test_accumulated_batches_equal_one_large_batch(make: Any, tmp_path: Path):
    after = []
    for parts in (1, 8):
        own = student(num_thoughts=2 if make is codi else 0)
        sizes = {"per_device_train_batch_size": 8 // parts, "gradient_accumulation_steps": parts}
        changes = {"arguments": sizes} if make is tokens else {**SGD, **sizes}
        run = make(tmp_path, own, num_problems=20, **changes)
        before = weights(own)
        run.train()
        assert run.state.global_step == 3  # 8, 8 and 4 problems
        assert moved(before, weights(own))
        after.append((weights(own), run.curve()))
    assert_same_runs(*after)


def test_the_logged_loss_is_the_sum_of_its_logged_parts(tmp_path: Path):
    run = tokens(tmp_path, student(num_thoughts=0), arguments={"logging_steps": 2})
    run.train()
    (row,) = run.curve()
    assert row["loss"] == pytest.approx(0.25 * row["distill"] + 0.75 * row["task"], rel=1e-4)
    run = codi(tmp_path, student(), logging_steps=2)
    run.train()
    (row,) = run.curve()
    assert row["loss"] == pytest.approx(row["written"] + row["task"] + 3 * row["distill"], rel=1e-4)


# Stages


class _StopAfter(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def test_the_optimizer_restarts_with_each_stage(tmp_path: Path):
    own = tiny.student(num_thoughts=0)
    # 8 steps: stages 0, 0, 1, 1, and 2 from the fifth on
    run = icot(tmp_path, own, num_train_epochs=4)
    run.train()
    assert run.state.global_step == 8
    counts = {int(state["step"]) for state in run.optimizer.state.values()}  # pyright: ignore
    assert counts == {4}


def test_a_resumed_training_with_stages_equals_the_uninterrupted_one(tmp_path: Path):
    changes = {"num_train_epochs": 4, "save_strategy": "steps", "save_steps": 3, "logging_steps": 3}
    after = []
    for folder in ("whole", "resumed"):
        own = tiny.student(num_thoughts=0)
        run = icot(tmp_path / folder, own, **changes)
        if folder == "resumed":
            stop = icot(tmp_path / folder, tiny.student(num_thoughts=0), **changes)
            stop.add_callback(_StopAfter(4))
            stop.train()
        resume = last_checkpoint(tmp_path / folder)
        assert (resume is None) == (folder == "whole")
        run.train(resume_from_checkpoint=resume)
        after.append((weights(own), run.curve()))
    for name, value in after[0][0].items():
        assert torch.equal(value, after[1][0][name]), name
    assert after[0][1] == after[1][1]


# What is refused


def test_token_distillation_needs_one_tokenizer(tmp_path: Path):
    with pytest.raises(UserError, match=r"tokenizers differ.*latent-lora"):
        tokens(tmp_path, student(num_thoughts=0), teacher=tiny.teacher(**WIDER, num_problems=60))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"alpha": 1.5}, "token_alpha is 1.5"), ({"temperature": 0.0}, r"temperature is 0.0; it must be")],
    ids=["alpha", "temperature"],
)
def test_values_that_cannot_be(options: dict[str, Any], message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        tokens(tmp_path, student(num_thoughts=0), **options)
