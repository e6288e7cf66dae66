"""Fingerprints: what must change them and what must not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lrd_peft.model.fingerprints import fingerprint_tokenizer, fingerprint_weights
from lrd_peft.model.loading.lm import load_lm
from tests.model.small_models import llama, make_tokenizer, save


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return save(tmp_path / "model", llama())


def test_weight_fingerprint_tells_models_apart_and_survives_saving(folder: str) -> None:
    first = fingerprint_weights(llama())
    assert fingerprint_weights(load_lm(folder).lm) == first
    assert fingerprint_weights(llama(seed=1)) != first
    assert fingerprint_weights(llama().half()) != first
    changed = llama()
    with torch.no_grad():
        changed.get_parameter("model.layers.3.mlp.down_proj.weight")[5, 7] += 1e-3
    assert fingerprint_weights(changed) != first


def test_weight_fingerprint_ignores_mode_and_memory_layout() -> None:
    lm = llama()
    first = fingerprint_weights(lm)
    weight = lm.get_parameter("model.layers.0.self_attn.q_proj.weight")
    weight.data = weight.data.t().contiguous().t()
    assert not weight.is_contiguous()
    assert fingerprint_weights(lm.train()) == first


def test_tokenizer_fingerprint_ignores_padding_and_survives_saving(folder: str) -> None:
    tokenizer = make_tokenizer(eos_token="<eos>", unk_token="<unk>")
    first = fingerprint_tokenizer(tokenizer)
    tokenizer.pad_token = "<pad>"
    tokenizer(["two plus", "three"], padding=True, truncation=True, max_length=4)
    assert fingerprint_tokenizer(tokenizer) == first
    assert fingerprint_tokenizer(load_lm(folder).tokenizer) == first
    assert fingerprint_tokenizer(make_tokenizer(eos_token="?", unk_token="<unk>")) != first
    tokenizer.add_tokens(["<bot>"])
    assert fingerprint_tokenizer(tokenizer) != first
