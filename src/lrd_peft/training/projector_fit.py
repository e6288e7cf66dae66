"""Least-squares initialization of the projectors from the student's width to the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lrd_peft.data.collate import to_device
from lrd_peft.model.student import StudentModel
from lrd_peft.runtime.processes import is_main
from lrd_peft.runtime.progress import Progress
from lrd_peft.training.curriculum import Item, StageCollator
from lrd_peft.training.teacher_states import TeacherStates

_T = TypeVar("_T")


class LinearFit:
    """The linear map with bias that minimizes the squared distance between two sets of states.

    Sums are accumulated batch by batch in float64 on the CPU, so that at most [H_S + 1, H_S + 1 + H_T] numbers are
    held. A ridge of 1e-6 of the mean square keeps the weights of directions that never occur at 0.

    Args:
        linear: Layer that receives the solution.

    Example:
        >>> linear = nn.Linear(2, 1)
        >>> fit = LinearFit(linear)
        >>> fit.add(torch.eye(2), torch.tensor([[1.0], [3.0]]))
        >>> fit.add(torch.zeros(1, 2), torch.tensor([[0.0]]))
        >>> fit.solve()
        >>> [round(weight, 3) for weight in linear.weight[0].tolist()]
        [1.0, 3.0]
    """

    def __init__(self, linear: nn.Linear) -> None:
        self.linear = linear
        size = linear.in_features + 1
        self._gram = torch.zeros(size, size, dtype=torch.float64)
        self._num_rows = 0
        self._cross = torch.zeros(size, linear.out_features, dtype=torch.float64)

    def add(self, inputs: Float[Tensor, "row student_hidden"], targets: Float[Tensor, "row teacher_hidden"]) -> None:
        """Add pairs of rows to the sums."""
        x, y = inputs.detach().cpu().double(), targets.detach().cpu().double()
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        self._num_rows += len(x)
        self._gram += x.T @ x
        self._cross += x.T @ y

    @torch.no_grad()
    def solve(self) -> None:
        """Write the solution into the linear layer; without any row the layer is left as it is."""
        if self._num_rows == 0:
            return
        ridge = 1e-6 * self._gram.diagonal().mean()
        solution = torch.linalg.solve(self._gram + ridge * torch.eye(len(self._gram), dtype=torch.float64), self._cross)
        self.linear.weight.copy_(solution[:-1].T)
        assert self.linear.bias is not None
        self.linear.bias.copy_(solution[-1])


@torch.no_grad()
def fit_projectors(
    student: StudentModel,
    states: TeacherStates,
    items: Sequence[Item],
    collator: StageCollator,
    *,
    batch_size: int,
) -> None:
    """Initialize a student's projectors by least squares on its states before training, with its own thoughts.

    Args:
        student: Student whose projectors are overwritten; those of layers outside the plan are left alone.
        states: Teacher's states.
        items: Training problems; a spread of them is used (see `num_problems_to_fit`).
        collator: Collator of the last stage, where all steps are thoughts.
        batch_size: Problems per batch.
    """
    plan = states.plan
    own = student.projectors
    fits = {layer: LinearFit(cast(nn.Linear, own[str(layer)])) for layer in plan.layer_map if str(layer) in own}
    if not fits:
        return
    chosen = spread(items, num_problems_to_fit(student.hidden_size))
    collator = replace(collator, with_steps=False)
    layers = sorted(set(plan.layer_map.values()))
    was_training = student.training
    student.eval()
    with Progress("fitting projectors", total=len(chosen), unit="problems", quiet=not is_main()) as progress:
        for start in range(0, len(chosen), batch_size):
            batch = collator(chosen[start : start + batch_size])
            inputs = to_device(batch, student.device)
            teacher, _ = states.read(inputs)
            output = student(**inputs, layers=layers, positions=plan.positions, with_loss=False)
            matched, mask = states.match(teacher, inputs, output)
            for layer, fit in fits.items():
                fit.add(output.states[plan.layer_map[layer]][mask], matched[layer][mask])
            progress.update(min(start + batch_size, len(chosen)))
    for fit in fits.values():
        fit.solve()
    student.train(was_training)


def num_problems_to_fit(width: int) -> int:
    """Return how many problems a fit uses: four for each input of the map, at least 256."""
    return max(256, 4 * width)


def spread(values: Sequence[_T], count: int) -> list[_T]:
    """Return at least `count` of the values, evenly spaced, or all if there are fewer."""
    step = max(1, len(values) // count)
    return list(values[::step])
