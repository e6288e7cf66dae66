"""Faster equivalents of GPT-2's activation and of the cross-entropy at the LM head.

The logits dominate the memory of a small model: a few hundred positions take a hundred megabytes, and a plain
cross-entropy writes them, their log-softmax and two gradients. Here they are computed and consumed in blocks.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.activations import NewGELUActivation

from lrd_peft.model.loop import has_plain_head, head_logits, unwrap

BLOCK_BYTES = 16 << 20  # logits of one block: small enough for a large cache, large enough for an efficient product


def fuse_activations(lm: nn.Module) -> None:
    """Replace GPT-2's GELU, in place, by torch's single-pass version of the same formula.

    Args:
        lm: Causal LM to change.
    """
    for module in lm.modules():
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


def summed_cross_entropy(
    lm: nn.Module, hidden: Float[Tensor, "position hidden"], targets: Int[Tensor, " position"]
) -> Float[Tensor, ""]:
    """Compute the summed cross-entropy of the LM head at chosen positions.

    Heads with a bias, scaled or capped logits or adapters, half precision, and autocast use the plain formula. The
    result is the same.

    Args:
        lm: Causal LM, PEFT-wrapped or not.
        hidden: Last hidden states, post-norm.
        targets: Token that each position predicts.

    Returns:
        The sum over the positions, at least float32.
    """
    autocast = not hidden.is_meta and torch.is_autocast_enabled(hidden.device.type)
    exact = hidden.dtype in (torch.float32, torch.float64) and not autocast
    if not (exact and has_plain_head(lm)):
        return F.cross_entropy(head_logits(lm, hidden), targets, reduction="sum")
    weight = cast(nn.Linear, unwrap(lm).get_output_embeddings()).weight
    if weight.dtype != hidden.dtype or weight.device != hidden.device:
        return F.cross_entropy(head_logits(lm, hidden), targets, reduction="sum")
    loss = _BlockwiseCrossEntropy.apply(hidden, weight, targets)
    assert isinstance(loss, Tensor)
    return loss


class _BlockwiseCrossEntropy(torch.autograd.Function):
    """Computes loss and gradients in the forward pass, block by block. With p = softmax(h Wᵀ) and targets y:

    loss = Σ (log Σ exp(h Wᵀ) - (h Wᵀ)_y),    dh = (p - 1_y) W,    dW = Σ (p - 1_y)ᵀ h
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        size = max(16, BLOCK_BYTES // (weight.shape[0] * weight.element_size()))
        scratch = hidden.new_empty(min(size, len(hidden)), weight.shape[0])
        loss = hidden.new_zeros(())
        for start in range(0, len(hidden), size):
            rows, wanted = hidden[start : start + size], targets[start : start + size, None]
            logits = torch.mm(rows, weight.t(), out=scratch[: len(rows)])
            normalizer = logits.logsumexp(dim=1, keepdim=True)
            loss += (normalizer - logits.gather(1, wanted)).sum()
            if grad_hidden is None and grad_weight is None:
                continue
            errors = logits.sub_(normalizer).exp_()
            errors.scatter_add_(1, wanted, errors.new_full((1, 1), -1.0).expand_as(wanted))
            if grad_hidden is not None:
                torch.mm(errors, weight, out=grad_hidden[start : start + size])
            if grad_weight is not None:
                grad_weight.addmm_(errors.t(), rows)
        ctx.gradients = (grad_hidden, grad_weight)
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        if ctx.gradients is None:
            raise RuntimeError("the loss of the head supports one backward pass; this is the second")
        (scale,) = grad_outputs
        # In place, because the gradient of the head is as large as the head.
        hidden, weight = (None if gradient is None else gradient.mul_(scale) for gradient in ctx.gradients)
        ctx.gradients = None
        return hidden, weight, None
