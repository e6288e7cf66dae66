"""Latent reasoning distillation with parameter-efficient fine-tuning.

Five public names, each loaded when it is first asked for: `import lrd_peft` alone loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrd_peft.distillation import LatentDistillationLoss
    from lrd_peft.lora import create_lora_model
    from lrd_peft.model import StudentModel, TeacherModel
    from lrd_peft.trainer import LRDPEFTTrainer

__version__ = "0.1.0"

__all__ = [
    "LRDPEFTTrainer",
    "LatentDistillationLoss",
    "StudentModel",
    "TeacherModel",
    "__version__",
    "create_lora_model",
]

# Public name -> the room that defines it.
_HOMES = {
    "TeacherModel": "lrd_peft.model",
    "StudentModel": "lrd_peft.model",
    "create_lora_model": "lrd_peft.lora",
    "LatentDistillationLoss": "lrd_peft.distillation",
    "LRDPEFTTrainer": "lrd_peft.trainer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value  # the next access needs no lookup
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
