"""Latent reasoning distillation with parameter-efficient fine-tuning.

Public names are imported on first use, so `import lrd_peft` alone does not load torch.
"""

from __future__ import annotations

import gc
import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrd_peft.config import RunConfig
    from lrd_peft.data import Problem, load_problems
    from lrd_peft.distillation import LatentDistillationLoss
    from lrd_peft.lora import create_lora_model
    from lrd_peft.model import StudentModel, TeacherModel, ThinkingOptions
    from lrd_peft.model.loop import think
    from lrd_peft.runtime.errors import UserError
    from lrd_peft.store import Store
    from lrd_peft.training.trainer import LRDPEFTTrainer
    from lrd_peft.training.training_arguments import LRDPEFTConfig

__version__ = "0.1.0"

__all__ = [
    "LRDPEFTConfig",
    "LRDPEFTTrainer",
    "LatentDistillationLoss",
    "Problem",
    "RunConfig",
    "Store",
    "StudentModel",
    "TeacherModel",
    "ThinkingOptions",
    "UserError",
    "__version__",
    "create_lora_model",
    "load_problems",
    "think",
]

# Public name -> module that defines it.
_HOMES = {
    "TeacherModel": "lrd_peft.model",
    "StudentModel": "lrd_peft.model",
    "ThinkingOptions": "lrd_peft.model",
    "think": "lrd_peft.model.loop",
    "Problem": "lrd_peft.data",
    "load_problems": "lrd_peft.data",
    "create_lora_model": "lrd_peft.lora",
    "LatentDistillationLoss": "lrd_peft.distillation",
    "LRDPEFTConfig": "lrd_peft.training.training_arguments",
    "LRDPEFTTrainer": "lrd_peft.training.trainer",
    "RunConfig": "lrd_peft.config",
    "Store": "lrd_peft.store",
    "UserError": "lrd_peft.runtime.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    collecting = gc.isenabled()
    gc.disable()  # a fifth of the time that the imports take otherwise
    try:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    finally:
        if collecting:
            gc.enable()
    globals()[name] = value  # later accesses find it directly
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
