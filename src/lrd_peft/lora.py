"""LoRA adapters on a student (or a teacher). Knows PEFT; not losses, data or disks.

W_after = W + (lora_alpha / r) B A,    A [r, in], B [out, r], B = 0 at the start    (LoRA, arXiv 2106.09685, eq. 3)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from lrd_peft.errors import UserError, nearest
from lrd_peft.model.thinking import unwrap
from lrd_peft.model.thinking_model import ThinkingModel

Model = TypeVar("Model", bound=ThinkingModel)


def lora_config(
    lm: nn.Module,
    *,
    r: int = 16,
    lora_alpha: float = 32,
    lora_dropout: float = 0.0,
    target_modules: str | Sequence[str] = "all-linear",
    new_token_ids: Sequence[int] = (),
) -> LoraConfig:
    """Return PEFT's configuration for the architecture of a causal LM that has no adapters.

    Raises:
        UserError: if the rank is below 1, or a target module does not exist in the model.
    """
    if r < 1:
        raise UserError(f"lora_r is {r}; the rank must be at least 1")
    check_targets(lm, target_modules)
    conv1d = any(isinstance(module, Conv1D) for module in lm.modules())
    return LoraConfig(
        r=r,
        lora_alpha=lora_alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=lora_dropout,
        target_modules=target_modules if isinstance(target_modules, str) else list(target_modules),
        fan_in_fan_out=conv1d,
        task_type="CAUSAL_LM",
        # New marker tokens would otherwise stay at their random embeddings.
        trainable_token_indices=list(new_token_ids) or None,
    )


def check_targets(lm: nn.Module, target_modules: str | Sequence[str]) -> None:
    """Raise a UserError if a target module does not exist in the model."""
    if target_modules == "all-linear":
        return
    names = {name.rsplit(".", 1)[-1] for name, module in lm.named_modules() if hasattr(module, "weight")}
    missing = [name for name in target_modules if name.rsplit(".", 1)[-1] not in names]
    if isinstance(target_modules, str) or missing:
        asked = target_modules if isinstance(target_modules, str) else ", ".join(missing)
        raise UserError(
            f"lora_targets has {asked}, which this model lacks.{nearest(asked, names)} Its modules are "
            f'{", ".join(sorted(names))}; "all-linear" is every linear layer but the head'
        )


def create_lora_model(
    student: Model,
    r: int = 16,
    lora_alpha: float = 32,
    *,
    lora_dropout: float = 0.0,
    target_modules: str | Sequence[str] = "all-linear",
) -> Model:
    """Freeze the student's weights and add trainable LoRA adapters to it.

    The student itself is changed and returned; its projectors, if it has any, stay trainable.

    Raises:
        UserError: if it has adapters already, or the arguments do not fit the model.
    """
    if isinstance(student.lm, PeftModel):
        raise UserError("this model has LoRA adapters already; create_lora_model takes a model without")
    lm = unwrap(student.lm)
    config = lora_config(
        lm,
        r=r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        target_modules=target_modules,
        new_token_ids=student.new_token_ids,
    )
    student.lm = get_peft_model(lm, config)
    return student
