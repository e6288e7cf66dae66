"""Recipes of SIM-CoT: their losses against plain transcriptions of the authors' code on unpadded rows.

Wei et al., arXiv 2509.20317: an auxiliary decoder writes each step from its thoughts. The models are small and random;
everything else is the recipe's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lrd_peft.model.loop import unwrap
from lrd_peft.training.curriculum import Item
from tests.pipeline.test_published_curricula import assert_same_loss, begun, coconut_row, mean
from tests.pipeline.test_published_self_distillation import prepared, read, transcription

pytestmark = pytest.mark.timeout(600)

FITTING: dict[str, Any] = {"answer_marker": "### ", "answer_prefix": ""}


def tokens(model: Any, text: str) -> list[int]:
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


def written(model: Any, thoughts: Tensor, text: Sequence[int], *, first_position: int) -> Tensor:
    """Return the decoder's summed cross-entropy of one text after its thoughts [1, c, hidden]."""
    words = unwrap(model.lm).get_input_embeddings()(torch.tensor([list(text)]))
    inputs = torch.cat([thoughts, words], dim=1)
    positions = torch.arange(first_position, first_position + inputs.shape[1])[None]
    logits = model.step_decoder.lm(inputs_embeds=inputs, position_ids=positions).logits[0]
    start = thoughts.shape[1] - 1
    return F.cross_entropy(logits[start : start + len(text)], torch.tensor(text), reduction="sum")


def targets(model: Any, item: Item, *, most: int, separator: str, drop_last: bool) -> list[list[int]]:
    steps = list(item.encoded.problem.steps)
    steps = steps[:-1] if drop_last else steps
    if len(steps) > most:
        steps = [*steps[: most - 1], separator.join(steps[most - 1 :])]
    return [[*tokens(model, step), model.tokenizer.eos_token_id] for step in steps]


def thoughts_of(model: Any, item: Item, count: int) -> list[Tensor]:
    """Return thoughts one by one, the whole sequence run again for each."""
    lm, project = unwrap(model.lm), model.projection or (lambda hidden: hidden)
    bot = model.tokenizer.convert_tokens_to_ids("<bot>")
    sequence = lm.get_input_embeddings()(torch.tensor([[*item.encoded.prompt, bot]]))
    found = []
    for _ in range(count):
        found.append(project(read(lm, sequence).hidden_states[-1][:, -1:]))
        sequence = torch.cat([sequence, found[-1]], dim=1)
    return found


def on_coconut(model: Any, rows: Sequence[Item], *, thinking: int, most: int) -> Tensor:
    """Sum over tokens, mean over problems, mean over groups of two thoughts; spare ones write the answer."""
    total = torch.zeros(())
    for item in rows:
        texts = targets(model, item, most=most, separator="\n", drop_last=False)[:thinking]
        answer = tokens(model, "### ") + tokens(model, item.encoded.problem.answer)
        texts += [[*answer, model.tokenizer.eos_token_id]] * (thinking - len(texts))
        thoughts = thoughts_of(model, item, 2 * thinking)
        for k, text in enumerate(texts):
            pair = torch.cat(thoughts[2 * k : 2 * k + 2], dim=1)
            total = total + written(model, pair, text, first_position=1) / len(rows) / thinking
    return total


def on_codi(model: Any, rows: Sequence[Item]) -> Tensor:
    """Mean over the tokens that each of N + 1 thoughts must write, mean over the thoughts that must write any."""
    most = model.options.num_thoughts + 1
    sums, counts = [torch.zeros(())] * most, [0] * most
    for item in rows:
        texts = targets(model, item, most=most, separator=" ", drop_last=True)
        thoughts = thoughts_of(model, item, most)
        for j, text in enumerate(texts):
            sums[j] = sums[j] + written(model, thoughts[j], text, first_position=0)
            counts[j] += len(text)
    means = [loss / count for loss, count in zip(sums, counts, strict=True) if count]
    return torch.stack(means).mean()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_loss_on_coconut_at_each_stage(family: str, tmp_path: Path) -> None:
    changes = {"max_stage": 3} if family == "gpt2" else {"max_stage": 2, "extra_stage": False}
    _, trainer = begun("simcot_coconut_gpt2", family, tmp_path, **FITTING, **changes)
    model: Any = trainer.model
    assert trainer.objective.step_loss_weight == 1
    most = changes["max_stage"]
    chosen = sorted(trainer.items, key=lambda item: len(item.encoded.steps))[:: len(trainer.items) // 4]
    numbers = [len(item.encoded.steps) for item in chosen]
    assert min(numbers) < most < max(numbers), "some thoughts are spare, and some stand for several steps"
    for stage in range(trainer.collator.max_stage + 1):
        thinking = min(stage, most)
        last = {"stage": stage, "max_stage": most if stage < trainer.collator.max_stage else most - 1}
        if stage == trainer.collator.max_stage:
            last = {"stage": most + 1, "max_stage": most}
        parts = [coconut_row(model, item, **last, c=2, markers=stage > 0) for item in chosen]
        expected = mean(parts)
        if stage:
            expected = expected + on_coconut(model, chosen, thinking=thinking, most=most)
        assert_same_loss(trainer, trainer.collator.fixed(stage)(chosen), expected)


@pytest.mark.parametrize(
    ("recipe", "family", "changes"),
    [
        ("simcot_codi_gpt2", "gpt2", {"lora_targets": ["c_attn", "c_proj", "c_fc"], "max_stage": 2}),
        ("simcot_codi_gpt2", "gpt2", {"method": "codi-full", "max_stage": 1}),
        ("simcot_codi_llama-3.2-1b", "llama", {}),
    ],
    ids=["gpt2", "all-weights-merged", "llama"],
)
def test_the_loss_on_codi(recipe: str, family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    trainer = prepared(recipe, family, tmp_path, **changes)
    model: Any = trainer.model
    chosen = sorted(trainer.items, key=lambda item: len(item.encoded.steps))[:: len(trainer.items) // 4]
    assert len({len(item.encoded.steps) for item in chosen}) > 1
    weight = 20.0 if family == "llama" else 1.0
    expected = transcription(model, chosen, distance="smooth-l1", weight=weight, written_weight=1)
    batch = trainer.collator(chosen)
    deepest = int(batch.get("step_places", torch.empty(0))[:, 1].max())
    assert (deepest == model.options.num_thoughts) == bool(changes), "the thought after the last slot writes a step"
    assert_same_loss(trainer, batch, expected + on_codi(model, chosen))
