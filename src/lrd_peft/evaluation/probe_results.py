"""What probes and the logit lens read in hidden states, as in probe.json (see `probing.probe_states`)."""

from __future__ import annotations

from dataclasses import dataclass

from lrd_peft.evaluation.metrics import wilson
from lrd_peft.evaluation.similarity import Matrix
from lrd_peft.runtime.json_files import FileData

QUESTION = "question"
"""Name of the last position before the thoughts, which no thought has reached yet."""


@dataclass(frozen=True, slots=True)
class ProbedTarget(FileData):
    """What was read of one quantity. Matrices are [layer][position], each entry a share of the test problems.

    Attributes:
        name: `step 1`, `step 2`, ..., the result of a reasoning step, or `answer`.
        num_classes: Different values with enough training problems.
        num_train: Problems that the probes were fitted on.
        num_test: Problems that they were measured on.
        num_left_out: Problems without this step, or with a rarer value.
        majority: Share of the test problems with the most frequent value of the training problems, among the choices if
            there are any.
        accuracy: Of the linear probe.
        shuffled: Of probes that were fitted on shuffled labels, on average.
        lens: Share of test problems for which the LM head's first choice begins the value; None where the state could
            not be read.
        best: (layer, position) of the thought with the highest accuracy on problems kept aside for this choice, as
            indices of the matrices; None without thoughts.
        best_question: Index of the layer that is best at the question's last position, chosen in the same way.
        gain_aside: How much more the first reads than the second, on the problems kept aside.
        num_choices: Values that each problem names to choose from; None if it names none.
    """

    name: str
    num_classes: int
    num_train: int
    num_test: int
    num_left_out: int
    majority: float
    accuracy: Matrix
    shuffled: Matrix
    lens: Matrix
    best: tuple[int, int] | None
    best_question: int
    gain_aside: float
    num_choices: int | None = None


@dataclass(frozen=True, slots=True)
class Probed(FileData):
    """The probes of one model and data set.

    Attributes:
        model: Method or name of the model.
        dataset: Name of the data set.
        layers: Layers of the rows.
        positions: Names of the columns: `question`, `thought 1`, ..., `answer`.
        targets: One per quantity.
        skipped: Quantities that too few problems have, each with the reason.
    """

    model: str
    dataset: str
    layers: tuple[int, ...]
    positions: tuple[str, ...]
    targets: tuple[ProbedTarget, ...]
    skipped: tuple[str, ...] = ()

    def verdict(self) -> str:
        """Return where the result that gains the most over the question can be read, and how well.

        The result is chosen on the problems kept aside; the shares are those of the test problems.
        """
        found = [(target.gain_aside, target) for target in self.targets if target.best is not None]
        if not found:
            return f"{self.model} on {self.dataset}: no thought was probed"
        _, target = max(found, key=lambda pair: pair[0])
        assert target.best is not None
        layer, place = target.best
        question = target.accuracy[target.best_question][0]
        low, high = wilson(round((target.accuracy[layer][place] or 0) * target.num_test), target.num_test)
        what = "the answer" if target.name == "answer" else f"the result of {target.name}"
        if target.num_choices is not None:
            what += f", one of {target.num_choices},"
        return (
            f"{self.model} on {self.dataset}: {what} can be read from {self.positions[place]} at layer "
            f"{self.layers[layer]} in {_share(target.accuracy[layer][place])} of {target.num_test} problems "
            f"({low:.0%} to {high:.0%}); with shuffled labels in {_share(target.shuffled[layer][place])}, from the "
            f"question's last position in {_share(question)}, by the most frequent value in {target.majority:.0%}"
        )


@dataclass(frozen=True, slots=True)
class Probes(FileData):
    """Contents of probe.json.

    Attributes:
        source: The models and the problems, in a few words.
        found: One per model and data set.
    """

    source: str
    found: tuple[Probed, ...]


def _share(value: float | None) -> str:
    return "?" if value is None else f"{value:.0%}"
