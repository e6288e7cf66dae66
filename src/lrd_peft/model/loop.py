"""The thinking loop: continuous thoughts through a causal LM.

    positions   q_1 ... q_Q   s_1 ... s_N   x_1 ... x_S        question, slots, suffix
    inputs      E(q)          t_1 ... t_N   E(x)               E: token embeddings
    thoughts    t_1 = f(h(q_Q)),  t_j = f(h(s_{j-1}))          h: last hidden state, post-norm; f: projection

(COCONUT, arXiv 2412.06769, section 3.) One pass over the question fills a KV cache, N - 1 single-position passes
compute the thoughts, and one pass covers the last slot and the suffix: N + 1 passes in all, with gradients through
every thought. Hidden states are kept only at the requested layers, numbered as in `hidden_states` of transformers:
0 = inputs, l = output of block l, the last one post-norm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lrd_peft.model.inspection import block_count
from lrd_peft.model.inspection import unwrap as unwrap
from lrd_peft.model.parts import has_plain_head as has_plain_head
from lrd_peft.model.parts import head_logits as head_logits
from lrd_peft.model.paths import Use, paths_of
from lrd_peft.model.sequence import GrowingSequence, start_sequence
from lrd_peft.runtime.errors import UserError

Projection = Callable[[Tensor], Tensor]
# The first thought, [batch, 1, hidden], -> where the refinement of all begins, [batch, thought, hidden].
ThoughtStart = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Thinking:
    """Result of a pass through question, N slots and a suffix of S tokens.

    Attributes:
        thoughts: Inputs at the slots.
        last: Last hidden states (post-norm) from the question's last token on, 1 + N + S positions: index j predicts
            what follows slot j, index N + i what follows suffix token i (counted from 1). `states_only` leaves out
            those of the last pass.
        states: Layer -> hidden states at the N + S positions of slots and suffix, preceded by the question's if it was
            kept.
        num_passes: Sequential model passes.
        row_passes: Those that each row needed, where a tolerance decides.
    """

    thoughts: Float[Tensor, "batch thought hidden"]
    last: Float[Tensor, "batch position hidden"]
    states: dict[int, Float[Tensor, "batch kept hidden"]]
    num_passes: int
    row_passes: Int[Tensor, " batch"] | None = None


def check_layers(lm: nn.Module, layers: Sequence[int]) -> None:
    """Check layer indices; transformers silently drops those outside the model.

    Raises:
        UserError: If an index lies outside the model.
    """
    num_blocks = block_count(unwrap(lm).config)
    wrong = [layer for layer in layers if not 0 <= layer <= num_blocks]
    if wrong:
        raise UserError(
            f"layer {', '.join(map(str, wrong))} is out of range: this model has {num_blocks} blocks, so layers are "
            f"0 (the inputs), 1 to {num_blocks - 1} (outputs of blocks) and {num_blocks} (the last block, post-norm)"
        )

    between = [layer for layer in layers if layer != num_blocks]
    if between and not paths_of(lm).plain_states:
        raise UserError(
            f"layer {', '.join(map(str, between))}: the states between this architecture's blocks are no vectors; only "
            f"layer {num_blocks} (the last) can be kept"
        )


def think(
    lm: nn.Module,
    question_ids: Int[Tensor, "batch question"],
    question_mask: Int[Tensor, "batch question"],
    *,
    num_thoughts: int,
    suffix_ids: Int[Tensor, "batch suffix"],
    layers: Sequence[int] = (),
    keep_question: bool = False,
    projection: Projection | None = None,
    forced: Float[Tensor, "batch thought hidden"] | None = None,
    jacobi_passes: int | None = None,
    start: Float[Tensor, "batch thought hidden"] | ThoughtStart | None = None,
    tolerance: float | None = None,
    placeholder_id: int | None = None,
    cache_out: list[GrowingSequence] | None = None,
    states_only: bool = False,
) -> Thinking:
    """Run question, thoughts and suffix through a causal LM.

    Args:
        lm: Causal LM of transformers, PEFT-wrapped or not.
        question_ids: Token ids of the questions, left-padded.
        question_mask: 1 on tokens, 0 on padding.
        num_thoughts: Number of slots, at least 0.
        suffix_ids: Token ids after the slots, right-padded; may have length 0.
        layers: Layer indices of the hidden states to keep.
        keep_question: Keep them at the question's positions too.
        projection: Applied to each hidden state that becomes a thought.
        forced: Thoughts to use instead of the model's own. The whole sequence is then one parallel pass.
        jacobi_passes: Refine all thoughts in parallel this many times (PCCoT, arXiv 2506.18582) instead of computing
            them one after another. With as many passes as thoughts the results are equal.
        start: Thoughts that the refinement starts from, or a function that makes them of the first thought. None starts
            every thought as the first.
        tolerance: A row is refined no further once no thought of it changes by more than this fraction of its norm.
        placeholder_id: Token in every slot of a pass before the refinement, whose hidden states the thoughts start
            from, as in PCCoT's code.
        cache_out: List that receives the sequence, for decoding to continue (see generation.py).
        states_only: Only thoughts and kept states are needed: the last pass stops after the deepest kept layer.

    Returns:
        Thoughts, last hidden states and kept hidden states.

    Raises:
        UserError: If a layer index lies outside the model.

    Example:
        >>> import torch
        >>> from lrd_peft import StudentModel, think
        >>> student = StudentModel.from_pretrained("tiny-student")
        >>> ids = torch.tensor([student.encoder.prompt("What is 2 + 3?")])
        >>> marker = torch.tensor([student.encoder.marker])
        >>> result = think(student.lm, ids, torch.ones_like(ids), num_thoughts=3, suffix_ids=marker)
        >>> result.thoughts.shape, result.num_passes
        (torch.Size([1, 3, 72]), 4)
    """
    check_layers(lm, layers)
    project = projection or (lambda hidden: hidden)
    uses: list[Use] = ["train" if torch.is_grad_enabled() else "think"]
    if jacobi_passes is not None:
        uses.append("parallel")
    if cache_out is not None:
        uses.append("decode")
    sequence = start_sequence(lm, question_mask, layers=layers, uses=uses)
    # The only synchronization: without padding attention needs no mask and takes its fast path.
    padded = not bool(question_mask.all())
    # One lookup, because the gradient of each is as large as the whole table.
    embedded = sequence.embed(torch.cat([question_ids, suffix_ids], dim=1))
    question, suffix = embedded.split([question_ids.shape[1], suffix_ids.shape[1]], dim=1)
    ones = torch.ones_like(question_mask[:, :1])
    slot_mask, suffix_mask = ones.expand(-1, num_thoughts), ones.expand(-1, suffix_ids.shape[1])
    num_question = question_ids.shape[1]
    row_passes = None

    if num_thoughts == 0 or forced is not None:
        slots = question[:, :0] if forced is None else forced.to(question.dtype)
        assert slots.shape[1] == num_thoughts, f"{slots.shape[1]} forced thoughts for {num_thoughts} slots"
        inputs = torch.cat([question, slots, suffix], dim=1)
        mask = torch.cat([question_mask, slot_mask, suffix_mask], dim=1)
        hidden, states = _last_pass(sequence, inputs, mask, padded=padded, states_only=states_only)
        if not keep_question:
            states = {layer: state[:, num_question:] for layer, state in states.items()}
        thoughts, last = slots, hidden[:, num_question - 1 :]
    else:
        if not isinstance(start, Tensor):
            hidden, states = sequence.extend(question, question_mask, padded=padded, keep=keep_question)
        else:  # the first refinement shares the question's pass
            assert jacobi_passes is not None, "a start is for thoughts that are refined in parallel"
            joint = torch.cat([question, start[:, :-1].to(question.dtype)], dim=1)
            joint_mask = torch.cat([question_mask, slot_mask[:, :-1]], dim=1)
            hidden, states = sequence.peek(joint, joint_mask, first=num_question, padded=padded, keep=keep_question)
            states = {layer: state[:, :num_question] for layer, state in states.items()}
        kept = [states] if keep_question else []
        last_parts = [hidden[:, num_question - 1 : num_question]]
        if jacobi_passes is None:
            found = [project(hidden[:, -1:])]
            for _ in range(num_thoughts - 1):
                hidden, states = sequence.extend(found[-1], ones, padded=padded, keep=True)
                kept.append(states)
                last_parts.append(hidden)
                found.append(project(hidden))
            thoughts, tail = torch.cat(found, dim=1), found[-1]
        else:
            before = hidden[:, num_question - 1 :]
            if placeholder_id is not None and num_thoughts > 1:
                before = torch.cat([before, _placeholders(sequence, placeholder_id, slot_mask, padded)], dim=1)
            thoughts = project(before)
            if not (start is None or isinstance(start, Tensor)):
                thoughts = start(thoughts)
            thoughts, refined = _jacobi(sequence, project, thoughts, slot_mask, jacobi_passes, padded, tolerance)
            tail, row_passes = thoughts, refined if refined is None else refined + 2
        inputs = torch.cat([tail, suffix], dim=1)
        mask = torch.cat([slot_mask[:, : tail.shape[1]], suffix_mask], dim=1)
        hidden, states = _last_pass(sequence, inputs, mask, padded=padded, states_only=states_only)
        kept.append(states)
        last = torch.cat([*last_parts, hidden], dim=1)
        states = {layer: torch.cat([part[layer] for part in kept], dim=1) for layer in layers}
    if cache_out is not None:
        cache_out.append(sequence)
    return Thinking(thoughts, last, states, num_passes=sequence.num_passes, row_passes=row_passes)


def _last_pass(
    sequence: GrowingSequence, inputs: Tensor, mask: Tensor, *, padded: bool, states_only: bool
) -> tuple[Tensor, dict[int, Tensor]]:
    """Run the last pass. With `states_only` there are no last hidden states."""
    if states_only:
        return inputs[:, :0], sequence.finish(inputs, mask, padded=padded)
    return sequence.extend(inputs, mask, padded=padded, keep=True)


def _placeholders(
    sequence: GrowingSequence, token_id: int, slot_mask: Int[Tensor, "batch thought"], padded: bool
) -> Float[Tensor, "batch further hidden"]:
    """Return the last hidden states at all slots but the last, each slot holding the placeholder token."""
    tokens = sequence.embed(torch.full_like(slot_mask[:, :-1], token_id))
    hidden, _ = sequence.peek(tokens, slot_mask[:, :-1], first=0, padded=padded, keep=False)
    return hidden


def _jacobi(
    sequence: GrowingSequence,
    project: Projection,
    thoughts: Float[Tensor, "batch start hidden"],
    slot_mask: Int[Tensor, "batch thought"],
    passes: int,
    padded: bool,
    tolerance: float | None,
) -> tuple[Float[Tensor, "batch thought hidden"], Int[Tensor, " batch"] | None]:
    """Refine all thoughts in parallel; with a tolerance, also count how often each row was refined.

    The caller's pass over slots and suffix is the last of the passes. The first thought is final from the beginning; a
    start with one thought puts it into every slot.
    """
    first = thoughts[:, :1]
    if thoughts.shape[1] == 1:
        thoughts = first.expand(-1, slot_mask.shape[1], -1)
    changes = torch.ones_like(slot_mask[:, 0], dtype=torch.bool)
    counts = torch.zeros_like(slot_mask[:, 0])
    for _ in range(passes - 1):
        hidden, _ = sequence.peek(thoughts, slot_mask, first=0, padded=padded, keep=False)
        refined = torch.cat([first, project(hidden[:, :-1])], dim=1)
        if tolerance is None:
            thoughts = refined
            continue
        counts = counts + changes
        moved = (refined - thoughts).norm(dim=-1) > tolerance * refined.norm(dim=-1)
        thoughts = torch.where(changes[:, None, None], refined, thoughts)
        changes = changes & moved.any(dim=1)
        if not bool(changes.any()):
            break
    return thoughts, None if tolerance is None else counts


def gather_positions(
    states: Float[Tensor, "batch position hidden"], positions: Int[Tensor, "batch chosen"]
) -> Float[Tensor, "batch chosen hidden"]:
    """Pick positions of each row."""
    return states.gather(1, positions[:, :, None].expand(-1, -1, states.shape[-1]))
