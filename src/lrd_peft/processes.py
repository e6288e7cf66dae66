"""The processes of one command: which one this is, who takes what, what waits. Knows no models and no files.

`torchrun` and `accelerate launch` start several and tell each its place in the environment; anything started otherwise
is one process, for which nothing here does anything. Torch is loaded only where processes talk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from lrd_peft.errors import UserError

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Found = TypeVar("Found")

# What `accelerate launch` asks of FSDP: set when the processes join.
_sharding: dict[str, bool] = {"asked": False, "keeps_gathered": False}


def num_processes() -> int:
    """Return how many processes work on this command together."""
    # A scheduler may set WORLD_SIZE for its own purposes; only a launcher sets LOCAL_RANK.
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def rank() -> int:
    """Return which of them this is, from 0."""
    return int(os.environ.get("RANK", "0")) if num_processes() > 1 else 0


def is_main() -> bool:
    """Whether this is the process that writes what there is one of: run folder, models, log, record."""
    return rank() == 0


def share(batches: Sequence[Item]) -> Sequence[Item]:
    """Return this process's part of a plan that is the same in all: every `num_processes()`-th."""
    return batches[rank() :: num_processes()]


def on_cpu(device: str | None) -> bool:
    """Whether a run with this `device` computes on the CPU; several processes without an accelerator do."""
    if device is not None or num_processes() == 1:
        return device == "cpu"
    import torch

    # torch.accelerator is younger than the oldest torch that we take.
    return not getattr(torch, "accelerator", torch.cuda).is_available()


def join(device: str | None) -> None:
    """Connect the processes; each computes on its own device.

    Raises:
        UserError: if the device names one GPU for all, the processes cannot work together there, or the launcher asks
            for DeepSpeed, or for something of FSDP that is not done.
    """
    if num_processes() == 1:
        return
    if device is not None and ":" in device:
        kind = device.partition(":")[0]
        raise UserError(f'device is "{device}" for {num_processes()} processes; each takes its own: give "{kind}"')
    if _is_on("ACCELERATE_USE_DEEPSPEED"):
        raise UserError(
            "the launcher asks for DeepSpeed; a teacher whose optimizer does not fit one GPU is trained with "
            "configs/accelerate/fsdp.yaml, or with LoRA or QLoRA"
        )
    _take_up_sharding()
    from accelerate import PartialState

    joined = PartialState(cpu=on_cpu(device)).num_processes
    if joined != num_processes():
        raise UserError(
            f"{num_processes()} processes were started, but they cannot work together on this device; "
            "give --device cpu, or start one process"
        )


def _is_on(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("true", "1")


def _take_up_sharding() -> None:
    """Note that weights are to be spread over the processes in training, and keep accelerate from doing it."""
    if not _is_on("ACCELERATE_USE_FSDP"):
        return
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise UserError(
            f"the launcher asks for FSDP with fsdp_version {version}; give 2, as configs/accelerate/fsdp.yaml"
        )
    for name in ("FSDP_OFFLOAD_PARAMS", "FSDP_ACTIVATION_CHECKPOINTING"):
        if _is_on(name):
            # A checkpointed block that runs again would add its keys and values to the cache again.
            raise UserError(f"the launcher asks for {name.lower()}, which does not go with thoughts; set it to false")
    try:
        from torch.distributed.fsdp import fully_shard  # noqa: F401
    except ImportError as error:
        raise UserError("the launcher asks for FSDP, which needs torch 2.6 or later") from error
    _sharding["asked"] = True
    _sharding["keeps_gathered"] = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "").lower() in ("false", "0")
    del os.environ["ACCELERATE_USE_FSDP"]  # read again by every Accelerator


def is_sharded() -> bool:
    """Whether weights are spread over the processes while they are trained (FSDP)."""
    return _sharding["asked"]


def keeps_gathered() -> bool:
    """Whether gathered weights stay in memory until a training step has ended."""
    return _sharding["keeps_gathered"]


def device_of(name: str | None) -> torch.device:
    """Return the device that a run computes on: the named one, or the best there is, each process's own."""
    import torch

    if name is not None and num_processes() == 1:
        return torch.device(name)
    from accelerate import PartialState

    device = PartialState(cpu=on_cpu(name)).device
    assert device is not None
    return torch.device(device)


def wait() -> None:
    """Go on when every process has come here."""
    if num_processes() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def gather(items: list[Item]) -> list[Item]:
    """Return the items of all processes, in the order of the processes, to each of them."""
    if num_processes() == 1:
        return items
    import torch.distributed as dist

    parts: list[Any] = [None] * num_processes()
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def on_main(find: Callable[..., Found], *arguments: Any) -> Found:
    """Let the main process alone call `find(*arguments)` and return to each process what it found.

    So one process looks at what is on disk, and all go the same way after it.

    Raises:
        UserError: in each process, what the call raised in the main one.
    """
    if num_processes() == 1:
        return find(*arguments)
    import torch.distributed as dist

    said: list[Any] = [None, None]
    if is_main():
        try:
            said[0] = find(*arguments)
        except UserError as error:
            said[1] = error
    dist.broadcast_object_list(said, src=0)
    if said[1] is not None:
        raise said[1]
    return said[0]


def highest(number: int) -> int:
    """Return the highest of the numbers that the processes give."""
    if num_processes() == 1:
        return number
    import torch
    import torch.distributed as dist
    from accelerate import PartialState

    value = torch.tensor(number, device=PartialState().device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return int(value.item())


def leave() -> None:
    """Disconnect, when all is done."""
    if num_processes() > 1:
        from accelerate import PartialState

        PartialState().destroy_process_group()


def first_to_fail() -> bool:
    """Whether no other process has failed before: of several only the first says why, the others fail with it."""
    if num_processes() == 1:
        return True
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=5))
        # A launcher that starts the processes again has one store for all of its attempts.
        return store.add(f"lrd/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1) == 1
    except (KeyError, ValueError, RuntimeError):
        return True  # nobody to ask: better said twice than not at all
