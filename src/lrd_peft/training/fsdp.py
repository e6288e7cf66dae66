"""Sharded training (FSDP2): each process holds a shard of the weights while a model is trained.

    unit        parameters that it gathers                          gathered at the start of    gradients
    block       its own                                             each call of the block      reduced to shards after
    model       embeddings, final norm, head, thought projection    the model's call            the last use

The thinking loop calls each block many times per forward pass, and uses embeddings and head outside their modules. Both
happen inside the model's own call, while the model's unit is gathered. The code calls torch's `fully_shard` directly,
because accelerate's preparation supports GPUs only and cannot be tested on a CPU (docs/log.md). Imports are local,
because the oldest supported torch lacks FSDP2.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lrd_peft.model.loop import unwrap
from lrd_peft.model.pruning import find_blocks
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.runtime.processes import is_sharded, keeps_gathered, num_processes

Model = TypeVar("Model", bound=ThinkingModel)


@contextlib.contextmanager
def views_allowed() -> Iterator[None]:
    """Silence the warning about views returned by a module; none is modified in place here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module", category=UserWarning)
        yield


def shard(model: Model, device: torch.device, *, half: bool) -> Model:
    """Return a copy of a model that is sharded over the processes, and empty the model's own trainable tensors.

    All processes must hold the same weights. `put_together` restores the model.

    Args:
        model: Model to shard; modified in place.
        device: Device of this process.
        half: Gather weights in bfloat16. Gradients are reduced and weights are updated in float32.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    model.to("cpu")
    memory: dict[int, Any] = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in model.parameters()}
    copied = copy.deepcopy(model, memory)  # shares storage with the model
    del memory
    mesh = init_device_mesh(device.type, (num_processes(),))
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if half:
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    # Each thought uses every block. Gathering a block each time saves memory and costs communication.
    options: dict[str, Any] = {"mesh": mesh, "mp_policy": policy, "reshard_after_forward": not keeps_gathered()}
    parts = [copied.lm] if copied.step_decoder is None else [copied.lm, copied.step_decoder.lm]
    for block in (block for part in parts for block in find_blocks(unwrap(part))):
        fully_shard(block, **options)
    sharded: Any = fully_shard(copied, **{**options, "reshard_after_forward": False})
    sharded.set_reshard_after_backward(not keeps_gathered())
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.new_empty(0)
    return sharded


def release(model: nn.Module) -> None:
    """Free gathered weights after a backward pass, so that this process holds only its shards."""
    if is_sharded():
        from torch.distributed.fsdp import FSDPModule

        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def _is_part(value: Tensor) -> bool:
    if not is_sharded():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor)


def whole(value: Any) -> Tensor:
    """Gather a sharded tensor in every process; return any other tensor unchanged."""
    return value.full_tensor() if _is_part(value) else value


def own_part(value: Any) -> Tensor:
    """Return this process's shard of a tensor; any other tensor unchanged."""
    return value.to_local() if _is_part(value) else value


def like(value: Tensor, parameter: Any) -> Tensor:
    """Shard a tensor, of which every process holds a copy, the way a parameter of its shape is sharded."""
    if not _is_part(parameter):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def put_together(sharded: nn.Module, model: nn.Module) -> None:
    """Gather the trained tensors of a sharded copy into the original model, in every process."""
    for (name, part), (own_name, own) in zip(sharded.named_parameters(), model.named_parameters(), strict=True):
        assert name == own_name
        if own.requires_grad:
            own.data = whole(part.detach())


def whole_optimizer_state(optimizer: Any) -> dict[str, Any]:
    """Return the state of a sharded optimizer, gathered on the CPU and equal to that of a single process."""
    state = optimizer.state_dict()
    values = {
        index: {name: whole(value).cpu() if torch.is_tensor(value) else value for name, value in of_one.items()}
        for index, of_one in state["state"].items()
    }
    return {**state, "state": values}


def load_whole_optimizer_state(optimizer: Any, state: dict[str, Any]) -> None:
    """Load this process's part of a state from `whole_optimizer_state` into a sharded optimizer."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    indices = [index for group in state["param_groups"] for index in group["params"]]
    values = {
        index: {
            name: like(value, parameter) if torch.is_tensor(value) and value.shape == parameter.shape else value
            for name, value in state["state"][index].items()
        }
        for index, parameter in zip(indices, parameters, strict=True)
        if index in state["state"]
    }
    optimizer.load_state_dict({**state, "state": values})
