"""SPEC.md's import name: `from src.trainer import LRDPEFTTrainer` in a checkout, installed or not."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))

from lrd_peft.training.trainer import LRDPEFTTrainer

__all__ = ["LRDPEFTTrainer"]
