"""A thinking model as a folder: plain transformers or PEFT files, extra tensors, and how the model thinks.

model.safetensors + config.json, or adapter_model.safetensors + adapter_config.json
tokenizer files
lrd_extra.safetensors      projection and projectors, if the model has any
lrd_model.json             base model and its fingerprint, options (`SavedModel`)
README.md                  model card
files.json                 checksums of the other files
"""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedTokenizerBase

from lrd_peft.model.loop import unwrap
from lrd_peft.model.options import ThinkingOptions
from lrd_peft.runtime.checksums import damages, folder_damages, read_checksums, write_checksums
from lrd_peft.runtime.errors import UserError, explain_os_error
from lrd_peft.runtime.files import atomic_folder

DESCRIPTION = "lrd_model.json"
CARD = "README.md"
_EXTRA = "lrd_extra.safetensors"
_ADAPTER = "adapter_model.safetensors"
# What rebuilds the same base. Never trust_remote_code: the user who loads a folder decides whether its code may run.
_KEPT_OPTIONS = ("dtype", "revision", "quantization", "keep_blocks", "teacher", "attn_implementation")
# Fragments of the messages of safetensors and torch when the system refuses a write.
_DISK_WORDS = ("I/O error", "PytorchStreamWriter", "inline_container")


class SavedModel(BaseModel):
    """Contents of `lrd_model.json`.

    Attributes:
        base: Name of the base model: what an adapter belongs on, or where full weights started from.
        adapter: Whether the folder holds an adapter rather than full weights.
        load_options: Options that load the same base again (see `load_lm`).
        options: How the model thinks.
        base_weights: Fingerprint of the base under an adapter.
        facts: What the code that saved the model noted with it, such as the method and the layer map.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    base: str
    adapter: bool
    load_options: dict[str, Any]
    options: ThinkingOptions
    base_weights: str | None = None
    facts: dict[str, Any] = {}

    @field_validator("load_options")
    @classmethod
    def _keep_known(cls, options: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in options.items() if name in _KEPT_OPTIONS}


@contextlib.contextmanager
def write_errors(folder: Path, *, remove: bool = True) -> Iterator[None]:
    """Turn a write that the system refuses (disk full, read-only) into a UserError.

    Args:
        folder: Folder that is being written.
        remove: Remove the incomplete folder: a full disk needs the space.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        text = " ".join(str(error).split())
        if isinstance(error, OSError):
            text = explain_os_error(error)
        elif any(words in text for words in _DISK_WORDS):
            text = text.partition("I/O error: ")[2] or "the disk is full or failing"
        else:
            raise
        if remove:
            shutil.rmtree(folder, ignore_errors=True)
        name = str(folder).removesuffix(".tmp")
        raise UserError(
            f"cannot write {name}: {text}. Earlier results are kept: fix the cause and run the same command again"
        ) from error


def write_model_folder(
    folder: Path,
    *,
    lm: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    extra: Mapping[str, torch.Tensor],
    saved: SavedModel,
    card: str,
) -> None:
    """Write a model: its adapter alone if it has one, else all weights. The folder appears complete or not at all.

    Args:
        folder: Folder to create or replace.
        lm: Causal LM, PEFT-wrapped or not.
        tokenizer: Its tokenizer.
        extra: Tensors outside the LM.
        saved: Contents of `lrd_model.json`.
        card: Text of the model card.

    Raises:
        UserError: If the folder cannot be written.
    """
    with atomic_folder(folder) as temporary, write_errors(temporary):
        if isinstance(lm, PeftModel):
            # The embeddings of the base are frozen, and new marker tokens have tensors of their own.
            lm.save_pretrained(str(temporary), save_embedding_layers=False)
            _tidy_adapter_config(temporary / "adapter_config.json", base=saved.base)
        else:
            unwrap(lm).save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        if extra:
            save_file(dict(extra), temporary / _EXTRA)
        (temporary / CARD).write_text(card, encoding="utf-8")
        contents = saved.model_dump(mode="json", exclude_none=True)
        (temporary / DESCRIPTION).write_text(json.dumps(contents, indent=2, sort_keys=True), encoding="utf-8")
        write_checksums(temporary)


def _tidy_adapter_config(path: Path, *, base: str) -> None:
    """Sort the lists of names in PEFT's configuration and correct the name of the base.

    The lists come from sets, in a different order each time. PEFT records the model as it was before pruning, or a
    cache folder: a loader that followed it would silently put the adapter on the wrong model.
    """
    values = json.loads(path.read_text(encoding="utf-8"))
    for name, value in values.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            values[name] = sorted(value)
    folder = Path(base).expanduser()
    values["base_model_name_or_path"] = str(folder.resolve()) if folder.is_dir() else base
    path.write_text(json.dumps(values, indent=2, sort_keys=True), encoding="utf-8")


def rewrite_card(folder: Path, card: str) -> None:
    """Replace the model card of a saved model and its checksum. Does nothing if the same card is listed already.

    The card is unlisted while it changes, so an interruption leaves a folder that still passes its check.
    """
    listed, path = read_checksums(folder) or {}, folder / CARD
    if CARD in listed and not damages(folder, {CARD: listed[CARD]}) and path.read_bytes() == card.encode():
        return
    with write_errors(folder, remove=False):
        names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        write_checksums(folder, [name for name in names if name != CARD])
        path.write_text(card, encoding="utf-8")
        write_checksums(folder, sorted({*names, CARD}))


def read_description(folder: Path) -> SavedModel:
    """Return the description of a saved model.

    Raises:
        UserError: If the folder holds no thinking model, or its description cannot be read.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise UserError(f"{folder} holds no saved thinking model ({DESCRIPTION} is missing)")
    try:
        # pydantic's JSON parser takes tuples and dataclasses from lists and objects, also in strict mode.
        return SavedModel.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        reason = f"{place}: {first['msg']}" if place else first["msg"]
        raise UserError(f"{path} is damaged or from another version ({reason}); create the model again") from error
    except OSError as error:
        raise UserError(f"{path} is damaged ({error}); create the model again") from error


def check_model_folder(folder: Path) -> None:
    """Compare the files of a saved model with their checksums.

    Raises:
        UserError: If a file differs.
    """
    if damages := folder_damages(folder):
        raise UserError(f"the model in {folder.parent} is damaged: {damages[0]}; create it again")


@contextlib.contextmanager
def _damage_explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder} is damaged ({' '.join(str(error).split())}); create the model again") from error


def load_extra(folder: Path) -> dict[str, torch.Tensor]:
    """Load the tensors of a saved model that are outside its LM.

    Raises:
        UserError: If their file is damaged.
    """
    with _damage_explained(folder):
        return load_file(folder / _EXTRA) if (folder / _EXTRA).is_file() else {}


def load_adapter(lm: nn.Module, folder: Path, *, trainable: bool, unfit: str) -> PeftModel:
    """Put a saved adapter on its base.

    Args:
        lm: Freshly loaded base model; changed in place.
        folder: Folder of the adapter.
        trainable: Leave the adapter trainable.
        unfit: Start of the message for an adapter that does not fit.

    Raises:
        UserError: If the adapter does not fit the base, or its files are damaged.
    """
    with _damage_explained(folder):
        with safe_open(folder / _ADAPTER, framework="pt") as file:
            stored = set(file.keys())
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Found missing adapter keys")  # an error, below
                adapted = PeftModel.from_pretrained(unwrap(lm), str(folder), is_trainable=trainable)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{unfit}: {str(error).splitlines()[0]}") from error
    # PEFT silently skips tensors that it finds no module for, such as those of an adapter for more blocks.
    if wrong := stored ^ set(get_peft_model_state_dict(adapted, save_embedding_layers=False)):
        raise UserError(f"{unfit}: only one of the two has {min(wrong)}, and {len(wrong) - 1} more tensors")
    return adapted
