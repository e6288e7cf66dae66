"""From a model's name to the place of its files.

Everything that can be refused before weights are read is refused here, with what to do instead.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrd_peft.model.loading.embedded import (
    CONVERT_HINT,
    OFFLINE_MODELS,
    SMOLLM2,
    TINY_MODELS,
    converted_path,
    embedded_path,
)
from lrd_peft.model.loading.hub import HubUnreachable, ask_hub
from lrd_peft.runtime.errors import UserError, nearest

# Hub names without an owner that are still in use.
_HUB_NAMES_WITHOUT_OWNER = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")

_INSTEAD = f"name a local folder, or a model that needs no network: {', '.join(OFFLINE_MODELS)}"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model's files are.

    Attributes:
        location: Folder or hub id.
        description: Text for the record; contains no path that the user did not type.
        on_hub: `location` is a hub id.
        local_files_only: Use the local hub cache, because the hub does not answer.
    """

    location: str
    description: str
    on_hub: bool = False
    local_files_only: bool = False

    def options(self, revision: str | None) -> dict[str, Any]:
        """Return the keyword arguments that `from_pretrained` of transformers needs with the location."""
        if not self.on_hub:
            return {}
        return {"revision": revision or "main", "local_files_only": self.local_files_only}


def find_source(name: str, *, revision: str | None = None) -> Source:
    """Find the files of a model by its name.

    Args:
        name: Name of an offline model, folder in the transformers layout, or hub id.
        revision: Branch, tag or commit of a hub id.

    Returns:
        The place of the files.

    Raises:
        UserError: If there is no such model, or it cannot be reached.
    """
    if name in OFFLINE_MODELS and revision is not None:
        raise UserError(f'revision is "{revision}", but {name} has only one; leave it out')
    if name in TINY_MODELS:
        return Source(str(embedded_path(name)), name)
    if name == SMOLLM2:
        return Source(str(converted_path(name)), name)
    # Unlike pathlib, os.path returns False for names that cannot be paths.
    path = Path(os.path.expanduser(name))
    if name and os.path.isdir(path):
        return Source(str(path), name)
    if os.path.isfile(path):
        if path.suffix == ".gguf":
            raise UserError(f'"{name}" is a GGUF file; {CONVERT_HINT.format(name=name)} and name the new folder')
        raise UserError(f'"{name}" is a file; name the folder that holds the model')
    if is_hub_id(name):
        return _on_hub(name, revision=revision)
    if _is_path(name):
        raise UserError(f'there is no folder "{name}"; check the path')
    known = (*OFFLINE_MODELS, "teacher:13", *_HUB_NAMES_WITHOUT_OWNER)
    raise UserError(
        f'"{name}" is not a known model.{nearest(name, known)} A model is a hub id (owner/name), a folder, '
        f"one of {', '.join(OFFLINE_MODELS)}, or teacher:N (N blocks of the teacher)"
    )


def is_hub_id(name: str) -> bool:
    """Return whether a name that is not a local path has the form of a hub id."""
    return name in _HUB_NAMES_WITHOUT_OWNER or (_HUB_ID.fullmatch(name) is not None and not _is_path(name))


def check_folder(folder: Path, *, name: str, weights: bool = True) -> None:
    """Refuse a folder that is not a model in the transformers layout with safetensors weights.

    Args:
        folder: Folder to check.
        name: Name that the user gave it.
        weights: Require weights and tokenizer, not only the configuration.

    Raises:
        UserError: If a part is missing.
    """
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f'"{name}" holds a PEFT adapter (of {_base_of(folder)}), not a whole model: load it with '
            "StudentModel.from_pretrained if lrd_peft saved it, or name its base"
        )
    if not (folder / "config.json").is_file():
        raise UserError(f'"{name}" has no config.json, so it is not a model folder in the transformers layout')
    if not weights:
        return
    if not any((folder / file).is_file() for file in _WEIGHTS):
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if pickles:
            raise UserError(
                f'"{name}" holds its weights as {pickles[0]}, a pickle, which could run code when opened; '
                "if you trust it, convert it to safetensors with "
                "AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)"
            )
        raise UserError(f'"{name}" has no weights: no {" and no ".join(_WEIGHTS)}')
    if not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        raise UserError(
            f'"{name}" has no tokenizer: it needs one of {", ".join(_TOKENIZER_FILES)}; save the tokenizer there too'
        )


def _is_path(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or name.endswith("/") or "\\" in name or name.count("/") > 1


def _base_of(adapter: Path) -> str:
    try:
        base = json.loads((adapter / "adapter_config.json").read_text()).get("base_model_name_or_path")
    except (OSError, ValueError):
        return "an unknown base"
    return f'"{base}"' if base else "an unknown base"


def _on_hub(name: str, *, revision: str | None) -> Source:
    try:
        found = ask_hub(name, "config.json", revision=revision)
    except HubUnreachable as error:
        raise UserError(f"{error}; {_INSTEAD}") from error
    if found is None:
        raise UserError(
            f'the hub model "{name}" has no config.json, so it is not a whole model; an adapter saved by lrd_peft '
            "loads with StudentModel.from_pretrained"
        )
    where = "hub cache" if found.cached else "hub"
    return Source(name, f"{name} ({where}, revision {found.revision})", on_hub=True, local_files_only=found.cached)
