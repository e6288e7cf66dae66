"""What parallel refinement of a model's thoughts gave, as in parallel.json (see `parallel_thoughts`)."""

from __future__ import annotations

from dataclasses import dataclass

from lrd_peft.evaluation.metrics import Accuracy
from lrd_peft.runtime.json_files import FileData


@dataclass(frozen=True, slots=True)
class RefinedRow(FileData):
    """The model with thoughts refined in parallel.

    Attributes:
        start: Where the refinement begins: `first`, `mean` or `linear`.
        max_passes: Passes at most after the question's, the last of which carries the answer marker.
        tolerance: Relative change below which a problem is refined no further; None: all passes are made.
        accuracy: Accuracy on the problems.
        mean_passes: Mean of the passes before the answer's first token, the question's included.
        p_value: McNemar's exact test against the sequential thoughts.
        num_changed: Problems whose answer is another than after sequential thoughts.
        distance: Mean squared distance of the thoughts from the sequential ones, divided by the variance of these over
            the problems, in each slot. 0: the same; 1: as far as the mean thought of the slot.
    """

    start: str
    max_passes: int
    tolerance: float | None
    accuracy: Accuracy
    mean_passes: float
    p_value: float
    num_changed: int
    distance: float


@dataclass(frozen=True, slots=True)
class ParallelThoughts(FileData):
    """Parallel refinement of one model's thoughts on one data set.

    Attributes:
        model: Method or name of the model.
        dataset: Name of the data set.
        num_thoughts: Thoughts of the model; one after another they take `num_thoughts` + 1 passes.
        num_fitted: Training problems that the starts were fitted on.
        sequential: Accuracy with sequential thoughts.
        rows: One for each way to refine.
        num_too_long: Problems left out because they exceed the model's context.
    """

    model: str
    dataset: str
    num_thoughts: int
    num_fitted: int
    sequential: Accuracy
    rows: tuple[RefinedRow, ...]
    num_too_long: int = 0

    def verdict(self) -> str:
        """Return the fewest passes that lose no more than a point and nothing the test can see, in one sentence."""
        said = (
            f"{self.model} on {self.dataset}: {self.sequential.accuracy:.1%} right in {self.num_thoughts + 1} passes, "
            "one thought after another"
        )
        enough = [row for row in self.rows if self.sequential.accuracy - row.accuracy.accuracy <= 0.01]
        enough = [row for row in enough if row.p_value >= 0.05 or row.accuracy.accuracy > self.sequential.accuracy]
        fewest = min(enough, key=lambda row: (row.mean_passes, -row.accuracy.accuracy), default=None)
        if fewest is None or fewest.mean_passes > self.num_thoughts + 0.95:
            return f"{said}; fewer passes lose accuracy"
        return (
            f"{said}; {fewest.accuracy.accuracy:.1%} in {fewest.mean_passes:.1f} passes from the {fewest.start} start "
            f"(p = {fewest.p_value:.2g})"
        )


@dataclass(frozen=True, slots=True)
class ParallelFound(FileData):
    """Contents of parallel.json.

    Attributes:
        source: The models and the problems, in a few words.
        found: One per model and data set.
    """

    source: str
    found: tuple[ParallelThoughts, ...]
