"""From a model's name to where its files are. Knows names, folders and whether the hub answers, not models.

A name is one of the offline models, a folder in the transformers layout, a .gguf file, or a hub id.
Everything that can be refused before weights are read is refused here, with what to do instead.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrd_peft.errors import UserError, nearest
from lrd_peft.model.embedded import OFFLINE_MODELS, SMOLLM2, TINY_MODELS, embedded_path, packaged_gguf

# The hub's old names without an owner that are still in use.
_HUB_NAMES_WITHOUT_OWNER = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_HUB_TIMEOUT_SECONDS = 5.0

_INSTEAD = f"name a local folder, or a model that needs no network: {', '.join(OFFLINE_MODELS)}"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model's files are.

    Attributes:
        location: a folder, or a hub id.
        description: what to tell a reader of the record; no path that the user did not type.
        gguf: the GGUF file to convert first; `location` is then its folder.
        on_hub: `location` is a hub id.
        local_files_only: take hub files from the local hub cache, because the hub does not answer.
    """

    location: str
    description: str
    gguf: Path | None = None
    on_hub: bool = False
    local_files_only: bool = False

    def options(self, revision: str | None) -> dict[str, Any]:
        """Return what `from_pretrained` has to be told beside the location."""
        if not self.on_hub:
            return {}
        return {"revision": revision or "main", "local_files_only": self.local_files_only}


def find_source(name: str, *, revision: str | None = None) -> Source:
    """Find the files of a model by its name; what shows to be wrong without weights is an error."""
    if name in TINY_MODELS:
        return Source(str(embedded_path(name)), name)
    if name == SMOLLM2:
        gguf = packaged_gguf()
        return Source(str(gguf.parent), f"{name} ({gguf.name})", gguf=gguf)
    # os.path, unlike pathlib, answers False for names that are no path at all.
    path = Path(os.path.expanduser(name))
    if name and os.path.isdir(path):
        return Source(str(path), name)
    if os.path.isfile(path):
        if path.suffix != ".gguf":
            raise UserError(f'"{name}" is a file; name the folder that holds the model, or a .gguf file')
        return Source(str(path.parent), name, gguf=path)
    if name in _HUB_NAMES_WITHOUT_OWNER or (_HUB_ID.fullmatch(name) and not _is_path(name)):
        return _on_hub(name, revision=revision)
    if _is_path(name):
        raise UserError(f'there is no folder or .gguf file "{name}"; check the path')
    known = (*OFFLINE_MODELS, "teacher:13", *_HUB_NAMES_WITHOUT_OWNER)
    raise UserError(
        f'"{name}" is no known model.{nearest(name, known)} A model is a hub id (owner/name), a folder, '
        f"one of {', '.join(OFFLINE_MODELS)}, or teacher:N (N blocks of the teacher)"
    )


def check_folder(folder: Path, *, name: str, weights: bool = True) -> None:
    """Refuse a folder that is no model in the transformers layout with safetensors weights.

    Args:
        folder: the folder.
        name: what the user called it.
        weights: weights and tokenizer are needed too, not only the configuration.
    """
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f'"{name}" holds a PEFT adapter (of {_base_of(folder)}), not a whole model: name that model, and '
            "put the adapter on it with PeftModel.from_pretrained, or read the run with StudentModel.from_run"
        )
    if not (folder / "config.json").is_file():
        raise UserError(f'"{name}" has no config.json, so it is no model folder in the transformers layout')
    if not weights:
        return
    if not any((folder / file).is_file() for file in _WEIGHTS):
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if pickles:
            raise UserError(
                f'"{name}" holds its weights as {pickles[0]}, a pickle, which could run code when opened; '
                "where you trust it, convert it to safetensors with "
                "AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)"
            )
        raise UserError(f'"{name}" has no weights: no {" and no ".join(_WEIGHTS)}')
    if not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        raise UserError(f'"{name}" has no tokenizer, none of {", ".join(_TOKENIZER_FILES)}; save one beside the model')


def _is_path(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or name.endswith("/") or "\\" in name or name.count("/") > 1


def _base_of(adapter: Path) -> str:
    try:
        base = json.loads((adapter / "adapter_config.json").read_text()).get("base_model_name_or_path")
    except (OSError, ValueError):
        return "an unknown base"
    return f'"{base}"' if base else "an unknown base"


def _on_hub(name: str, *, revision: str | None) -> Source:
    """Ask the hub once, briefly: without a network the cache is used or an error comes in seconds."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # The HTTP library under huggingface_hub changes; all of its errors, no answer included, have this base.
    no_answer: type[Exception] = HfHubHTTPError.__bases__[0]
    revision = revision or "main"
    cached, reason = False, "HF_HUB_OFFLINE is set"
    try:
        # A str is a path; for a file known to be absent another object comes back.
        cached = isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str)
        if not HF_HUB_OFFLINE:
            url = hf_hub_url(name, "config.json", revision=revision)
            commit = get_hf_file_metadata(url, timeout=_HUB_TIMEOUT_SECONDS).commit_hash
            return Source(name, f"{name} (hub, revision {commit or revision})", on_hub=True)
    except GatedRepoError as error:
        raise UserError(
            f'the hub model "{name}" is gated: ask for access on its page and log in with "hf auth login", '
            f"or {_INSTEAD}"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f'the hub model "{name}" has no revision "{revision}"') from error
    except RepositoryNotFoundError as error:
        raise UserError(f'"{name}" is neither a folder here nor a hub model that you may read') from error
    except EntryNotFoundError as error:
        raise UserError(f'the hub model "{name}" has no config.json: it is no whole model (an adapter?)') from error
    except HFValidationError as error:
        raise UserError(f'"{name}" is neither a folder here nor a valid hub id') from error
    except (no_answer, OSError) as error:
        text = str(error) or type(error).__name__
        reason = f"the hub does not answer ({text.splitlines()[0]})"
    if cached:
        return Source(name, f"{name} (hub cache, revision {revision})", on_hub=True, local_files_only=True)
    raise UserError(f'the model "{name}" is not on this machine and {reason}; {_INSTEAD}')
