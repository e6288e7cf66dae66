"""Kinds of models that the tests found to give the right numbers on every fast way, so that loading skips the check."""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import json
import re
from typing import Any

import transformers
from transformers import PreTrainedConfig, PreTrainedModel

LIST_FILE = "known_architectures.json"
# Numbers that scale logits or states, whose values matter.
_FACTOR = re.compile("multiplier|scal|softcap|soft_cap")
# What does not change the computation of a model in evaluation mode.
_IGNORED = {
    "architectures",
    "dtype",
    "torch_dtype",
    "model_type",
    "name_or_path",
    "_name_or_path",
    "problem_type",
    "task_specific_params",
    "transformers_version",
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "id2label",
    "label2id",
    "tie_word_embeddings",
    "quantization_config",
}


def signature(lm: PreTrainedModel) -> str:
    """Return a digest of what an architecture computes: class, version of transformers, attention, and every flag.

    Sizes are left out, factors of logits and states are not.
    """
    facts = {
        "class": f"{type(lm).__module__.rpartition('.')[2]}.{type(lm).__qualname__}",
        "transformers": transformers.__version__,
        "attention": lm.config._attn_implementation,
        "flags": _flags(lm.config),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def is_known_good(lm: PreTrainedModel) -> bool:
    """Return whether the tests found every fast way right for models of this kind."""
    return signature(lm) in _good_signatures()


def _flags(config: PreTrainedConfig) -> dict[str, Any]:
    flags: dict[str, Any] = {}
    for name, value in config.to_dict().items():
        if name in _IGNORED or name.endswith("_token_id"):
            continue
        if isinstance(value, (list, tuple)):
            value = [entry for entry in value if not (isinstance(entry, float) and not _FACTOR.search(name))]
            flags[name] = sorted(
                {str(entry) for entry in value if not isinstance(entry, int) or isinstance(entry, bool)}
            )
        elif isinstance(value, dict):
            flags[name] = sorted(f"{key}={entry}" for key, entry in value.items() if isinstance(entry, (str, bool)))
        elif _FACTOR.search(name):
            flags[name] = value
        else:
            flags[name] = value if isinstance(value, (bool, str)) or value is None else "number"
    return flags


@functools.cache
def _good_signatures() -> frozenset[str]:
    file = importlib.resources.files("lrd_peft.model") / "assets" / LIST_FILE
    entries = json.loads(file.read_text())["found"].values()
    # A signature holds the version of transformers, so a list made with another version has no effect.
    return frozenset(
        entry["signature"] for entry in entries if "signature" in entry and not {"slower", "refusal"} & entry.keys()
    )
