"""How maps from the student's width to the teacher's begin: fitted by least squares. Knows tensors, no models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

_T = TypeVar("_T")


class LinearFit:
    """The linear map with bias that brings one layer's states nearest to another's, in the sum of squares.

    The sums are kept in float64 on the CPU, so that rows come batch by batch and no more than [H_S + 1, H_S + H_T]
    numbers are held. A ridge of 1e-6 of the mean square keeps directions that never occur at 0.

    Example:
        >>> fit = LinearFit(nn.Linear(72, 80)); fit.add(student, teacher); fit.solve()
    """

    def __init__(self, linear: nn.Linear) -> None:
        self.linear = linear
        size = linear.in_features + 1
        self._gram = torch.zeros(size, size, dtype=torch.float64)
        self._num_rows = 0
        self._cross = torch.zeros(size, linear.out_features, dtype=torch.float64)

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """Take rows: [N, H_S] and [N, H_T]."""
        x, y = inputs.detach().cpu().double(), targets.detach().cpu().double()
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        self._num_rows += len(x)
        self._gram += x.T @ x
        self._cross += x.T @ y

    @torch.no_grad()
    def solve(self) -> None:
        """Put the map into the linear layer; without a row it stays as it is."""
        if self._num_rows == 0:
            return
        ridge = 1e-6 * self._gram.diagonal().mean()
        solution = torch.linalg.solve(self._gram + ridge * torch.eye(len(self._gram), dtype=torch.float64), self._cross)
        self.linear.weight.copy_(solution[:-1].T)
        assert self.linear.bias is not None
        self.linear.bias.copy_(solution[-1])


def num_problems_to_fit(width: int) -> int:
    """Return how many problems to fit to: four for each of the map's inputs, each with several rows; at least 256."""
    return max(256, 4 * width)


def spread(values: Sequence[_T], count: int) -> list[_T]:
    """Return at least so many of the values, evenly spread over them, or all if there are fewer."""
    step = max(1, len(values) // count)
    return list(values[::step])
