"""Weights spread over processes (FSDP2): shards of a model while it is trained, the whole of it before and after.

    unit            the parameters that it gathers        when a call begins        its gradients
    each block      its own                               of the block              reduced to shards when the last
    the model       embeddings, last norm, head, ours     of the whole thinking     use of a parameter is behind

The thinking loop calls each block many times in one forward pass, and looks into embeddings and head from outside of
their modules; both happen within the model's own call, in which its unit is whole. torch's `fully_shard` is used
directly: accelerate has its FSDP on GPUs alone, and a model that can be tried nowhere else would not be tested. The
oldest torch that we take has none of it, so it is loaded where it is asked for.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lrd_peft.model.prune import find_blocks
from lrd_peft.model.thinking import unwrap
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.processes import is_sharded, keeps_gathered, num_processes

Model = TypeVar("Model", bound=ThinkingModel)


def shard(model: Model, device: torch.device, *, half: bool) -> Model:
    """Return a copy of a model that is spread over the processes; the model itself gives up what is trained.

    All processes must hold the same weights. `put_together` makes the model whole again.

    Args:
        device: where this process computes.
        half: gather weights in bfloat16; gradients are still added up, and weights changed, in float32.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    # A pass over no padded row returns views, which nothing changes in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module", category=UserWarning)
    model.to("cpu")
    memory: dict[int, Any] = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in model.parameters()}
    copied = copy.deepcopy(model, memory)  # the same storages: no moment with two models in memory
    del memory
    mesh = init_device_mesh(device.type, (num_processes(),))
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if half:
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    # A block is used once for each thought; gathered anew each time it costs little memory and much traffic.
    options: dict[str, Any] = {"mesh": mesh, "mp_policy": policy, "reshard_after_forward": not keeps_gathered()}
    for block in find_blocks(unwrap(copied.lm)):
        fully_shard(block, **options)
    sharded: Any = fully_shard(copied, **{**options, "reshard_after_forward": False})
    sharded.set_reshard_after_backward(not keeps_gathered())
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.new_empty(0)
    return sharded


def release(model: nn.Module) -> None:
    """Leave this process nothing but its shards, after a forward and a backward pass."""
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
    """Return a tensor of which each process holds a shard, to each of them; any other as it is."""
    return value.full_tensor() if _is_part(value) else value


def own_part(value: Any) -> Tensor:
    """Return what this process holds of a tensor."""
    return value.to_local() if _is_part(value) else value


def like(value: Tensor, parameter: Any) -> Tensor:
    """Return a whole tensor, which every process has, as it is spread like a parameter of its shape."""
    if not _is_part(parameter):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def put_together(sharded: nn.Module, model: nn.Module) -> None:
    """Give a model that `shard` spread what was trained of it, whole, in every process."""
    for (name, part), (own_name, own) in zip(sharded.named_parameters(), model.named_parameters(), strict=True):
        assert name == own_name
        if own.requires_grad:
            own.data = whole(part.detach())


def whole_optimizer_state(optimizer: Any) -> dict[str, Any]:
    """Return the state of an optimizer of shards as that of one process has it, on the CPU."""
    state = optimizer.state_dict()
    values = {
        index: {name: whole(value).cpu() if torch.is_tensor(value) else value for name, value in of_one.items()}
        for index, of_one in state["state"].items()
    }
    return {**state, "state": values}


def load_whole_optimizer_state(optimizer: Any, state: dict[str, Any]) -> None:
    """Give an optimizer of shards its part of a state that `whole_optimizer_state` returned."""
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
