"""SPEC.md's import name: `from src.distillation import LatentDistillationLoss` in a checkout, installed or not."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))

from lrd_peft.distillation import LatentDistillationLoss

__all__ = ["LatentDistillationLoss"]
