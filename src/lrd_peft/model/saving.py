"""A thinking model as a folder: plain transformers or PEFT files, our extra tensors, and how it thinks.

model.safetensors + config.json, or adapter_model.safetensors + adapter_config.json
tokenizer files
lrd_extra.safetensors      projections and projectors, if there are any
lrd_model.json             base model, options, pieces
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from lrd_peft.errors import UserError
from lrd_peft.files import atomic_folder
from lrd_peft.model.thinking import unwrap
from lrd_peft.model.thinking_model import ThinkingModel

DESCRIPTION = "lrd_model.json"
_EXTRA = "lrd_extra.safetensors"


def extra_state(model: ThinkingModel) -> dict[str, torch.Tensor]:
    """Return the tensors that belong to the model but not to its LM: projections, projectors."""
    return {name: value.contiguous() for name, value in model.state_dict().items() if not name.startswith("lm.")}


def save_model(
    model: ThinkingModel, folder: Path, *, card: str = "", description: dict[str, Any] | None = None
) -> None:
    """Write the model; an adapter alone if it has one, else all weights. The folder appears whole or not at all."""
    with atomic_folder(folder) as temporary:
        model.lm.save_pretrained(temporary)  # pyright: ignore[reportCallIssue]
        model.tokenizer.save_pretrained(temporary)
        extra = extra_state(model)
        if extra:
            save_file(extra, temporary / _EXTRA)
        if card:
            (temporary / "README.md").write_text(card, encoding="utf-8")
        contents = {
            "base": model.name,
            "load_options": model.load_options,
            "options": model.options.to_dict(),
            "adapter": model.has_adapters,
            **(description or {}),
        }
        (temporary / DESCRIPTION).write_text(json.dumps(contents, indent=2, sort_keys=True), encoding="utf-8")


def read_description(folder: Path) -> dict[str, Any]:
    """Return what `save_model` noted.

    Raises:
        UserError: if the folder holds no model of ours.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise UserError(f"{folder} holds no saved model ({DESCRIPTION} is missing)")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}); make the model again") from error


def attach_weights(model: ThinkingModel, folder: Path, *, trainable: bool) -> None:
    """Put a saved adapter and the extra tensors onto a freshly loaded base model.

    Raises:
        UserError: if they do not fit the base.
    """
    if (folder / "adapter_config.json").is_file():
        try:
            model.lm = PeftModel.from_pretrained(unwrap(model.lm), str(folder), is_trainable=trainable)
        except RuntimeError as error:
            raise UserError(
                f"the adapter in {folder} does not fit the base model {model.name} "
                f"(width {model.hidden_size}, {model.num_blocks} blocks): {str(error).splitlines()[0]}"
            ) from error
    if (folder / _EXTRA).is_file():
        missing, unexpected = model.load_state_dict(load_file(folder / _EXTRA), strict=False)
        wrong = [name for name in missing if not name.startswith("lm.")] + list(unexpected)
        if wrong:
            raise UserError(f"{folder / _EXTRA} does not fit this model: {', '.join(wrong)}")
