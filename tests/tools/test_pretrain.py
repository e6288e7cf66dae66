"""Pretraining of the embedded models: what it reads, and that it makes a model that loads; at a tiny scale."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lrd_peft.data.encoding import Encoder
from lrd_peft.data.generators import generate_problems
from lrd_peft.model.loading.lm import load_lm
from lrd_peft.runtime.errors import UserError
from tools.pretrain import TINY_MODELS, drills, grow, pretrain, written


def test_a_drill_asks_for_the_letter_of_an_option() -> None:
    for drill in drills(20, seed=3):
        asked = drill.question.removeprefix("which option is ").removesuffix("?")
        assert drill.options["ABCDE".index(drill.answer)] == asked
        assert len(set(drill.options)) == 5 and drill.steps == (f"{asked} ({drill.answer})",)


def test_the_recipes_keep_the_sizes_that_they_promise() -> None:
    teacher, student = load_lm("tiny-teacher").lm, load_lm("tiny-student").lm
    assert teacher.config.num_hidden_layers >= 12
    assert student.num_parameters() <= 0.43 * teacher.num_parameters()
    for name, lm in (("tiny-teacher", teacher), ("tiny-student", student)):
        assert (lm.config.hidden_size, lm.config.num_hidden_layers) == (
            TINY_MODELS[name].hidden_size,
            TINY_MODELS[name].num_blocks,
        )


def test_the_shipped_tokenizer_is_the_one_that_the_recipe_builds() -> None:
    encoder = Encoder(load_lm("tiny-teacher").tokenizer)
    for name in ("gsm-mini", "math-mini", "aqua-mini"):
        for problem in generate_problems(name, split="test", num_problems=50, seed=4):
            encoded = encoder.encode(problem)
            assert len(encoded.marker) == 1
            text = encoder.tokenizer.decode([*encoded.prompt, *encoded.suffix(0)], skip_special_tokens=True)
            assert text == written(problem)


@pytest.mark.slow
def test_a_tiny_scale_makes_a_model_with_card_and_log(tmp_path: Path) -> None:
    folder = pretrain("tiny-student", output_dir=tmp_path / "model", scale=0.01, threads=1)
    loaded = load_lm(str(folder))
    assert loaded.lm.num_parameters() == load_lm("tiny-student").lm.num_parameters()
    card = (folder / "README.md").read_text()
    assert "| gsm-mini |" in card and "python -m tools.pretrain tiny-student" in card
    assert (folder / "model.safetensors").stat().st_size < 3_000_000
    for line in (folder / "training_log.jsonl").read_text().splitlines():
        assert json.loads(line)["loss"] > 0


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'no tiny model "tiny-techer".*tiny-teacher'):
        pretrain("tiny-techer", output_dir=tmp_path)


def test_a_grown_model_computes_what_it_grew_from() -> None:
    torch.manual_seed(3)

    def model(blocks: int) -> LlamaForCausalLM:
        config = LlamaConfig(
            vocab_size=40,
            num_hidden_layers=blocks,
            hidden_size=16,
            intermediate_size=24,
            num_attention_heads=2,
            num_key_value_heads=2,
            initializer_range=0.2,
        )
        return LlamaForCausalLM(config).eval()

    start, grown = model(4), model(6)
    grow(grown, start, (0, 1, 1, 2, 2, 3))
    ids = torch.randint(0, 40, (2, 7))
    with torch.no_grad():
        assert torch.allclose(grown(ids).logits, start(ids).logits, atol=1e-5)
    weights = grown.state_dict()
    up, down = "model.layers.{}.mlp.up_proj.weight", "model.layers.{}.mlp.down_proj.weight"
    assert torch.equal(weights[up.format(2)], weights[up.format(1)])
    assert not weights[down.format(2)].any() and weights[down.format(1)].any()
    for recipe in TINY_MODELS.values():
        assert recipe.start is None or TINY_MODELS[recipe.start].num_blocks == max(recipe.blocks) + 1
