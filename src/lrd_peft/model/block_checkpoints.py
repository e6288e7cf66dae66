"""Gradient checkpointing with a cache: blocks are computed again in the backward pass, on the cache they saw first.

transformers' own checkpointing runs without a cache, so a thought would not see the question. Here the backward pass
of a block starts from its inputs and from the keys and values that were in the cache before it:

    forward    inputs, cache before --block--> outputs, new keys and values      only these four are kept
    backward   inputs, cache before --block--> activations, gradients            one block at a time

transformers' switch turns it on: `gradient_checkpointing_enable()` on the model, or the training argument.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from lrd_peft.model.pruning import find_blocks
from lrd_peft.runtime.errors import UserError

_SWITCH = "gradient_checkpointing"
_CACHE = object()  # stands for the cache among the arguments of a block
_EMPTY = DynamicCache()


class _LayerInParts(DynamicLayer):
    """Keys and values of one block, as each pass made them: earlier states of the cache share their memory."""

    def __init__(self) -> None:
        super().__init__()
        self.key_parts: tuple[Tensor, ...] = ()
        self.value_parts: tuple[Tensor, ...] = ()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.is_initialized = True
        # A view would keep the whole tensor of queries, keys and values.
        self.key_parts = (*self.key_parts, key_states.contiguous())
        self.value_parts = (*self.value_parts, value_states.contiguous())
        return torch.cat(self.key_parts, dim=-2), torch.cat(self.value_parts, dim=-2)

    def get_seq_length(self) -> int:
        return sum(part.shape[-2] for part in self.key_parts)

    def crop(self, tokens_to_remove: int) -> None:
        kept = self.get_seq_length() - abs(tokens_to_remove)
        self.key_parts, self.value_parts = _first(self.key_parts, kept), _first(self.value_parts, kept)

    def batch_select_indices(self, indices: Tensor) -> None:
        self.key_parts = tuple(part[indices] for part in self.key_parts)
        self.value_parts = tuple(part[indices] for part in self.value_parts)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)


def set_checkpointing(lm: PreTrainedModel, *, on: bool) -> None:
    """Turn transformers' switch, under the name that the installed version has for it.

    Raises:
        UserError: If the architecture has no such switch.
    """
    verb = "enable" if on else "disable"
    switch = getattr(lm, f"activation_checkpointing_{verb}", None) or getattr(lm, f"gradient_checkpointing_{verb}")
    try:
        switch()
    except ValueError as error:
        raise UserError(
            f'gradient checkpointing does not work with "{lm.config.model_type}"; train it without, with a lower '
            "batch size"
        ) from error


@contextlib.contextmanager
def checkpointed_blocks(lm: PreTrainedModel, cache: DynamicCache | None) -> Iterator[None]:
    """Compute each block within this context again in the backward pass, if checkpointing is on and the model trains.

    Args:
        lm: Causal LM.
        cache: Cache of the sequence; None if it has none.

    Raises:
        UserError: If a block keeps something other than keys and values, which is overwritten in place.
    """
    switched = [module for module in lm.modules() if getattr(module, _SWITCH, False)] if lm.training else []
    if not switched:
        yield
        return
    blocks: list[nn.Module] = []
    with _off(switched):  # transformers' own would drop the cache
        try:
            if torch.is_grad_enabled():
                if cache is not None:
                    _in_parts(cache, lm)
                blocks = list(find_blocks(lm))
                for block in blocks:
                    own = set(block.modules())
                    block.forward = _again(block.forward, cache, [module for module in switched if module in own])
            yield
        finally:
            for block in blocks:
                del block.forward


@contextlib.contextmanager
def _off(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Switch transformers' checkpointing off within this context."""
    for module in modules:
        setattr(module, _SWITCH, False)
    try:
        yield
    finally:
        for module in modules:
            setattr(module, _SWITCH, True)


def _in_parts(cache: DynamicCache, lm: PreTrainedModel) -> None:
    layers: list[Any] = cache.layers
    for index, layer in enumerate(layers):
        if type(layer) is DynamicLayer and not layer.is_initialized:
            layers[index] = _LayerInParts()
        elif type(layer) not in (_LayerInParts, DynamicSlidingWindowLayer):
            raise UserError(
                f'gradient checkpointing does not work with "{lm.config.model_type}", whose blocks keep '
                f"{type(layer).__name__} in the cache; train it without, with a lower batch size"
            )


def _again(
    forward: Callable[..., Any], cache: DynamicCache | None, switched: Sequence[nn.Module]
) -> Callable[..., Any]:
    """Return a block's forward pass that is computed again for its gradient, on the cache as it is now."""

    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        before = None if cache is None else _copied(cache)
        after: list[DynamicCache] = []

        def run(*inner_args: Any, **inner_kwargs: Any) -> Any:
            own = None if before is None else _copied(before)
            if own is not None and not after:
                after.append(own)
            chosen = [own if value is _CACHE else value for value in inner_args]
            named = {name: own if value is _CACHE else value for name, value in inner_kwargs.items()}
            with _off(switched):
                return forward(*chosen, **named)

        # What waits for the backward pass must not hold the cache, which grows until the last pass.
        chosen = [_CACHE if cache is not None and value is cache else value for value in args]
        named = {name: _CACHE if cache is not None and value is cache else value for name, value in kwargs.items()}
        output = checkpoint(partial(run, **named), *chosen, use_reentrant=False)
        if cache is not None:
            cache.layers[:] = after[0].layers
            after[0] = _EMPTY
        return output

    return checkpointed


def _copied(cache: DynamicCache) -> DynamicCache:
    """Return a cache that can grow without changing the other. No tensor is copied."""
    own = copy.copy(cache)
    own.layers = [copy.copy(layer) for layer in cache.layers]
    return own


def _first(parts: tuple[Tensor, ...], length: int) -> tuple[Tensor, ...]:
    """Return the first positions of a sequence in parts."""
    kept: list[Tensor] = []
    for part in parts:
        if length <= 0:
            break
        kept.append(part[..., :length, :])
        length -= part.shape[-2]
    return tuple(kept)
