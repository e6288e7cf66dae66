"""Memory of a training on one GPU, alone or as one of several that share weights, gradients and optimizer (FSDP)."""

from __future__ import annotations

from dataclasses import dataclass

# AdamW keeps two moments of each trained parameter in float32.
_OPTIMIZER_BYTES = 8


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Bytes on one GPU in training.

    Attributes:
        weights: Frozen and trained weights.
        gradients: Gradients of the trained weights.
        optimizer: AdamW's moments.
        activations: What the largest batch keeps for its backward pass.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.weights + self.gradients + self.optimizer + self.activations

    @classmethod
    def of(
        cls, *, num_frozen: int, num_trained: int, half: bool, activations: float, num_gpus: int = 1
    ) -> TrainingMemory:
        """Add up the memory of a training.

        Trained weights are float32, with a copy for half-precision products. With several GPUs each holds its share of
        everything, all weights in the precision of the computation (gathered once per update), and all gradients as
        they are computed: every pass uses a weight, so its gradient is complete only at the end of the backward pass.

        Args:
            num_frozen: Parameters that are not trained.
            num_trained: Parameters that are trained.
            half: Whether the computation is in bfloat16 or float16; frozen weights are held in it.
            activations: Activations of the largest batch, in bytes.
            num_gpus: Number of GPUs that share weights, gradients and optimizer.
        """
        item = 2 if half else 4
        if num_gpus > 1:
            held = num_frozen * item + num_trained * 4
            return cls(
                weights=held / num_gpus + item * (num_frozen + num_trained),
                gradients=4 * num_trained / num_gpus + item * num_trained,
                optimizer=_OPTIMIZER_BYTES * num_trained / num_gpus,
                activations=activations,
            )
        return cls(
            weights=num_frozen * item + num_trained * (6 if half else 4),
            gradients=4 * num_trained,
            optimizer=_OPTIMIZER_BYTES * num_trained,
            activations=activations,
        )
