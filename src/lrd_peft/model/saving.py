"""A thinking model as a folder: plain transformers or PEFT files, our extra tensors, and how it thinks.

model.safetensors + config.json, or adapter_model.safetensors + adapter_config.json
tokenizer files
lrd_extra.safetensors      projections and projectors, if there are any
lrd_model.json             base model and its fingerprint, options, pieces
files.json                 checksums of the others
"""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from lrd_peft.checksums import write_checksums
from lrd_peft.errors import UserError
from lrd_peft.files import atomic_folder
from lrd_peft.model.thinking import unwrap
from lrd_peft.model.thinking_model import ThinkingModel

DESCRIPTION = "lrd_model.json"
_EXTRA = "lrd_extra.safetensors"
_ADAPTER = "adapter_model.safetensors"
# What makes the same base again. Never trust_remote_code: whoever loads a folder says whether code may run.
_KEPT_OPTIONS = ("dtype", "revision", "quantization", "keep_blocks", "teacher", "attn_implementation")
# How safetensors and torch say that the system did not take a file.
_DISK_WORDS = ("I/O error", "PytorchStreamWriter", "inline_container")


def extra_state(model: ThinkingModel) -> dict[str, torch.Tensor]:
    """Return the tensors that belong to the model but not to its LM: projections, projectors."""
    return {name: value.contiguous() for name, value in model.state_dict().items() if not name.startswith("lm.")}


def projector_shapes(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the weight shape [out, in] of each saved projector by its layer, and of the "thought_adapter"."""
    path = folder / _EXTRA
    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {
                name.removeprefix("projectors.").removesuffix(".weight"): file.get_slice(name).get_shape()
                for name in file.keys()  # noqa: SIM118 - the file is no mapping
                if name.endswith(".weight") and not name.startswith("projection.")
            }
        return {name: (int(rows), int(columns)) for name, (rows, columns) in shapes.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())}); make the model again") from error


@contextlib.contextmanager
def write_errors(folder: Path, *, remove: bool = True) -> Iterator[None]:
    """Turn a write that the system refuses (disk full, read-only, ...) into one line.

    Args:
        remove: the half-written folder.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        text = " ".join(str(error).split())
        if isinstance(error, OSError):
            text = error.strerror or text
        elif any(words in text for words in _DISK_WORDS):
            text = text.partition("I/O error: ")[2] or "the disk is full or fails"
        else:
            raise
        if remove:
            shutil.rmtree(folder, ignore_errors=True)  # a full disk needs the room
        name = str(folder).removesuffix(".tmp")
        raise UserError(
            f"cannot write {name}: {text}. What was finished before is kept: put that right and give the same command "
            "again"
        ) from error


def save_model(
    model: ThinkingModel, folder: Path, *, card: str = "", description: dict[str, Any] | None = None
) -> None:
    """Write the model; an adapter alone if it has one, else all weights. The folder appears whole or not at all."""
    with atomic_folder(folder) as temporary, write_errors(temporary):
        if isinstance(model.lm, PeftModel):
            # The base's embeddings are frozen, and new marker tokens have tensors of their own.
            model.lm.save_pretrained(str(temporary), save_embedding_layers=False)
            _tidy_adapter_config(temporary / "adapter_config.json", base=model.name)
        else:
            unwrap(model.lm).save_pretrained(temporary)
        model.tokenizer.save_pretrained(temporary)
        extra = extra_state(model)
        if extra:
            save_file(extra, temporary / _EXTRA)
        if card:
            (temporary / "README.md").write_text(card, encoding="utf-8")
        options = model.base_options if model.has_adapters else model.load_options
        contents = {
            "base": model.base if model.has_adapters else model.name,
            # Not the device: a model is loaded on machines that have another.
            "load_options": {name: value for name, value in options.items() if name in _KEPT_OPTIONS},
            "options": model.options.to_dict(),
            "adapter": model.has_adapters,
            **({"base_weights": model.base_weights} if model.has_adapters else {}),
            **(description or {}),
        }
        (temporary / DESCRIPTION).write_text(json.dumps(contents, indent=2, sort_keys=True), encoding="utf-8")
        write_checksums(temporary)


def _tidy_adapter_config(path: Path, *, base: str) -> None:
    """Rewrite PEFT's configuration: lists of names sorted, the base by our name.

    The lists come from sets, in another order each time. The name that PEFT took is that of the model before pruning,
    or a cache folder: a loader that followed it would put the adapter on the wrong model without a word.
    """
    values = json.loads(path.read_text(encoding="utf-8"))
    for name, value in values.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            values[name] = sorted(value)
    values["base_model_name_or_path"] = base
    path.write_text(json.dumps(values, indent=2, sort_keys=True), encoding="utf-8")


def read_description(folder: Path) -> dict[str, Any]:
    """Return what `save_model` noted.

    Raises:
        UserError: if the folder holds no model of ours.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise UserError(f"{folder} holds no saved model ({DESCRIPTION} is missing)")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values["base"], str) or not isinstance(values["adapter"], bool):
            raise ValueError("base or adapter is of another type")
        options = {name: value for name, value in values["load_options"].items() if name in _KEPT_OPTIONS}
        return {**values, "load_options": options, "options": dict(values["options"])}
    except KeyError as error:
        raise UserError(f"{path} is damaged (it lacks {error}); make the model again") from error
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); make the model again") from error


def attach_weights(model: ThinkingModel, folder: Path, *, trainable: bool) -> None:
    """Put a saved adapter and the extra tensors onto a freshly loaded base model.

    Raises:
        UserError: if they do not fit the base, were trained on another one, or their files are damaged.
    """
    try:
        if (folder / "adapter_config.json").is_file():
            _attach_adapter(model, folder, trainable=trainable)
        if (folder / _EXTRA).is_file():
            _load_extra(model, folder / _EXTRA)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder} is damaged ({' '.join(str(error).split())}); make the model again") from error


def _attach_adapter(model: ThinkingModel, folder: Path, *, trainable: bool) -> None:
    description = read_description(folder)
    saved_options, options = description.get("load_options", {}), model.base_options
    same_kind = all(saved_options.get(name) == options.get(name) for name in ("dtype", "quantization"))
    trained_on, given = description.get("base_weights"), model.base_weights
    if same_kind and trained_on not in (None, given):  # weights in another dtype have another fingerprint
        raise UserError(
            f"the adapter in {folder} was trained on {description['base']!r} with weights {trained_on}; "
            f"{model.base!r} has weights {given} now: an adapter works on its own base only"
        )
    unfit = (
        f"the adapter in {folder} does not fit the base model {model.name} "
        f"(width {model.hidden_size}, {model.num_blocks} blocks)"
    )
    with safe_open(folder / _ADAPTER, framework="pt") as file:
        saved = set(file.keys())
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Found missing adapter keys")  # an error, below
            lm = PeftModel.from_pretrained(unwrap(model.lm), str(folder), is_trainable=trainable)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{unfit}: {str(error).splitlines()[0]}") from error
    # PEFT leaves out in silence what it finds no place for: an adapter for more blocks than there are.
    if wrong := saved ^ set(get_peft_model_state_dict(lm, save_embedding_layers=False)):
        raise UserError(f"{unfit}: only one of the two has {min(wrong)}, and {len(wrong) - 1} tensors more")
    model.lm = lm


def _load_extra(model: ThinkingModel, path: Path) -> None:
    saved, own = load_file(path), extra_state(model)
    if wrong := sorted(saved.keys() ^ own.keys()):
        raise UserError(f"{path} does not fit this model: only one of the two has {', '.join(wrong)}")
    for name, value in saved.items():
        if value.shape != own[name].shape:
            raise UserError(
                f"{path} does not fit the model {model.name} of width {model.hidden_size}: {name} is "
                f"{list(value.shape)} there and {list(own[name].shape)} here"
            )
    model.load_state_dict(saved, strict=False)
