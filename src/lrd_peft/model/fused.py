"""The same numbers with fewer trips through memory: activations, and the loss at the head. Knows modules, not batches.

The vocabulary is the widest thing in a small model: logits of a few hundred positions are a hundred megabytes, and a
plain cross-entropy writes them, their log-softmax and two gradients. Here they are made and used up a block at a time.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import NewGELUActivation

from lrd_peft.model.thinking import has_plain_head, head_logits, unwrap

BLOCK_BYTES = 16 << 20  # logits of one block: they stay in a large cache, and a matrix product is still efficient


def fuse_activations(lm: nn.Module) -> None:
    """Replace GPT-2's GELU, eight passes over the widest activations, by torch's one pass of the same formula."""
    for module in lm.modules():
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


def summed_cross_entropy(lm: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    """Return the summed cross-entropy of the LM head at chosen positions, at least float32.

    A head that is more than one matrix (a bias, scaled or capped logits, adapters), half precision and autocast take
    the plain way; the result is the same.

    Args:
        lm: a causal LM, PEFT-wrapped or not.
        hidden: [P, H], last hidden states (post-norm).
        targets: int64 [P], the token that each position predicts.
    """
    exact = hidden.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(hidden.device.type)
    if not (exact and has_plain_head(lm)):
        return F.cross_entropy(head_logits(lm, hidden), targets, reduction="sum")
    weight = cast(nn.Linear, unwrap(lm).get_output_embeddings()).weight
    if weight.dtype != hidden.dtype or weight.device != hidden.device:
        return F.cross_entropy(head_logits(lm, hidden), targets, reduction="sum")
    loss = _BlockwiseCrossEntropy.apply(hidden, weight, targets)
    assert isinstance(loss, Tensor)
    return loss


class _BlockwiseCrossEntropy(torch.autograd.Function):
    """Loss and gradients in the forward pass, block by block: with p = softmax(h Wᵀ) and y the targets,

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
            raise RuntimeError("the head's loss keeps its gradients for one backward pass; this is the second")
        (scale,) = grad_outputs
        # In place: the head's gradient is as large as the head.
        hidden, weight = (None if gradient is None else gradient.mul_(scale) for gradient in ctx.gradients)
        ctx.gradients = None
        return hidden, weight, None
