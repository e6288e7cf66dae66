"""What training and answering cost, by formulas: operations, bytes, seconds. Knows shapes, no weights and no data.

Letters as in docs/method.md: Q question tokens, N thoughts, S suffix tokens, L blocks, H width, V vocabulary.

    forward of one pass over t positions that see c:    2 M t + 4 L A c t        M: weights of all blocks' matrices
    the head:                                           2 H V for each label     A: width of the queries
    backward:    all weights  twice the forward;    LoRA  the forward once (no gradients of frozen matrices),
                 attention twice, the adapters' 2 a t twice                      a: parameters of the adapters

Multiply and add are two operations. Attention is counted over the whole square, as eager attention computes it; a
causal kernel spares up to half of that term. Norms, activations, projectors and padding are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn
from transformers import PreTrainedConfig
from transformers.pytorch_utils import Conv1D

from lrd_peft.model.facts import block_count, hidden_size, meta_model

Trained = Literal["all", "lora", "nothing"]

# AdamW in float32 reads weight, gradient and two moments and writes three of them; so many bytes a parameter it holds.
OPTIMIZER_TRAFFIC, OPTIMIZER_BYTES = 28, 8


@dataclass(frozen=True, slots=True)
class Machine:
    """One accelerator, by its data sheet, and the share of its peaks that a run is assumed to reach."""

    name: str
    flops_per_second: float  # dense BF16
    bytes_per_second: float
    memory_bytes: float
    utilisation: float

    def seconds(self, flops: float, num_bytes: float) -> float:
        """Return how long a pass takes that is bound by arithmetic or by memory, whichever is slower."""
        return max(flops / self.flops_per_second, num_bytes / self.bytes_per_second) / self.utilisation


# NVIDIA's data sheet of the H100 SXM: 989 TFLOP/s (BF16 without sparsity), 3.35 TB/s, 80 GB. The 40% are an assumption.
H100 = Machine("H100", 989e12, 3.35e12, 80e9, 0.4)


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a causal LM that its cost depends on."""

    blocks: int
    width: int
    query_width: int
    kv_width: int
    mlp_width: int
    matrices: int  # weights of the linear layers in all blocks
    vocabulary: int
    parameters: int  # tied ones once


def shape_of(config: PreTrainedConfig) -> Shape:
    """Return the sizes of a causal LM."""
    text = config.get_text_config(decoder=True)
    model = meta_model(config)
    head = model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, nn.Linear | Conv1D) and m is not head]
    heads, width = text.num_attention_heads, hidden_size(config)
    head_width = getattr(text, "head_dim", None) or width // heads
    widest = max(max(layer.weight.shape) for layer in linear)
    return Shape(
        blocks=block_count(config),
        width=width,
        query_width=heads * head_width,
        kv_width=(getattr(text, "num_key_value_heads", None) or heads) * head_width,
        mlp_width=getattr(text, "intermediate_size", None) or widest,
        matrices=sum(layer.weight.numel() for layer in linear),
        vocabulary=text.vocab_size,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


@dataclass(frozen=True, slots=True)
class Pass:
    """One model call over `tokens` positions of each row, that see `context` positions; `rows` for each problem."""

    tokens: float
    context: float
    rows: float = 1


def passes(question: float, thoughts: int, suffix: float) -> list[Pass]:
    """Return the calls of the thinking loop: question, N - 1 single positions, last slot and suffix."""
    if thoughts == 0:
        return [Pass(question + suffix, question + suffix)]
    single = [Pass(1, question + j) for j in range(1, thoughts)]
    return [Pass(question, question), *single, Pass(1 + suffix, question + thoughts + suffix)]


def writing(question: float, thoughts: int, tokens: float, *, forced: float = 0) -> list[Pass]:
    """Return the calls that answer a question: thinking (with the forced marker), then one for each further token."""
    start = question + thoughts + forced
    return [*passes(question, thoughts, forced), *(Pass(1, start + i) for i in range(1, round(tokens)))]


@dataclass(frozen=True, slots=True)
class Cost:
    """Operations, and seconds of one machine."""

    flops: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.seconds + other.seconds)

    def __mul__(self, times: float) -> Cost:
        return Cost(self.flops * times, self.seconds * times)


def batch_cost(
    shape: Shape,
    calls: Sequence[Pass],
    *,
    rows: int,
    labels: float,
    trained: Trained,
    adapters: int = 0,
    weight_bytes: int = 2,
    machine: Machine = H100,
) -> Cost:
    """Return the cost of one batch, forward and, where something is trained, backward and the optimizer's step.

    Args:
        rows: problems in the batch.
        labels: positions of each problem at which the head runs.
        trained: which weights get gradients.
        adapters: parameters of LoRA, for `lora`.
        weight_bytes: of one weight as the matrix products read it. Each call reads all of them once, and once more on
            its way back; gradients of all weights are read and written in float32.
    """
    total = Cost()
    linear, attention = {"all": (3, 3), "lora": (2, 3), "nothing": (1, 1)}[trained]
    for call in calls:
        tokens = rows * call.rows * call.tokens
        flops = linear * 2 * shape.matrices * tokens
        flops += attention * 4 * shape.blocks * shape.query_width * call.context * tokens
        read = shape.matrices * weight_bytes
        if trained == "lora":
            flops += 3 * 2 * adapters * tokens
        if trained != "nothing":
            read += shape.matrices * (weight_bytes + (8 if trained == "all" else 0))
        total += Cost(flops, machine.seconds(flops, read))
    head = linear * 2 * shape.width * shape.vocabulary * rows * labels
    total += Cost(head, machine.seconds(head, 0))
    updated = updated_parameters(shape, trained=trained, adapters=adapters)
    return total + Cost(0, machine.seconds(0, OPTIMIZER_TRAFFIC * updated))


def updated_parameters(shape: Shape, *, trained: Trained, adapters: int) -> int:
    """Return how many parameters the optimizer changes."""
    return {"all": shape.parameters, "lora": adapters, "nothing": 0}[trained]


def activation_bytes(shape: Shape, calls: Sequence[Pass], *, rows: int, labels: float, item_bytes: int) -> float:
    """Return the memory that a batch's forward pass leaves for the backward pass, without checkpointing.

    For each position and block 9 H + 4 MLP widths (two norms with input, normalised and output, query, attention's
    output, residuals; gate, up, activated, product), and for each call the keys and values of all positions that it
    sees: the cache grows by copies. At a half precision also three tensors of logits.
    """
    tokens = sum(call.rows * call.tokens for call in calls)
    seen = sum(call.rows * call.context for call in calls)
    per_block = (9 * shape.width + 4 * shape.mlp_width) * tokens + 2 * shape.kv_width * seen
    logits = 0 if item_bytes == 4 else (2 + 4 + 4) * shape.vocabulary * labels
    return rows * (shape.blocks * per_block * item_bytes + logits)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one machine in training."""

    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations


def training_memory(
    shape: Shape, *, trained: Trained, adapters: int = 0, half: bool, activations: float, spread_over: int = 1
) -> Memory:
    """Return the memory of one training: what is trained is float32, with a copy for half-precision products.

    Args:
        half: the computation is in bfloat16 or float16; frozen weights are held in it.
        spread_over: so many processes that each hold a share of weights, gradients and optimizer (FSDP). Beside it
            each has all weights as it computes with them, gathered once a step, and all gradients as it computes
            them: a weight is used by every call, and its gradient is whole after the backward pass of the first call.
    """
    updated = updated_parameters(shape, trained=trained, adapters=adapters)
    frozen = 0 if trained == "all" else shape.parameters
    item = 2 if half else 4
    if spread_over > 1:
        held = frozen * item + updated * 4
        return Memory(
            weights=held / spread_over + item * (frozen + updated),
            gradients=4 * updated / spread_over + item * updated,
            optimizer=OPTIMIZER_BYTES * updated / spread_over,
            activations=activations,
        )
    return Memory(
        weights=frozen * item + updated * (6 if half else 4),
        gradients=4 * updated,
        optimizer=OPTIMIZER_BYTES * updated,
        activations=activations,
    )
