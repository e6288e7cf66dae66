"""Running sums of the loss and its parts between two lines of the training log."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lrd_peft.distillation import LossTerms


class LossLog:
    """Adds up the loss and its parts on the device; nothing is read from the device before the next log line."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.first_update = 0

    def add(self, terms: LossTerms, *, update: int) -> None:
        """Add the terms of one batch.

        Args:
            terms: The batch's part of the loss.
            update: Number of finished optimizer updates.
        """
        if not self.sums:
            self.first_update = update
        for name, value in {"loss": terms.total, **terms.parts}.items():
            value = value.detach()
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def means(self, *, update: int) -> dict[str, float]:
        """Return the mean of each part per update since the last log line."""
        num_updates = max(1, update - self.first_update)
        return {name: (value / num_updates).item() for name, value in self.sums.items() if name != "loss"}

    def total(self) -> Tensor:
        """Return the sum of all sums, which is finite if and only if each of them is."""
        return torch.stack([value.float() for value in self.sums.values()]).sum()

    def state(self) -> dict[str, tuple[float, str]]:
        """Return the sums of this process exactly, without tensors: name -> (value, dtype)."""
        return {name: (value.item(), str(value.dtype).split(".")[1]) for name, value in self.sums.items()}

    def load_state(self, sums: Mapping[str, tuple[float, str]], *, first_update: int, device: torch.device) -> None:
        """Restore what `state` returned."""
        self.sums = {
            name: torch.tensor(value, dtype=getattr(torch, dtype), device=device)
            for name, (value, dtype) in sums.items()
        }
        self.first_update = first_update
