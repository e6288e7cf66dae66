"""What an ablation found, as in ablation.json (see `ablation.ablate`)."""

from __future__ import annotations

from dataclasses import dataclass

from lrd_peft.evaluation.metrics import Accuracy
from lrd_peft.runtime.json_files import FileData


@dataclass(frozen=True, slots=True)
class Ablated(FileData):
    """The model with one intervention.

    Attributes:
        name: Name of the intervention.
        title: What was done, in a few words.
        num_thoughts: Thoughts that the model had.
        accuracy: Its accuracy on the problems for which the intervention exists.
        untouched: Accuracy of the untouched model on the same problems.
        p_value: McNemar's exact test between the two.
        num_changed: Problems whose answer is another text than the untouched model's.
        divergence: Mean KL in nats at the first answer token.
        num_left_out: Problems for which the intervention does not exist (no other problem has the same answer).
        num_compared: Problems whose donor's answer differs from their own (both as the untouched model gives them).
        num_of_donor: Those of them whose answer is now the donor's.
    """

    name: str
    title: str
    num_thoughts: int
    accuracy: Accuracy
    untouched: Accuracy
    p_value: float
    num_changed: int
    divergence: float
    num_left_out: int = 0
    num_compared: int = 0
    num_of_donor: int = 0

    @property
    def cost(self) -> float:
        """Percentage points of accuracy that the intervention costs."""
        return 100 * (self.untouched.accuracy - self.accuracy.accuracy)


@dataclass(frozen=True, slots=True)
class Ablation(FileData):
    """The interventions on one model and data set.

    Attributes:
        model: Method or name of the model.
        dataset: Name of the data set.
        num_thoughts: Thoughts that the model was trained with.
        untouched: Accuracy of the untouched model.
        rows: One per intervention.
        num_too_long: Problems left out everywhere: with thoughts and answer they exceed the model's context.
        impossible: Titles of the interventions that exist for no problem at all.
    """

    model: str
    dataset: str
    num_thoughts: int
    untouched: Accuracy
    rows: tuple[Ablated, ...]
    num_too_long: int = 0
    impossible: tuple[str, ...] = ()

    def row(self, name: str) -> Ablated | None:
        """Return the row of an intervention, or None if it was not made."""
        return next((row for row in self.rows if row.name == name), None)

    def verdict(self) -> str:
        """Return what the rows say, in one sentence. A difference counts if its p-value is below 0.05."""
        without = self.row("none")
        assert without is not None
        said = [
            f"{self.model} on {self.dataset}: {self.untouched.accuracy:.1%} right with its thoughts, "
            f"{without.accuracy.accuracy:.1%} without"
        ]
        single = [row for row in self.rows if row.name.startswith("without-") and row.p_value < 0.05 < row.cost]
        if single:
            worst = max(single, key=lambda row: row.cost)
            said.append(f"removing thought {worst.name.rpartition('-')[2]} alone costs {worst.cost:.0f} points")
        elif self.num_thoughts > 1:
            said.append("removing any single thought costs nothing that the test can see")
        other = self.row("other-answer")
        if other is not None and other.num_compared:
            share = other.num_of_donor / other.num_compared
            effect = "cost" if other.cost >= 0 else "gain"
            said.append(
                f"another problem's thoughts {effect} {abs(other.cost):.0f} points and give that problem's answer in "
                f"{share:.0%} of cases"
            )
        first = self.row("repeat-first")
        if first is not None and first.p_value >= 0.05:
            said.append(f"its first thought in every slot is not significantly different (p = {first.p_value:.2g})")
        filler = self.row("filler")
        if filler is not None and filler.p_value >= 0.05:
            said.append(f"a filler token is not significantly different from the thoughts (p = {filler.p_value:.2g})")
        return "; ".join(said)


@dataclass(frozen=True, slots=True)
class Ablations(FileData):
    """Contents of ablation.json.

    Attributes:
        source: The models and the problems, in a few words.
        found: One per model and data set.
    """

    source: str
    found: tuple[Ablation, ...]
