"""How far thoughts are from those that a model computes one after another."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def relative_distance(
    found: Float[Tensor, "problem thought hidden"], sequential: Float[Tensor, "problem thought hidden"]
) -> float:
    """Return the mean squared distance from sequential thoughts, divided by their variance over the problems.

    Averaged over the thoughts after the first, which needs no other one. 0: the same; 1: as far as each slot's mean.

    Args:
        found: Thoughts of at least two problems.
        sequential: The sequential thoughts of the same problems.
    """
    if found.shape[1] < 2:
        return 0.0
    found, sequential = found[:, 1:].float(), sequential[:, 1:].float()
    variance = (sequential - sequential.mean(dim=0)).square().mean(dim=(0, 2)).clamp(min=1e-12)
    return float(((found - sequential).square().mean(dim=(0, 2)) / variance).mean())
