"""Recipes of Coconut and iCoT: their losses against plain transcriptions of the papers, and their dry runs.

Coconut: Hao et al., arXiv 2412.06769, section 3. iCoT: Deng et al., arXiv 2405.14838, section 3. The models are small
and random; everything else is the recipe's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lrd_peft.config import RunConfig, load_config
from lrd_peft.config.recipes import recipes_folder
from lrd_peft.model.loop import unwrap
from lrd_peft.pipeline.distill import _begin
from lrd_peft.pipeline.dry_run.describe import dry_run
from lrd_peft.pipeline.from_config import token_removal
from lrd_peft.pipeline.run_folder import RunPaths
from lrd_peft.training.curriculum import Item
from lrd_peft.training.thinking_trainer import ThinkingTrainer
from tests import tiny

pytestmark = pytest.mark.timeout(600)

SMALL: dict[str, Any] = {"dataset": "gsm-mini", "num_train_problems": 40, "device": "cpu", "dtype": "float32"}


def begun(recipe: str, family: str, folder: Path, **changes: Any) -> tuple[RunConfig, ThinkingTrainer]:
    settings = {**SMALL, "student": tiny.folder(family), "output_dir": str(folder), **changes}
    config = load_config(yaml_path=recipe, overrides=settings)
    _, trainer = _begin(config, RunPaths(folder), None, output_dir=folder, max_steps=-1)
    trainer.model.eval()
    return config, trainer


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_loss(trainer: ThinkingTrainer, batch: Any, expected: Tensor) -> None:
    """Compare loss and gradients of all weights to 1e-5."""
    model = trainer.model
    loss = trainer.compute_loss(model, batch)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    theirs, ours = gradients(model, expected), gradients(model, loss)
    assert ours.keys() == theirs.keys() and any(bool(grad.abs().max() > 1e-2) for grad in theirs.values())
    for name, grad in ours.items():
        torch.testing.assert_close(grad, theirs[name], atol=1e-5, rtol=1e-4, msg=lambda text, name=name: name + text)


# Coconut


def coconut_row(model: Any, item: Item, *, stage: int, max_stage: int, c: int, markers: bool) -> tuple[Tensor, int]:
    """Return the summed loss of a row and its labels: <bot>, thoughts, <eot>, the steps left, the answer.

    The sequence is run again, without a cache, for each thought.
    """
    encoded, lm = item.encoded, unwrap(model.lm)
    replaced, skipped = (stage, stage) if stage <= max_stage else (max_stage, len(encoded.steps))
    bot, eot = ([model.tokenizer.convert_tokens_to_ids(token)] if markers else [] for token in ("<bot>", "<eot>"))
    kept = [token for step in encoded.steps[skipped:] for token in step]
    labels = [*kept, *encoded.marker, *encoded.answer]
    embed = lm.get_input_embeddings()
    inputs = embed(torch.tensor([[*encoded.prompt, *bot]]))
    for _ in range(replaced * c):
        last = lm(inputs_embeds=inputs, output_hidden_states=True).hidden_states[-1][:, -1:]
        inputs = torch.cat([inputs, last], dim=1)
    inputs = torch.cat([inputs, embed(torch.tensor([[*eot, *labels]]))], dim=1)
    logits = lm(inputs_embeds=inputs).logits[0, -len(labels) - 1 : -1]
    return F.cross_entropy(logits, torch.tensor(labels), reduction="sum"), len(labels)


def mean(parts: Sequence[tuple[Tensor, int]]) -> Tensor:
    return torch.stack([loss for loss, _ in parts]).sum() / sum(count for _, count in parts)


@pytest.mark.parametrize(("recipe", "family", "c"), [("coconut_gpt2", "gpt2", 2), ("coconut_llama-3.2-1b", "llama", 1)])
def test_coconuts_loss_at_each_stage_of_its_recipe(recipe: str, family: str, c: int, tmp_path: Path) -> None:
    config, trainer = begun(recipe, family, tmp_path)
    assert config.thinking.thoughts_per_step == c and trainer.collator.max_stage == 4
    # Problems of different lengths, some with more steps than the three that thoughts replace.
    chosen = sorted(trainer.items, key=lambda item: len(item.encoded.steps))[:: len(trainer.items) // 5]
    assert {len(item.encoded.steps) > 3 for item in chosen} == {True, False}
    for stage in range(5):
        parts = [coconut_row(trainer.model, item, stage=stage, max_stage=3, c=c, markers=stage > 0) for item in chosen]
        assert_same_loss(trainer, trainer.collator.fixed(stage)(chosen), mean(parts))


def test_coconuts_markers_at_stage_0(tmp_path: Path) -> None:
    """As its code has them where no other checkpoint takes the place of stage 0."""
    _, trainer = begun("coconut_gpt2", "gpt2", tmp_path, stage0_markers=True)
    chosen = trainer.items[:3]
    parts = [coconut_row(trainer.model, item, stage=0, max_stage=3, c=2, markers=True) for item in chosen]
    assert_same_loss(trainer, trainer.collator.fixed(0)(chosen), mean(parts))


def test_coconuts_rows_with_thoughts_for_their_own_steps(tmp_path: Path) -> None:
    """Its code's pad_latent_to_max: False, which shows at the last stage alone."""
    _, trainer = begun("coconut_gpt2", "gpt2", tmp_path, thoughts_fit_steps=True)
    chosen = sorted(trainer.items, key=lambda item: len(item.encoded.steps))[:: len(trainer.items) // 5]
    numbers = [min(3, len(item.encoded.steps)) for item in chosen]
    assert len(set(numbers)) > 1
    batch = trainer.collator.fixed(4)(chosen)
    assert batch.get("row_thoughts", torch.empty(0)).tolist() == [2 * number for number in numbers]
    parts = [
        coconut_row(trainer.model, item, stage=number + 1, max_stage=number, c=2, markers=True)
        for item, number in zip(chosen, numbers, strict=True)
    ]
    assert_same_loss(trainer, batch, mean(parts))
    assert "row_thoughts" not in trainer.collator.fixed(3)(chosen)


def test_steps_are_written_from_each_rows_own_thoughts(tmp_path: Path) -> None:
    _, trainer = begun("coconut_llama-3.2-1b", "llama", tmp_path, thoughts_fit_steps=True, step_loss_weight=0.5)
    chosen, last = list(trainer.items[:6]), trainer.collator.fixed(4)
    together = trainer.model(**last(chosen))
    alone = [trainer.model(**last([item])) for item in chosen]
    for name in ("loss_sum", "num_labels", "step_loss_sum"):
        expected = torch.stack([getattr(output, name) for output in alone]).sum()
        torch.testing.assert_close(getattr(together, name), expected, rtol=1e-5, atol=1e-5)
    trainer.model.train()
    assert trainer.train().global_step > 0


def test_coconuts_stages_take_the_epochs_of_the_paper(tmp_path: Path) -> None:
    _, trainer = begun("coconut_gpt2", "gpt2", tmp_path, batch_size=4, gradient_accumulation_steps=1)
    stages = [trainer.collator.stage_at(update) for update in range(0, 500, 10)]  # ten updates an epoch
    assert stages == [0] * 6 + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 35
    assert [trainer.collator.stage_at(update) for update in (59, 60, 149, 150)] == [0, 1, 3, 4]
    args = trainer.args
    assert (args.lr_scheduler_type, args.learning_rate, args.weight_decay) == ("constant", 1e-4, 0.01)
    assert (args.warmup_steps, args.max_grad_norm, args.num_train_epochs) == (0, 0, 50)


# iCoT


def icot_row(model: Any, item: Item, *, removed: int, side: str) -> tuple[Tensor, int]:
    """Return the summed loss of a row: question, end token, the step tokens left, end token, answer, end token."""
    encoded, eos = item.encoded, model.tokenizer.eos_token_id
    sequence = [*encoded.prompt, *(token for step in encoded.steps for token in step)]
    first = sequence.index(eos)
    sequence += [*encoded.marker, *encoded.answer]
    second = sequence.index(eos, first + 1)
    begin, end = (first + 1, first + 1 + removed) if side == "left" else (second - removed, second)
    begin, end = max(begin, first + 1), min(end, second)
    ids = torch.tensor([sequence[:begin] + sequence[end:]])
    logits = unwrap(model.lm)(input_ids=ids).logits[0, first:-1]
    return F.cross_entropy(logits, ids[0, first + 1 :], reduction="sum"), len(ids[0]) - first - 1


ENDS = {"question_end": " <eos>", "answer_marker": "<eos> ####"}  # the end token of the small models


@pytest.mark.parametrize("side", ["left", "right"])
def test_icots_loss_while_tokens_go(side: str, tmp_path: Path) -> None:
    """One update an epoch here, so one token goes in each."""
    changes = {"removal_side": side, "batch_size": 64, "removal_smoothing": 0.5, "pretrain_epochs": 2, **ENDS}
    _, trainer = begun("icot_gpt2", "gpt2", tmp_path, **changes)
    removal = trainer.collator.removal
    assert removal is not None
    seen = set()
    for update, scheduled in ((0, 0), (2, 0), (7, 5), (40, 38), (41, None)):
        chosen = [Item(item.index, item.encoded, update) for item in trainer.items[:4]]
        offsets = [removal.offset(update, item.index) for item in chosen]
        assert update >= 2 or offsets == [0] * 4
        seen.update(offsets)
        removed = [10**6 if scheduled is None else scheduled + offset for offset in offsets]
        parts = [icot_row(trainer.model, item, removed=n, side=side) for item, n in zip(chosen, removed, strict=True)]
        assert_same_loss(trainer, trainer.collator(chosen), mean(parts))
    assert len(seen) > 2
    held_out = next(iter(trainer.get_eval_dataloader(list(trainer.items[:2]))))
    start = len(trainer.items[0].encoded.marker)
    assert held_out["answer_start"].tolist() == [start, start]


def icot_schedule(*, per_epoch: int, tokens_per_epoch: float, pretrain: int, beyond: float, epochs: int) -> list[float]:
    """Return the tokens that each batch of a training removes, by the counters of the published loop."""
    every, scheduled, counter, found = round(per_epoch / tokens_per_epoch), 0.0, 0, []
    for epoch in range(epochs):
        for _ in range(per_epoch):
            if counter == every or every == 0:
                scheduled, counter = scheduled + 1, 0
            counter += epoch >= pretrain
            if scheduled >= beyond:
                scheduled = float("inf")
            found.append(0.0 if epoch < pretrain else scheduled)
    return found


@pytest.mark.parametrize(
    ("per_epoch", "settings"),
    [
        (10, {"remove_per_epoch": 1}),
        (10, {"remove_per_epoch": 8, "remove_all_beyond": 7}),
        (7, {"remove_per_epoch": 2.5, "pretrain_epochs": 2}),
        (3, {"remove_per_epoch": 8}),
        (12, {"remove_per_epoch": 4, "pretrain_epochs": 1, "remove_all_beyond": 5}),
    ],
)
def test_the_schedule_of_removed_tokens_is_that_of_the_published_loop(per_epoch: int, settings: dict[str, Any]) -> None:
    config = RunConfig.from_flat(method="icot", **settings)
    removal = token_removal(config, per_epoch=per_epoch, longest_steps=20)
    options = config.removal
    expected = icot_schedule(
        per_epoch=per_epoch,
        tokens_per_epoch=options.remove_per_epoch or 0,
        pretrain=options.pretrain_epochs,
        beyond=options.remove_all_beyond or float("inf"),
        epochs=6,
    )
    assert [removal.scheduled(update) for update in range(6 * per_epoch)] == [min(20, count) for count in expected]


def test_offsets_have_the_published_distribution() -> None:
    config = RunConfig.from_flat(method="icot", remove_per_epoch=8, removal_smoothing=1.0)
    removal = token_removal(config, per_epoch=10, longest_steps=20)
    drawn = [removal.offset(update, index) for update in range(100) for index in range(100)]
    for offset in range(4):
        chance = (1 - torch.tensor(-1.0).exp()) * torch.tensor(-float(offset)).exp()
        # 10,000 draws: six standard deviations.
        assert drawn.count(offset) / 10_000 == pytest.approx(chance.item(), abs=0.03)
    assert drawn == [removal.offset(update, index) for update in range(100) for index in range(100)]


def test_moments_restart_until_nothing_is_left_to_remove(tmp_path: Path) -> None:
    changes = {"batch_size": 40, "remove_all_beyond": 3, **ENDS}
    _, trainer = begun("icot_gpt2", "gpt2", tmp_path, **changes)
    levels = [trainer.collator.stage_at(update) for update in range(6)]
    longest = max(item.encoded.num_step_tokens for item in trainer.items)
    assert levels == [0, 1, 2, longest, longest, longest]


@pytest.mark.parametrize("path", sorted((recipes_folder() / "published").glob("*.yaml")), ids=lambda path: path.stem)
def test_each_published_recipe_has_a_dry_run(path: Path) -> None:
    text = dry_run(load_config(yaml_path=path))
    assert "phases: " in text and "385,620 to train on" in text and "operations" in text
