"""Models: loading, the thinking loop, answering, saving, pruning, and the embedded tiny models."""

from lrd_peft.model.generation import Solution
from lrd_peft.model.options import ThinkingOptions
from lrd_peft.model.student import StudentModel
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.model.thinking_model import ThinkingModel

__all__ = ["Solution", "StudentModel", "TeacherModel", "ThinkingModel", "ThinkingOptions"]
