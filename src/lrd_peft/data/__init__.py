"""Problems from offline sets, benchmarks and files, and their tokens."""

from lrd_peft.data.problem import Problem
from lrd_peft.data.problem_sets import ProblemSet, load_problems

__all__ = ["Problem", "ProblemSet", "load_problems"]
