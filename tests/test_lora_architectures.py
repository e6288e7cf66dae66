"""Adapters on architectures that PEFT covers in part or not at all: said, or refused before any training."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model

from lrd_peft.lora import check_adapters, describe_uncovered, lora_config
from lrd_peft.model.inspection import meta_model
from lrd_peft.model.paths import paths_of
from lrd_peft.model.pruning import prune_depth
from lrd_peft.model.self_check import find_twin_paths
from lrd_peft.model.twin import twin_config
from lrd_peft.runtime.errors import UserError
from tools.architectures import kind_and_config, small_model


def on_meta(model_type: str):
    return meta_model(twin_config(kind_and_config(model_type)[1]))


@pytest.mark.filterwarnings("ignore:.*did not match any targeted module")
@pytest.mark.parametrize(
    ("model_type", "named"),
    [
        ("gpt_oss", "mlp.experts.gate_up_proj"),
        ("granitemoe", "block_sparse_moe.experts.down_proj"),
        ("dbrx", "experts"),
        ("deepseek_v3", "mlp.gate_proj.weight"),
    ],
)
def test_weights_without_an_adapter_are_named_with_their_share(model_type, named):
    lm = small_model(model_type)
    (line,) = describe_uncovered(get_peft_model(lm, lora_config(lm)))
    assert named in line and "\n" not in line
    assert 1 <= int(line.partition("%")[0]) < 100


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "mistral"])
def test_nothing_is_said_where_every_matrix_has_an_adapter(model_type):
    lm = small_model(model_type)
    assert describe_uncovered(get_peft_model(lm, lora_config(lm))) == []


def test_the_share_is_that_of_the_matrices_left_out():
    lm = small_model("llama")
    adapted = get_peft_model(lm, LoraConfig(target_modules=["q_proj"]))
    block = lm.get_submodule("model.layers.0")
    weight = lm.get_parameter("model.layers.0.self_attn.q_proj.base_layer.weight")
    total = sum(p.numel() for name, p in block.named_parameters() if p.dim() == 2 and "lora" not in name)
    (line,) = describe_uncovered(adapted)
    assert line.startswith(f"{1 - weight.numel() / total:.0%} of the weights")


@pytest.mark.parametrize(
    ("model_type", "options", "message"),
    [
        ("phimoe", {}, "does not run with these adapters"),
        ("mamba2", {}, "PEFT refuses these adapters.*out_proj"),
        ("mixtral", {"lora_dropout": 0.1}, "PEFT refuses these adapters.*lora_dropout"),
    ],
)
def test_adapters_that_do_not_work_are_refused_without_weights(model_type, options, message):
    with pytest.raises(UserError, match=message) as refusal:
        check_adapters(on_meta(model_type), **options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "mixtral", "gpt_oss", "qwen3_next"])
def test_adapters_that_work_pass(model_type):
    check_adapters(on_meta(model_type))


@pytest.mark.parametrize(
    "model_type",
    ["gemma3n_text", "gemma4_text", "llama4_text", "phimoe", "minicpm3", "diffllama", "lfm2_moe", "longcat_flash"],
)
@pytest.mark.parametrize("kept", [[0, 1], [0, 2]])
def test_a_pruned_architecture_thinks_or_is_refused_without_weights(model_type, kept):
    lm = on_meta(model_type)
    try:
        prune_depth(lm, kept)
        paths_of(lm)
    except UserError as refusal:
        assert "\n" not in str(refusal)
        return
    # What passes without weights also passes with them; without a twin the ways are only known with the weights.
    whole = prune_depth(small_model(model_type), kept)
    assert paths_of(whole) == paths_of(lm) or find_twin_paths(type(lm), lm.config) is None
    assert not paths_of(whole).refusal
    assert whole(input_ids=torch.tensor([[3, 4, 5]]), use_cache=False).logits.isfinite().all()
