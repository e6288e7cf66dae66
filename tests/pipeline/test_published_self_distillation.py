"""Recipes of CODI: their losses against a plain transcription of the paper's code path.

Shen et al., arXiv 2502.21074, section 3. The models are small and random; everything else is the recipe's.
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
from lrd_peft.training.thinking_trainer import ThinkingTrainer
from tests.pipeline.test_published_curricula import assert_same_loss, begun

pytestmark = pytest.mark.timeout(600)

# A text of the small vocabulary, and lengths that fit the small context.
FITTING: dict[str, Any] = {"answer_marker": "### ", "answer_prefix": "", "max_length": 130}


def prepared(recipe: str, family: str, folder: Path, **changes: Any) -> ThinkingTrainer:
    """Return the recipe's trainer, with adapters that are not zero."""
    _, trainer = begun(recipe, family, folder, **FITTING, **changes)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weight in trainer.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    return trainer


def read(lm: Any, inputs: Tensor) -> Any:
    return lm(inputs_embeds=inputs, output_hidden_states=True, use_cache=False)


def cross_entropy(logits: Tensor, ids: Sequence[int]) -> Tensor:
    """Sum over the last tokens of a sequence, each predicted by the position before it."""
    return F.cross_entropy(logits[0, -len(ids) - 1 : -1], torch.tensor(ids), reduction="sum")


def transcription(model: Any, rows: Sequence[Item], *, distance: str, weight: float, written_weight: float) -> Tensor:
    """CODI's loss, each problem by itself, so that there is no padding; the last step is dropped."""
    lm, embed = unwrap(model.lm), unwrap(model.lm).get_input_embeddings()
    bot, eot = model.tokenizer.convert_tokens_to_ids(["<bot>", "<eot>"])
    on_steps, on_answer, num_steps, num_answer = torch.zeros(()), torch.zeros(()), 0, 0
    pairs: list[tuple[list[Tensor], list[Tensor]]] = []
    for item in rows:
        row = item.encoded
        told = [token for step in row.steps[:-1] for token in step] + [*row.marker, *row.answer]
        written = read(lm, embed(torch.tensor([[*row.prompt, *told]])))
        on_steps, num_steps = on_steps + cross_entropy(written.logits, told), num_steps + len(told)
        sequence = embed(torch.tensor([[*row.prompt, bot]]))
        for _ in range(model.options.num_thoughts):
            thought = model.projection(read(lm, sequence).hidden_states[-1][:, -1:])
            sequence = torch.cat([sequence, thought], dim=1)
        said = [*row.marker, *row.answer]
        latent = read(lm, torch.cat([sequence, embed(torch.tensor([[eot, *said]]))], dim=1))
        on_answer, num_answer = on_answer + cross_entropy(latent.logits, said), num_answer + len(said)
        place = -len(row.answer) - 1
        pairs.append(([h[0, place] for h in latent.hidden_states], [h[0, place] for h in written.hidden_states]))
    layers = range(len(pairs[0][0]))
    apart = torch.zeros(())
    for layer in layers:
        ours = torch.stack([pair[0][layer] for pair in pairs])
        theirs = torch.stack([pair[1][layer] for pair in pairs]).detach()
        if distance == "l2":
            apart = apart + F.mse_loss(ours, theirs) / theirs.std() / theirs.std()
        else:
            measure = F.smooth_l1_loss if distance == "smooth-l1" else F.l1_loss
            apart = apart + measure(ours, theirs) / theirs.std()
    return written_weight * on_steps / num_steps + on_answer / num_answer + weight * apart / len(layers)


@pytest.mark.parametrize(
    ("recipe", "family", "distance", "changes"),
    [
        ("codi_gpt2", "gpt2", "smooth-l1", {}),
        ("codi_llama-3.2-1b", "llama", "smooth-l1", {}),
        ("codi_gpt2", "gpt2", "l2", {"self_distance": "l2", "written_weight": 0.5, "projection_width": 24}),
        ("codi_gpt2", "gpt2", "l1", {"self_distance": "l1", "method": "codi-full"}),
    ],
    ids=["gpt2", "llama", "l2", "all-weights"],
)
def test_codis_loss_is_that_of_its_code(
    recipe: str, family: str, distance: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    targets = {"lora_targets": ["c_attn", "c_proj", "c_fc"]} if family == "gpt2" else {}
    trainer = prepared(recipe, family, tmp_path, **targets, **changes)
    model: Any = trainer.model
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    if "method" not in changes:
        assert all("lora_" in name or name.startswith("projection.") for name in trained), "the markers are frozen"
    chosen = trainer.items[:4]
    expected = transcription(
        model,
        chosen,
        distance=distance,
        weight=20.0 if family == "llama" else 1.0,
        written_weight=changes.get("written_weight", 1.0),
    )
    assert len({len(item.encoded.prompt) for item in chosen}) > 1, "some questions are padded"
    assert_same_loss(trainer, trainer.collator(chosen), expected)


def test_dropout_acts_in_training_only(tmp_path: Path) -> None:
    trainer = prepared("codi_gpt2", "gpt2", tmp_path, projection_dropout=0.5, lora_dropout=0.0)
    model: Any = trainer.model
    hidden = torch.ones(2, 8, model.hidden_size)
    assert torch.equal(model.projection(hidden)[0, 0], model.projection(hidden)[1, 3])
    model.projection.train()
    assert not torch.equal(model.projection(hidden)[0, 0], model.projection(hidden)[1, 3])
