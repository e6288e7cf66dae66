"""A growing sequence of input embeddings: with a KV cache, or computed again at each pass."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from lrd_peft.model.block_checkpoints import checkpointed_blocks
from lrd_peft.model.inspection import block_count, unwrap
from lrd_peft.model.parts import decoder_of
from lrd_peft.model.paths import Use, paths_of
from lrd_peft.model.pruning import shallow
from lrd_peft.runtime.errors import UserError

Passed = tuple[Float[Tensor, "batch position hidden"], dict[int, Float[Tensor, "batch position hidden"]]]


class GrowingSequence:
    """Input embeddings that grow from pass to pass; subclasses run the passes.

    Args:
        lm: Causal LM, PEFT-wrapped or not.
        mask: Mask of the first positions, for its shape and device.
        layers: Layer indices of the hidden states to keep.

    Attributes:
        num_passes: Passes so far.
    """

    def __init__(self, lm: nn.Module, mask: Int[Tensor, "batch position"], *, layers: Sequence[int]) -> None:
        self.inner = unwrap(lm)
        self.decoder = decoder_of(lm)
        self.embed = self.inner.get_input_embeddings()
        self.layers = list(layers)
        self.may_be_shallow = paths_of(lm).shallow
        self.mask = mask[:, :0]
        self.num_passes = 0

    def extend(
        self, inputs: Float[Tensor, "batch new hidden"], mask: Int[Tensor, "batch new"], *, padded: bool, keep: bool
    ) -> Passed:
        """Run one pass over new positions.

        Args:
            inputs: Input embeddings of the new positions.
            mask: 1 where they are tokens or thoughts, 0 on padding.
            padded: Whether any row has padding.
            keep: Return the kept layers too.

        Returns:
            Last hidden states of the new positions, and layer -> hidden states.
        """
        raise NotImplementedError

    def finish(
        self, inputs: Float[Tensor, "batch new hidden"], mask: Int[Tensor, "batch new"], *, padded: bool
    ) -> dict[int, Float[Tensor, "batch new hidden"]]:
        """Run the last pass for its kept layers alone, where possible only up to the deepest of them."""
        return self.extend(inputs, mask, padded=padded, keep=True)[1]

    def select(self, rows: Int[Tensor, " chosen"]) -> None:
        """Continue with some rows of the batch."""
        raise NotImplementedError

    def peek(
        self,
        inputs: Float[Tensor, "batch new hidden"],
        mask: Int[Tensor, "batch new"],
        *,
        first: int,
        padded: bool,
        keep: bool,
    ) -> Passed:
        """Run one pass over new positions, of which only the first ones become part of the sequence.

        Args:
            inputs: Input embeddings of the new positions.
            mask: 1 where they are tokens or thoughts, 0 on padding.
            first: Number of new positions that stay.
            padded: Whether any row has padding.
            keep: Return the kept layers too.

        Returns:
            Last hidden states of the new positions, and layer -> hidden states.
        """
        raise NotImplementedError

    def _captured(self, keep: bool) -> dict[str, Any]:
        return {"output_hidden_states": self.layers} if keep and self.layers else {}


class CachedSequence(GrowingSequence):
    """A sequence with a KV cache: a pass runs the new positions only."""

    def __init__(self, lm: nn.Module, mask: Int[Tensor, "batch position"], *, layers: Sequence[int]) -> None:
        super().__init__(lm, mask, layers=layers)
        self.cache: Any = DynamicCache(config=self.inner.config)
        self.next_position = torch.zeros_like(mask[:, 0])

    def extend(
        self, inputs: Float[Tensor, "batch new hidden"], mask: Int[Tensor, "batch new"], *, padded: bool, keep: bool
    ) -> Passed:
        self.mask = torch.cat([self.mask, mask], dim=1)
        positions = (self.next_position[:, None] + mask.cumsum(dim=1) - 1).clamp(min=0)
        self.next_position = self.next_position + mask.sum(dim=1)
        extra = self._captured(keep)
        with _overwriting_allowed(_recurrent_states(self.cache)), checkpointed_blocks(self.inner, self.cache):
            output = self.decoder(
                inputs_embeds=inputs,
                attention_mask=self.mask if padded else None,
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
                **extra,
            )
        self.num_passes += 1
        states = {layer: output.hidden_states[layer] for layer in self.layers} if extra else {}
        return output.last_hidden_state, states

    def finish(
        self, inputs: Float[Tensor, "batch new hidden"], mask: Int[Tensor, "batch new"], *, padded: bool
    ) -> dict[int, Float[Tensor, "batch new hidden"]]:
        deepest = max(self.layers, default=0)
        with contextlib.ExitStack() as stack:
            outputs: list[Tensor] | None = None
            if self.may_be_shallow and 0 < deepest < block_count(self.inner.config):
                with contextlib.suppress(UserError):  # an architecture that cannot be cut short runs in full
                    outputs = stack.enter_context(shallow(self.inner, blocks=deepest))
            _, states = self.extend(inputs, mask, padded=padded, keep=True)
        return states if outputs is None else {**states, deepest: outputs[0]}

    def select(self, rows: Int[Tensor, " chosen"]) -> None:
        # Unlike `batch_select_indices`, caches of recurrent layers have it too.
        self.cache.reorder_cache(rows)
        self.mask, self.next_position = self.mask[rows], self.next_position[rows]

    def peek(
        self,
        inputs: Float[Tensor, "batch new hidden"],
        mask: Int[Tensor, "batch new"],
        *,
        first: int,
        padded: bool,
        keep: bool,
    ) -> Passed:
        if first == inputs.shape[1]:
            return self.extend(inputs, mask, padded=padded, keep=keep)
        if self.cache.is_croppable:
            self.cache.activate_past_recording()
            passed = self.extend(inputs, mask, padded=padded, keep=keep)
            self.cache.crop(first - inputs.shape[1])
            self.mask = self.mask[:, : self.mask.shape[1] - inputs.shape[1] + first]
            self.next_position = self.next_position - mask[:, first:].sum(dim=1)
            return passed
        parts = []
        if first > 0:
            parts.append(self.extend(inputs[:, :first], mask[:, :first], padded=padded, keep=keep))
        before = _copied(self.cache), self.mask, self.next_position
        parts.append(self.extend(inputs[:, first:], mask[:, first:], padded=padded, keep=keep))
        self.cache, self.mask, self.next_position = before
        states = {layer: torch.cat([part[1][layer] for part in parts], dim=1) for layer in parts[0][1]}
        return torch.cat([part[0] for part in parts], dim=1), states


class RecomputedSequence(GrowingSequence):
    """A sequence without a cache: a pass runs all positions, for architectures whose cache gives other numbers."""

    def __init__(self, lm: nn.Module, mask: Int[Tensor, "batch position"], *, layers: Sequence[int]) -> None:
        super().__init__(lm, mask, layers=layers)
        self.rows_apart = paths_of(lm).rows_apart
        self.inputs: Tensor | None = None

    def extend(
        self, inputs: Float[Tensor, "batch new hidden"], mask: Int[Tensor, "batch new"], *, padded: bool, keep: bool
    ) -> Passed:
        self.mask = torch.cat([self.mask, mask], dim=1)
        self.inputs = inputs if self.inputs is None else torch.cat([self.inputs, inputs], dim=1)
        extra = self._captured(keep)
        run = self._run_apart if padded and self.rows_apart else functools.partial(self._run, padded=padded)
        hidden, states = run(self.inputs, extra)
        new = inputs.shape[1]
        start = self.inputs.shape[1] - new
        return hidden[:, start:], {layer: state[:, start:] for layer, state in states.items()}

    def _run(self, inputs: Tensor, extra: dict[str, Any], *, padded: bool) -> Passed:
        if padded:
            positions = (self.mask.cumsum(dim=1) - 1).clamp(min=0)
            extra = {"attention_mask": self.mask, "position_ids": positions, **extra}
        with checkpointed_blocks(self.inner, None):
            output = self.decoder(inputs_embeds=inputs, use_cache=False, **extra)
        self.num_passes += 1
        states = (
            {layer: output.hidden_states[layer] for layer in self.layers} if "output_hidden_states" in extra else {}
        )
        return output.last_hidden_state, states

    def _run_apart(self, inputs: Tensor, extra: dict[str, Any]) -> Passed:
        """Run rows with the same padding together, without it."""
        padding = (self.mask.cumsum(dim=1) == 0).sum(dim=1)
        groups = [(padding == start).nonzero()[:, 0] for start in padding.unique()]
        results = []
        for rows, start in zip(groups, padding.unique().tolist(), strict=True):
            hidden, states = self._run(inputs[rows, start:], extra, padded=False)
            results.append((rows, start, {-1: hidden, **states}))
        merged = {}
        for layer in results[0][2]:
            parts = results[0][2][layer]
            whole = parts.new_zeros(*inputs.shape[:2], *parts.shape[2:])
            for rows, start, found in results:
                whole[rows, start:] = found[layer]
            merged[layer] = whole
        return merged.pop(-1), merged

    def select(self, rows: Int[Tensor, " chosen"]) -> None:
        assert self.inputs is not None, "rows are selected after a pass"
        self.mask, self.inputs = self.mask[rows], self.inputs[rows]

    def peek(
        self,
        inputs: Float[Tensor, "batch new hidden"],
        mask: Int[Tensor, "batch new"],
        *,
        first: int,
        padded: bool,
        keep: bool,
    ) -> Passed:
        passed = self.extend(inputs, mask, padded=padded, keep=keep)
        assert self.inputs is not None
        length = self.mask.shape[1] - inputs.shape[1] + first
        self.mask, self.inputs = self.mask[:, :length], self.inputs[:, :length]
        return passed


def start_sequence(
    lm: nn.Module, mask: Int[Tensor, "batch position"], *, layers: Sequence[int], uses: Sequence[Use]
) -> GrowingSequence:
    """Start a sequence with a KV cache if the model's cache is right for all of these uses, otherwise without one.

    Args:
        lm: Causal LM, PEFT-wrapped or not.
        mask: Mask of the first positions, for its shape and device.
        layers: Layer indices of the hidden states to keep.
        uses: What the sequence is for.
    """
    kind = CachedSequence if paths_of(lm).cached.issuperset(uses) else RecomputedSequence
    return kind(lm, mask, layers=layers)


def _copied(cache: Cache) -> Cache:
    """Copy a cache: recurrent states, which passes overwrite, and the bookkeeping. Keys and values are shared."""
    copied = copy.copy(cache)
    copied.layers = []
    for layer in cache.layers:
        twin = copy.copy(layer)
        for name, value in vars(layer).items():
            if isinstance(value, dict):
                copies = {key: held.clone() if isinstance(held, Tensor) else held for key, held in value.items()}
                setattr(twin, name, copies)
        copied.layers.append(twin)
    return copied


def _recurrent_states(cache: Cache) -> list[Tensor]:
    layers = [layer for layer in cache.layers if isinstance(layer, LinearAttentionCacheLayerMixin)]
    states = [
        state for layer in layers for held in (layer.conv_states, layer.recurrent_states) for state in held.values()
    ]
    return [state for state in states if state is not None]


@contextlib.contextmanager
def _overwriting_allowed(states: Sequence[Tensor]) -> Iterator[None]:
    """Let passes within this context overwrite recurrent states that they have read, as transformers' models do.

    Autograd keeps what an operation has read; here it keeps copies of these states.
    """
    if not (states and torch.is_grad_enabled()):
        yield
        return
    places = {state.untyped_storage().data_ptr() for state in states}

    def kept(tensor: Tensor) -> Tensor:
        return tensor.clone() if tensor.untyped_storage().data_ptr() in places else tensor

    with torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor):
        yield
