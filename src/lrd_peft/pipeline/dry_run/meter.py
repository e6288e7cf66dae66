"""Counts the work of model calls on torch's meta device: operations, time on an accelerator, activations.

All blocks of a decoder do the same work, so a model with one block is measured, and what happens inside the block
counts once for every block of the real model. Operations are those of torch's own formulas
(`torch.utils.flop_counter`): matrix products and attention, a multiplication and an addition being two operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental import _config as fx_config
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker
from transformers import AttentionInterface

from lrd_peft.model.loop import unwrap
from lrd_peft.model.pruning import find_blocks
from lrd_peft.runtime.errors import UserError

ATTENTION = "counted"
"""Name of the attention that meta models use: flash attention, which keeps no attention matrix."""

# AdamW in float32 reads the weight, its gradient and two moments, and writes three of them.
_OPTIMIZER_TRAFFIC_BYTES = 28


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One accelerator by its data sheet, and the share of its peak rates that a run is assumed to reach.

    Attributes:
        name: Name of the device class.
        flops_per_second: Peak rate of dense BF16 matrix products.
        bytes_per_second: Memory bandwidth.
        utilization: Assumed share of both rates.
    """

    name: str
    flops_per_second: float
    bytes_per_second: float
    utilization: float

    def seconds(self, operations: float, num_bytes: float) -> float:
        """Return the time of work that is bound by arithmetic or by memory, whichever is slower."""
        return max(operations / self.flops_per_second, num_bytes / self.bytes_per_second) / self.utilization


# NVIDIA's data sheet of the H100 SXM: 989 TFLOP/s (BF16 without sparsity), 3.35 TB/s. 40% is an assumption.
H100 = Accelerator("H100", 989e12, 3.35e12, 0.4)


@dataclass(frozen=True, slots=True)
class Work:
    """Work of model calls.

    Attributes:
        operations: Floating-point operations.
        seconds: Estimated time on one `H100`.
    """

    operations: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.operations + other.operations, self.seconds + other.seconds)

    def __mul__(self, times: float) -> Work:
        return Work(self.operations * times, self.seconds * times)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one batch takes.

    Attributes:
        work: Forward pass, and backward pass with the optimizer's update if the batch is trained on.
        activation_bytes: Memory that the forward pass leaves for the backward pass.
    """

    work: Work
    activation_bytes: float = 0.0


class UncountableError(Exception):
    """The work of an architecture cannot be counted on the meta device; the message says why."""


def measure(
    model: nn.Module, call: Callable[[], Tensor | None], *, num_blocks: int, num_trained: int = 0
) -> Measurement:
    """Measure a call of a one-block model on the meta device.

    All rows of the batch must have the same length: masks are taken to hold everywhere.

    Args:
        model: ThinkingModel with one block, on the meta device.
        call: Runs the model; returns a loss to run the backward pass from, or None.
        num_blocks: Number of blocks of the real model.
        num_trained: Parameters that the optimizer updates after the backward pass.

    Returns:
        The work and the activations of the real model.

    Raises:
        UncountableError: If the architecture cannot run without values.
    """
    try:
        meter = _Meter(model, num_blocks)
        with meter.running():
            with torch.autograd.graph.saved_tensors_hooks(meter.keep, lambda tensor: tensor):
                loss = call()
            if loss is not None:
                loss.backward()
    except (
        NotImplementedError,
        RuntimeError,
        UserError,
    ) as error:  # an operation that needs values, such as expert routing
        raise UncountableError((str(error).strip().splitlines() or [type(error).__name__])[0]) from error
    for parameter in model.parameters():
        parameter.grad = None
    update = Work(0, H100.seconds(0, _OPTIMIZER_TRAFFIC_BYTES * num_trained))
    return Measurement(meter.work + update, meter.activation_bytes)


class _Meter(TorchDispatchMode):
    """Sees every operation of torch, forward and backward."""

    def __init__(self, model: nn.Module, num_blocks: int) -> None:
        super().__init__()
        lm = unwrap(getattr(model, "lm", model))
        (block,) = find_blocks(lm)
        path = next(name for name, module in lm.named_modules() if module is block)
        self._block_suffix = "." + ".".join(path.split(".")[-2:])
        self._num_blocks = num_blocks
        self._modules = ModuleTracker()
        self._weights = {_storage_key(parameter) for parameter in model.parameters()}
        self._kept: dict[int, Any] = {}  # holds the storages, so that no other takes the place of one
        self.work = Work()
        self.activation_bytes = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count everything within this context."""
        config: Any = fx_config
        with config.patch(meta_nonzero_assume_all_nonzero=True), self._modules, self:
            yield

    def keep(self, tensor: Tensor) -> Tensor:
        """Count a tensor that autograd saves, each storage once and weights never."""
        storage = tensor.untyped_storage()
        if (key := storage._cdata) not in self._weights and key not in self._kept:
            self._kept[key] = storage
            self.activation_bytes += storage.nbytes() * self._times()
        return tensor

    def _times(self) -> int:
        in_block = any(name.endswith(self._block_suffix) for name in self._modules.parents)
        return self._num_blocks if in_block else 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1  # "is the mask 1 everywhere?"
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            operations = formula(*args, **kwargs, out_val=out)
            num_bytes = sum(leaf.nbytes for leaf in tree_leaves((args, out)) if isinstance(leaf, Tensor))
            self.work += Work(operations, H100.seconds(operations, num_bytes)) * self._times()
        return out


def _storage_key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _flash_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, None]:
    """Attend as flash attention does: query [B, A, Q, D], key and value [B, A_kv, T, D] -> [B, Q, A, D]."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    found = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, query.shape[2] > 1)
    return found[0].transpose(1, 2), None


AttentionInterface.register(ATTENTION, _flash_attention)
