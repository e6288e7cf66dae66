"""The module between a hidden state and the input embedding that it becomes."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lrd_peft.config.choices import ThoughtProjectionKind, check_choice


class ThoughtProjection(nn.Sequential):
    """Layers that compute in their own precision and return their input's.

    The weights stay in float32 next to a bfloat16 model.

    Args:
        layers: Layers, in order.
        dropout: Dropout in front of them in training.
    """

    def __init__(self, *layers: nn.Module, dropout: float = 0.0) -> None:
        super().__init__(*layers)
        self.dropout = dropout

    def forward(self, input: Float[Tensor, "*shape hidden"]) -> Float[Tensor, "*shape hidden"]:
        """Map hidden states to input embeddings."""
        own = next(self.parameters()).dtype
        dropped = F.dropout(input.to(own), self.dropout, self.training)
        return super().forward(dropped).to(input.dtype)


class PauseToken(nn.Module):
    """One learned input embedding for every slot (pause tokens; Goyal et al., arXiv 2310.02226).

    The hidden state that would become a thought is not used, so nothing is fed back.

    Args:
        start: Embedding to start from, of shape [hidden].
    """

    def __init__(self, start: Float[Tensor, " hidden"]) -> None:
        super().__init__()
        self.embedding = nn.Parameter(start.detach().float().clone())

    def forward(self, hidden: Float[Tensor, "*shape hidden"]) -> Float[Tensor, "*shape hidden"]:
        """Return the learned embedding in the shape of the hidden states."""
        return self.embedding.to(hidden.dtype).expand(hidden.shape)


def make_projection(kind: str, size: int, *, width: int | None = None, dropout: float = 0.0) -> nn.Module | None:
    """Build the projection of a model.

    Args:
        kind: none, linear or mlp. `linear` starts as the identity, so a model trained without a projection
            behaves as before. `mlp` is a two-layer perceptron with LayerNorm (CODI, arXiv 2502.21074).
        size: Hidden size of the model.
        width: Width of the hidden layer of an mlp; by default that of the model.
        dropout: Dropout in front of the projection in training.

    Returns:
        The module, or None for the identity.

    Raises:
        UserError: If the kind is unknown.
    """
    check_choice("thought_projection", kind, ThoughtProjectionKind)
    if kind == "none":
        return None
    if kind == "linear":
        linear = nn.Linear(size, size)
        nn.init.eye_(linear.weight)
        nn.init.zeros_(linear.bias)
        return ThoughtProjection(linear, dropout=dropout)
    inner = width or size
    layers = (nn.Linear(size, inner), nn.GELU(), nn.Linear(inner, size), nn.LayerNorm(size))
    return ThoughtProjection(*layers, dropout=dropout)
