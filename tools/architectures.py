"""Find out how the thinking loop runs on every causal-LM architecture of the installed transformers.

    python -m tools.architectures update    check all of them, write the list of good ones and the page in docs/
    python -m tools.architectures check     compare the page with the list (no models are built)

The list (`src/lrd_peft/model/assets/known_architectures.json`) lets `lrd_peft` skip the check when it loads a model of
a kind that is right on every fast way. tests/model/test_architectures.py holds the list against plain recomputation.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from lrd_peft.model.known_architectures import LIST_FILE, signature
from lrd_peft.model.path_checks import find_paths
from lrd_peft.model.paths import USES, Paths
from lrd_peft.model.self_check import find_twin_paths
from lrd_peft.model.twin import random_model, twin_config

LIST = Path("src/lrd_peft/model/assets") / LIST_FILE
PAGE = Path("docs/architectures.md")
START, END = "<!-- architectures -->", "<!-- /architectures -->"

MODEL_TYPES: tuple[str, ...] = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)

# What the defaults of a configuration class lack to make a causal LM.
_OVERRIDES: dict[str, dict[str, Any]] = {
    **{
        name: {"is_decoder": True}
        for name in (
            *("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert"),
            *("rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl"),
            *("xmod", "bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "marian", "mbart", "mvp", "pegasus"),
            *("plbart", "prophetnet", "trocr", "whisper"),
        )
    },
    **{name: {"head_dim": 128} for name in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral")},
    "bamba": {"attn_layer_indices": [1, 9]},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "kv_n_heads": 8, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 6, "n_routed_experts": 64},
    "dots1": {"n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6},
    "granitemoehybrid": {"layer_types": ["mamba", "mamba", "attention", "mamba"] * 8},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "conv"] * 8},
    "nemotron": {"head_dim": 128, "num_key_value_heads": 48},
}


def small_model(model_type: str) -> PreTrainedModel:
    """Build the causal LM of a model type from its default configuration with tiny sizes and seeded random weights."""
    kind, config = kind_and_config(model_type)
    return random_model(kind, twin_config(config))


def kind_and_config(model_type: str) -> tuple[type[PreTrainedModel], PreTrainedConfig]:
    """Return the class of a model type's causal LM and its default configuration, of the text part if it has others."""
    config = CONFIG_MAPPING[model_type](**_OVERRIDES.get(model_type, {}))
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return kind, config if isinstance(config, kind.config_class) else config.get_text_config(decoder=True)


def find_entry(model_type: str) -> dict[str, Any]:
    """Check one model type.

    Args:
        model_type: One of `MODEL_TYPES`.

    Returns:
        What the list says about it: "signature" and "paths" if it can be built, else "not_built".
    """
    try:
        lm = small_model(model_type)
    except Exception as error:  # a class may refuse its own defaults in any way
        text = str(error).strip().splitlines()
        return {"not_built": f"{type(error).__name__}: {text[0] if text else ''}"[:120]}
    paths = find_twin_paths(*kind_and_config(model_type)) or find_paths(lm)
    return {"signature": signature(lm), "class": type(lm).__name__, **_as_json(paths)}


def _as_json(paths: Paths) -> dict[str, Any]:
    if paths.refusal:
        return {"refusal": paths.refusal}
    slow = [use for use in USES if use not in paths.cached]
    found = {"no_cache": slow, "rows_apart": paths.rows_apart, "own_head": paths.own_head}
    found |= {"shallow": paths.shallow, "plain_states": paths.plain_states}
    return {} if paths.is_fast else {"slower": found}


def read_list() -> dict[str, Any]:
    """Return the committed list."""
    return json.loads(LIST.read_text())


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the Markdown tables of a list's model types."""
    fast = [name for name, entry in found.items() if "class" in entry and not {"slower", "refusal"} & entry.keys()]
    slower = {name: entry["slower"] for name, entry in found.items() if "slower" in entry}
    refused = {name: entry["refusal"] for name, entry in found.items() if "refusal" in entry}
    not_built = {name: entry["not_built"] for name, entry in found.items() if "not_built" in entry}
    lines = [
        f"Of {len(found)} model types of transformers {transformers.__version__}, {len(fast)} are equal on every fast "
        f"way, {len(slower)} take a slower way that is equal, {len(refused)} are refused, and {len(not_built)} cannot "
        "be built from their default configuration with tiny sizes.",
        "",
        f"**Equal on every fast way**: {', '.join(fast)}.",
        "",
        "**Equal on a slower way**",
        "",
        "| model type | no KV cache in | rows apart | head | layers kept |",
        "|---|---|---|---|---|",
    ]
    for name, ways in slower.items():
        uses = "all uses" if len(ways["no_cache"]) == len(USES) else ", ".join(ways["no_cache"]) or "—"
        cells = (
            name,
            uses,
            "yes" if ways["rows_apart"] else "—",
            "its own" if ways["own_head"] else "—",
            "all" if ways["plain_states"] else "the last",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "**Refused**", "", "| model type | it |", "|---|---|"]
    lines += [f"| {name} | {reason.replace('|', '/')} |" for name, reason in refused.items()]
    lines += ["", f"**Not built**: {', '.join(not_built)}."]
    return "\n".join(lines)


def page_with(text: str, tables: str) -> str:
    """Return the page with these tables between its markers."""
    head, rest = text.split(START)
    return f"{head}{START}\n{tables}\n{END}{rest.split(END)[1]}"


def main(arguments: list[str]) -> int:
    """Run the command line."""
    if arguments == ["update"]:
        transformers.logging.set_verbosity_error()
        found = {}
        for name in MODEL_TYPES:
            found[name] = find_entry(name)
            print(name, found[name], flush=True)
        content = {"transformers": transformers.__version__, "found": found}
        LIST.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
        PAGE.write_text(page_with(PAGE.read_text(), table(read_list()["found"])))
        return 0
    if arguments == ["check"]:
        same = page_with(PAGE.read_text(), table(read_list()["found"])) == PAGE.read_text()
        print("up to date" if same else f"{PAGE} is not: run `python -m tools.architectures update`")
        return 0 if same else 1
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
