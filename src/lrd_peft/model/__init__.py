"""Models: loading, pruning, the thinking loop, decoding, the embedded tiny models. Knows no phases or methods."""

from lrd_peft.model.models import Solution, StudentModel, TeacherModel
from lrd_peft.model.thinking_model import ThinkingModel, ThinkingOptions

__all__ = ["Solution", "StudentModel", "TeacherModel", "ThinkingModel", "ThinkingOptions"]
