"""SPEC.md's import name: `from src.lora import create_lora_model` in a checkout, installed or not."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))

from lrd_peft.lora import create_lora_model

__all__ = ["create_lora_model"]
