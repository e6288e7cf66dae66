"""SPEC.md's import name: `from src.utils import load_problems` in a checkout, installed or not."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))

from lrd_peft.data import Problem, load_problems

__all__ = ["Problem", "load_problems"]
