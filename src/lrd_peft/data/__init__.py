"""Problems: the offline sets, the benchmarks, files; and their tokens. Knows no models."""

from lrd_peft.data.load import ProblemSet, load_problems
from lrd_peft.data.problem import Problem

__all__ = ["Problem", "ProblemSet", "load_problems"]
