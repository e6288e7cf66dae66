"""Choose settings of a study's cells on validation problems: one trial for each value, the best one counts.

The trials of a study are a study of their own, NAME-tuning, which is evaluated on the validation split. They share
teachers and stores with the cells, resume as they do, and leave records.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from lrd_peft.evaluation.records import Record, read_record
from lrd_peft.evaluation.study_description import Trial, TunedCell
from lrd_peft.runtime.errors import UserError
from lrd_peft.studies.grid import Cell, Study
from lrd_peft.studies.tasks import StudyFolder

SUFFIX = "-tuning"


@dataclass(frozen=True, slots=True)
class Trials:
    """The trials of some cells of a study.

    Attributes:
        base: The study that they are, without its cells.
        points: Label of a cell -> its trials, each with the values that it tries.
    """

    base: Study
    points: dict[str, list[tuple[dict[str, Any], Cell]]]

    @property
    def cells(self) -> list[Cell]:
        """All trials, those of one cell after those of the other."""
        return [cell for trials in self.points.values() for _, cell in trials]

    @property
    def study(self) -> Study:
        """The study that they are."""
        return replace(self.base, also=tuple(cell.values for cell in self.cells))

    def without(self, known: Sequence[TunedCell]) -> Trials:
        """Return the trials of the cells for which no choice among the same configurations is known."""
        choices = {cell.cell: [trial.fingerprint for trial in cell.trials] for cell in known}
        left = {
            label: trials
            for label, trials in self.points.items()
            if choices.get(label) != [cell.config.fingerprint() for _, cell in trials]
        }
        return Trials(self.base, left)

    def choose(self) -> list[TunedCell]:
        """Return the best values of each cell, by the mean accuracy over the data sets; the first of equal ones.

        Raises:
            UserError: If a trial has no record yet, or a damaged one.
        """
        records = StudyFolder(self.base.root, self.base.name).records
        tuned = []
        for label, trials in self.points.items():
            tried = [
                Trial(values, _accuracy(read_record(records / f"{cell.name}.json")), cell.config.fingerprint())
                for values, cell in trials
            ]
            best = max(tried, key=lambda trial: trial.accuracy)
            tuned.append(TunedCell(label, best.values, tuple(tried)))
        return tuned


def trials_of(plan: Study, cells: Sequence[Cell]) -> Trials:
    """Return the trials that cells need.

    A cell that sets a tuned field itself keeps its value, and a field without effect on a cell, such as the learning
    rate of a student on an untrained model, has no trials.

    Args:
        plan: The study.
        cells: The cells that will run.

    Raises:
        UserError: If a trial is not a valid configuration, there are no validation problems, or `tune` sets how trials
            are graded.
    """
    if plan.tune is None:
        return Trials(plan, {})
    if not plan.base.data.num_validation_problems:
        raise UserError(
            f'study "{plan.name}" chooses {", ".join(plan.tune.axes)} on validation problems, but '
            "num_validation_problems is 0"
        )
    graded = {
        "eval_split": "validation",
        "num_eval_problems": plan.base.data.num_validation_problems,
        "ablate_problems": 0,
        "probe_problems": 0,
    }
    for field in (*plan.tune.base, *plan.tune.axes):
        if field in graded:
            raise UserError(
                f'study "{plan.name}": tune sets {field}, but its trials are graded on all validation problems and '
                "nothing else; leave it out"
            )
    study = replace(
        plan,
        name=plan.name + SUFFIX,
        title=f"{plan.title}: values tried on validation problems",
        base=plan.base.changed(**plan.tune.base, **graded),
        axes={},
        also=(),
        seeds=(plan.tune.seed,),
        tune=None,
        tuned=(),
    )
    points: dict[str, list[tuple[dict[str, Any], Cell]]] = {}
    for label, values in {cell.label: cell.values for cell in cells}.items():
        values = {field: value for field, value in values.items() if field not in graded}
        axes = {field: tried for field, tried in plan.tune.axes.items() if field not in values}
        grid = [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]
        trials = [(point, study.cell({**values, **point}, plan.tune.seed)) for point in grid]
        if len({cell.config.fingerprint() for _, cell in trials}) > 1:
            points[label] = trials
    return Trials(study, points)


def choice_line(tuned: TunedCell) -> str:
    """Return what was chosen for a cell and what else was tried, in one line."""
    trials = ", ".join(f"{_values(trial.values)} {trial.accuracy:.1%}" for trial in tuned.trials)
    return f"{tuned.cell}: chose {_values(tuned.values)} on validation problems ({trials})"


def _values(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {f'{value:g}' if isinstance(value, float) else value}" for name, value in values.items())


def _accuracy(record: Record) -> float:
    """Return the mean accuracy of a record's method over its data sets."""
    shares = record.own_accuracies()
    if len(shares) != len(record.datasets):
        raise UserError(f"the record of {record.method} does not grade it on all of {', '.join(record.datasets)}")
    return mean(shares.values())
