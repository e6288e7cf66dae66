"""The thinking loop: continuous thoughts through a causal LM. Knows tensors and one model; no losses, no text.

    positions   q_1 ... q_Q   s_1 ... s_N   x_1 ... x_S        question, slots, suffix
    inputs      E(q)          t_1 ... t_N   E(x)               E: token embeddings
    thoughts    t_1 = f(h(q_Q)),  t_j = f(h(s_{j-1}))          h: last hidden state, post-norm; f: projection

(COCONUT, arXiv 2412.06769, section 3.) One pass over the question fills a KV cache, N - 1 passes over one position each
find the thoughts, one pass over the last slot and the suffix ends the sequence: N + 1 passes in all, with gradients
through every thought. Hidden states are kept at the requested layers only, `hidden_states` convention of transformers:
0 = inputs, l = output of block l, the last one post-norm.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from lrd_peft.errors import UserError
from lrd_peft.model.prune import shallow

Projection = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Thinking:
    """What a pass through question, slots and suffix leaves. B rows, Q, N, S positions, H hidden.

    Attributes:
        thoughts: [B, N, H], the inputs at the slots.
        last: [B, 1 + N + S, H], last hidden states (post-norm) from the question's last token on: index j predicts
            what follows slot j, index N + i what follows suffix token i (counted from 1). With `states_only` those
            of the last pass are missing.
        states: layer -> [B, P, H]; P = N + S (slots and suffix), or Q + N + S when the question was kept too.
        num_passes: sequential model passes.
    """

    thoughts: Tensor
    last: Tensor
    states: dict[int, Tensor]
    num_passes: int


def unwrap(lm: nn.Module) -> PreTrainedModel:
    """Return the transformers model inside a PEFT model, or the model itself; adapters stay active."""
    from peft import PeftModel

    inner = lm.get_base_model() if isinstance(lm, PeftModel) else lm
    assert isinstance(inner, PreTrainedModel)
    return inner


def head_logits(lm: nn.Module, hidden: Tensor) -> Tensor:
    """Apply the LM head to chosen positions: hidden [..., H] -> logits [..., V], float32 at least.

    Equal to the model's own logits there, including the scaling (Cohere, Granite) and soft-capping (Gemma) of heads.
    """
    inner = unwrap(lm)
    head = inner.get_output_embeddings()
    assert head is not None, "a causal LM has a head"
    logits = head(hidden)
    # Half precision is not enough for a log-softmax over a vocabulary.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    config = inner.config.get_text_config()
    scale = getattr(config, "logit_scale", None)
    if scale is not None:
        logits = logits * scale
    divisor = getattr(config, "logits_scaling", None)
    if divisor is not None:
        logits = logits / divisor
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


def has_plain_head(lm: nn.Module) -> bool:
    """Whether the LM head is one matrix and nothing else: no bias, scaling, capping, adapters or hooks."""
    inner = unwrap(lm)
    head = inner.get_output_embeddings()
    config = inner.config.get_text_config()
    names = ("logit_scale", "logits_scaling", "final_logit_softcapping")
    return (
        type(head) is nn.Linear
        and head.bias is None
        and type(head.weight) is nn.Parameter  # not sharded, not quantized
        and "forward" not in vars(head)
        and not (head._forward_hooks or head._forward_pre_hooks)
        and all(getattr(config, name, None) is None for name in names)
    )


class _Sequence:
    """A growing sequence: KV cache, mask, positions, and the hidden states kept on the way."""

    def __init__(self, lm: nn.Module, mask: Tensor, *, layers: Sequence[int]) -> None:
        self.inner = inner = unwrap(lm)
        self.decoder = inner.base_model
        self.embed = inner.get_input_embeddings()
        self.layers = list(layers)
        self.cache = DynamicCache(config=inner.config)
        self.mask = mask[:, :0]
        self.next_position = torch.zeros_like(mask[:, 0])
        self.num_passes = 0

    def finish(
        self, inputs: Tensor, mask: Tensor, *, padded: bool, states_only: bool
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Run the pass after which nothing follows; for its kept states alone no further than the deepest of them.

        Then no last hidden states come back: [B, 0, H].
        """
        if not states_only:
            return self.extend(inputs, mask, padded=padded, keep=True)
        deepest = max(self.layers, default=0)
        with contextlib.ExitStack() as stack:
            outputs: list[Tensor] | None = None
            if 0 < deepest < self.inner.config.get_text_config().num_hidden_layers:
                with contextlib.suppress(UserError):  # an unusual architecture runs in full
                    outputs = stack.enter_context(shallow(self.inner, blocks=deepest))
            _, states = self.extend(inputs, mask, padded=padded, keep=True)
        return inputs[:, :0], states if outputs is None else {**states, deepest: outputs[0]}

    def extend(self, inputs: Tensor, mask: Tensor, *, padded: bool, keep: bool) -> tuple[Tensor, dict[int, Tensor]]:
        """Run one pass over new positions: inputs [B, P, H], mask [B, P] -> last hidden [B, P, H] and kept states."""
        self.mask = torch.cat([self.mask, mask], dim=1)
        positions = (self.next_position[:, None] + mask.cumsum(dim=1) - 1).clamp(min=0)
        self.next_position = self.next_position + mask.sum(dim=1)
        extra: dict[str, Any] = {"output_hidden_states": self.layers} if keep and self.layers else {}
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

    def select(self, rows: Tensor) -> None:
        """Go on with some rows of the batch only: int64 [K]."""
        self.cache.batch_select_indices(rows)
        self.mask, self.next_position = self.mask[rows], self.next_position[rows]

    def drop(self, num_positions: int) -> None:
        """Forget the last positions, as if they had never been seen."""
        self.cache.crop(-num_positions)
        self.next_position = self.next_position - num_positions
        self.mask = self.mask[:, :-num_positions]


def check_layers(lm: nn.Module, layers: Sequence[int]) -> None:
    """Raise a UserError if a layer index lies outside the model (transformers drops such indices in silence)."""
    num_blocks = unwrap(lm).config.get_text_config().num_hidden_layers
    wrong = [layer for layer in layers if not 0 <= layer <= num_blocks]
    if wrong:
        raise UserError(
            f"layer {', '.join(map(str, wrong))} is out of range: this model has {num_blocks} blocks, so layers are "
            f"0 (the inputs), 1 to {num_blocks - 1} (outputs of blocks) and {num_blocks} (the last block, post-norm)"
        )


def think(
    lm: nn.Module,
    question_ids: Tensor,
    question_mask: Tensor,
    *,
    num_thoughts: int,
    suffix_ids: Tensor,
    layers: Sequence[int] = (),
    keep_question: bool = False,
    projection: Projection | None = None,
    forced: Tensor | None = None,
    jacobi_passes: int | None = None,
    cache_out: list[Any] | None = None,
    states_only: bool = False,
) -> Thinking:
    """Run question, thoughts and suffix.

    Args:
        lm: a causal LM of transformers, PEFT-wrapped or not.
        question_ids, question_mask: int64 [B, Q], left-padded.
        num_thoughts: N, at least 0.
        suffix_ids: int64 [B, S], right-padded; S may be 0.
        layers: hidden states to keep.
        keep_question: keep them at the question's positions too.
        projection: applied to each hidden state that becomes a thought.
        forced: thoughts [B, N, H] to use instead of the model's own; the whole sequence is then one parallel pass.
        jacobi_passes: refine all thoughts together this many times (PCCoT, arXiv 2506.18582) instead of one after
            another; with `jacobi_passes >= N` the result is the sequential one.
        cache_out: a list that receives the sequence for decoding to go on from (see generate.py).
        states_only: only thoughts and kept states are wanted; the last pass stops after the deepest kept layer.

    Raises:
        UserError: if a layer is out of range.
    """
    check_layers(lm, layers)
    project = projection or (lambda hidden: hidden)
    sequence = _Sequence(lm, question_mask, layers=layers)
    # The one synchronisation: without padding no mask is needed, and attention takes its fast path.
    padded = not bool(question_mask.all())
    # One look-up: each has a gradient as large as the whole table.
    embedded = sequence.embed(torch.cat([question_ids, suffix_ids], dim=1))
    question, suffix = embedded.split([question_ids.shape[1], suffix_ids.shape[1]], dim=1)
    ones = torch.ones_like(question_mask[:, :1])
    slot_mask, suffix_mask = ones.expand(-1, num_thoughts), ones.expand(-1, suffix_ids.shape[1])
    num_question = question_ids.shape[1]

    if num_thoughts == 0 or forced is not None:
        slots = question[:, :0] if forced is None else forced.to(question.dtype)
        assert slots.shape[1] == num_thoughts, f"{slots.shape[1]} forced thoughts for {num_thoughts} slots"
        inputs = torch.cat([question, slots, suffix], dim=1)
        mask = torch.cat([question_mask, slot_mask, suffix_mask], dim=1)
        hidden, states = sequence.finish(inputs, mask, padded=padded, states_only=states_only)
        if not keep_question:
            states = {layer: state[:, num_question:] for layer, state in states.items()}
        thoughts, last = slots, hidden[:, num_question - 1 :]
    else:
        hidden, states = sequence.extend(question, question_mask, padded=padded, keep=keep_question)
        kept = [states] if keep_question else []
        last_parts = [hidden[:, -1:]]
        if jacobi_passes is None:
            found = [project(hidden[:, -1:])]
            for _ in range(num_thoughts - 1):
                hidden, states = sequence.extend(found[-1], ones, padded=padded, keep=True)
                kept.append(states)
                last_parts.append(hidden)
                found.append(project(hidden))
            thoughts, tail = torch.cat(found, dim=1), found[-1]
        else:
            thoughts = tail = _jacobi(sequence, project, hidden[:, -1:], slot_mask, jacobi_passes, padded)
        inputs = torch.cat([tail, suffix], dim=1)
        mask = torch.cat([slot_mask[:, : tail.shape[1]], suffix_mask], dim=1)
        hidden, states = sequence.finish(inputs, mask, padded=padded, states_only=states_only)
        kept.append(states)
        last = torch.cat([*last_parts, hidden], dim=1)
        states = {layer: torch.cat([part[layer] for part in kept], dim=1) for layer in layers}
    if cache_out is not None:
        cache_out.append(sequence)
    return Thinking(thoughts=thoughts, last=last, states=states, num_passes=sequence.num_passes)


def _jacobi(
    sequence: _Sequence, project: Projection, start: Tensor, slot_mask: Tensor, passes: int, padded: bool
) -> Tensor:
    """Refine all thoughts together: [B, 1, H] -> [B, N, H]. The caller's pass over slots and suffix is the last one."""
    num_thoughts = slot_mask.shape[1]
    first = project(start)
    thoughts = first.expand(-1, num_thoughts, -1)
    for _ in range(passes - 1):
        hidden, _ = sequence.extend(thoughts, slot_mask, padded=padded, keep=False)
        sequence.drop(num_thoughts)
        thoughts = torch.cat([first, project(hidden[:, :-1])], dim=1)
    return thoughts


def gather_positions(states: Tensor, positions: Tensor) -> Tensor:
    """Pick positions of each row: states [B, P, H], positions int64 [B, K] -> [B, K, H]."""
    return states.gather(1, positions[:, :, None].expand(-1, -1, states.shape[-1]))
