"""A tiny twin of an architecture: the same configuration class and flags, every size reduced.

What an architecture computes (masks, caches, heads, norms) hardly depends on its sizes, so a check on a twin of a few
thousand weights speaks for a model of billions. Windows become shorter than the checked sequences.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

VOCABULARY = 64
WIDTH = 32
WINDOW = 5
POSITIONS = 64
_MOST_BLOCKS = 4

_SIZES: dict[str, int] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "unpadded_vocab_size"), VOCABULARY),
    **dict.fromkeys(
        ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length", "max_source_positions"),
        POSITIONS,
    ),
    **dict.fromkeys(("max_target_positions", "seq_length", "model_max_length", "max_sequence_length"), POSITIONS),
    **dict.fromkeys(("rel_extent", "original_max_position_embeddings"), POSITIONS),
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "emb_dim", "embedding_size", "embedding_dim", "word_embed_proj_dim"),
        WIDTH,
    ),
    **dict.fromkeys(("input_embedding_size", "output_embedding_size", "lru_width", "ple_embed_dim"), WIDTH),
    **dict.fromkeys(("attention_hidden_size", "mamba_d_ssm"), 2 * WIDTH),
    **dict.fromkeys(("dff", "n_inner", "d_inner", "dim_ff", "feed_forward_size", "intermediate_size_mlp"), 2 * WIDTH),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "num_heads"), 8),
    **dict.fromkeys(
        ("head_dim", "kv_channels", "dim_head", "attention_head_size", "d_head", "mamba_d_head", "mamba_head_dim"), 8
    ),
    **dict.fromkeys(("mamba_headdim", "linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 8),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "swa_head_dim", "rotary_dim", "d_rel"), 8),
    **dict.fromkeys(("global_head_dim", "index_head_dim", "attention_head_dim", "qk_head_dim"), 16),
    **dict.fromkeys(
        ("state_size", "ssm_state_size", "mamba_d_state", "hidden_size_per_layer_input", "router_hidden_size"), 8
    ),
    **dict.fromkeys(("chunk_size", "mamba_chunk_size", "block_size", "max_inference_chunksize"), 8),
    **dict.fromkeys(
        (
            "sliding_window",
            "window_size",
            "attention_chunk_size",
            "local_attention",
            "sliding_window_size",
            "attention_window_size",
            "keep_window_size",
            "local_attention_window_len",
        ),
        WINDOW,
    ),
    **dict.fromkeys(("index_topk", "index_block_size"), 4),
    # Enough that no score is zero in all of them: such scores tie, and ties are broken by chance.
    **dict.fromkeys(("index_n_heads", "indexer_n_heads"), 16),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(
        ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k", "zero_expert_num"), 2
    ),
}
_HEADS = 4
# Standard deviations of the noise on the weights, by seed: ties between keys or experts come with small ones.
_NOISE = (0.1, 0.07)
_FEWEST_BLOCKS = 3
_MOST = {
    "n_groups": 2,
    "mamba_n_groups": 2,
    "n_group": 2,
    "num_expert_group": 2,
    "topk_group": 1,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "num_kv_shared_layers": 1,
    "first_k_dense_replace": 1,
    "max_window_layers": 1,
    "hybrid_layer_ids": 1,
}
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
# A number of blocks under each name that architectures give it.
_BLOCK_COUNTS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "decoder_layers",
    "num_decoder_layers",
    "encoder_layers",
    "num_encoder_layers",
    "num_blocks",
)
# Lists of block indices, rather than one entry per block.
_INDEX_LISTS = (
    "moe_layers",
    "mlp_only_layers",
    "attn_layer_indices",
    "cross_attention_layers",
    "full_attn_idxs",
    "hybrid_layer_ids",
)


def twin_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return a configuration of the same class and flags with every known size reduced.

    Args:
        config: Configuration of a causal LM.

    Raises:
        Exception: Whatever the class raises where the reduced sizes do not fit together.
    """
    return type(config)(**_reduced(config.to_dict()))


def _reduced(values: dict[str, Any]) -> dict[str, Any]:
    values, original = copy.deepcopy(values), values
    total = next((values[name] for name in _BLOCK_COUNTS if isinstance(values.get(name), int)), 0)
    kept = _kept_blocks(values, total)
    for name, value in list(values.items()):
        if isinstance(value, dict) and "model_type" in value:
            values[name] = _reduced(value)
        elif name == "per_layer_config" and value:
            places = {f"{int(key)}": key for key in value}
            values[name] = {
                str(new): _reduced(value[places[str(old)]]) for new, old in enumerate(kept) if str(old) in places
            }
        elif isinstance(value, bool) or value is None:
            continue
        elif isinstance(value, int):
            values[name] = _reduced_size(name, value, blocks=len(kept), whole=original)
        elif isinstance(value, (list, tuple)) and name in _INDEX_LISTS:
            values[name] = [kept.index(index) for index in value if index in kept]
        elif isinstance(value, (list, tuple)) and total and len(value) == total:
            values[name] = [
                _reduced_size(name.removesuffix("_per_layer"), value[index], blocks=len(kept), whole=original)
                if isinstance(value[index], int)
                else value[index]
                for index in kept
            ]
    return values


def _kept_blocks(values: Mapping[str, Any], total: int) -> tuple[int, ...]:
    """Choose the first block of each kind, then second ones, because some architectures tie blocks of a kind."""
    per_block = [
        value
        for name, value in values.items()
        if isinstance(value, (list, tuple)) and total and len(value) == total and name not in _INDEX_LISTS
    ]
    per_block += [
        [index in value for index in range(total)]
        for name, value in values.items()
        if name in _INDEX_LISTS and isinstance(value, (list, tuple))
    ]
    kinds: dict[str, list[int]] = {}
    for index in range(total):
        kinds.setdefault(repr([entries[index] for entries in per_block]), []).append(index)
    first = [places[0] for places in kinds.values()]
    others = [
        place for rank in range(1, _FEWEST_BLOCKS) for places in kinds.values() for place in places[rank : rank + 1]
    ]
    return tuple(sorted((first + others)[: max(_FEWEST_BLOCKS, min(_MOST_BLOCKS, 2 * len(kinds)), len(first))]))


def _reduced_size(name: str, value: int, *, blocks: int, whole: Mapping[str, Any]) -> int:
    if name in _TOKENS:
        return _TOKENS[name]
    if name.endswith("_token_id"):
        return min(value, VOCABULARY - 1)
    if name in _BLOCK_COUNTS:
        return blocks
    if name in _MOST:
        return min(value, _MOST[name])
    if name in _SIZES:
        return min(value, _SIZES[name])
    if "key_value_heads" in name or name in ("num_kv_heads", "num_query_groups", "linear_num_key_heads"):
        return _reduced_kv_heads(value, whole)
    if "heads" in name or name == "n_head":
        return min(value, _HEADS)
    if "rank" in name:
        return min(value, 8)
    if "intermediate" in name or "ffn" in name:
        return min(value, 2 * WIDTH)
    return value


def _reduced_kv_heads(value: int, whole: Mapping[str, Any]) -> int:
    heads = whole.get("num_attention_heads")
    if value == 1 or not isinstance(heads, int):
        return min(value, 2)
    return _HEADS if value == heads else 2


def build_twin(kind: type[PreTrainedModel], config: PreTrainedConfig, *, seed: int = 0) -> PreTrainedModel | None:
    """Build a tiny model of a class; see `random_model`.

    Args:
        kind: Class of the model.
        config: Its configuration, of any size.
        seed: Seed of the weights.

    Returns:
        The twin, or None if the reduced sizes do not fit together.
    """
    try:
        twin = random_model(kind, twin_config(config), seed=seed, attention=config._attn_implementation)
        twin(input_ids=torch.arange(1, POSITIONS // 4)[None])
    except Exception:  # a configuration class may refuse reduced sizes in any way
        return None
    return twin


def random_model(
    kind: type[PreTrainedModel], config: PreTrainedConfig, *, seed: int = 0, attention: str | None = None
) -> PreTrainedModel:
    """Build a model in float32 on the CPU, in evaluation mode, with random weights.

    Args:
        kind: Class of the model.
        config: Its configuration.
        seed: Seed of the weights.
        attention: Attention implementation; None for the default.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        lm = kind._from_config(config, dtype=torch.float32, attn_implementation=attention)
        add_noise(lm, scale=_NOISE[seed % len(_NOISE)])
    return lm.eval()


@torch.no_grad()
def add_noise(lm: PreTrainedModel, scale: float) -> None:
    """Move every weight away from its initial value, in place: zeros and ones hide faults.

    Args:
        lm: Model to change.
        scale: Standard deviation for matrices; vectors get a third of it.
    """
    for parameter in lm.parameters():
        if parameter.is_floating_point():
            parameter.add_(torch.randn_like(parameter) * (scale if parameter.dim() > 1 else scale / 3))
