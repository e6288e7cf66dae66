"""SPEC.md's import name: `from src.model import TeacherModel, StudentModel` in a checkout, installed or not."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))

from lrd_peft.model import StudentModel, TeacherModel

__all__ = ["StudentModel", "TeacherModel"]
