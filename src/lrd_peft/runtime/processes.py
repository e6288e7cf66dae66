"""The processes of one command: rank, work splitting, barriers, collective calls.

`torchrun` and `accelerate launch` start several processes and tell each its rank in the environment. A command started
without them is one process, for which the functions here do nothing and load neither torch nor accelerate.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lrd_peft.runtime.errors import UserError

if TYPE_CHECKING:
    import torch

LAUNCHERS = Path(__file__).resolve().parents[1] / "recipes" / "accelerate"
"""Folder of the configurations for `accelerate launch`, in a checkout or where the package is installed."""

Item = TypeVar("Item")
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class _Sharding:
    """What `accelerate launch` asks of FSDP."""

    keeps_gathered: bool


_sharding: ContextVar[_Sharding | None] = ContextVar("sharding", default=None)


def num_processes() -> int:
    """Return how many processes run this command together."""
    # A scheduler may set WORLD_SIZE for its own purposes; only a launcher sets LOCAL_RANK.
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def rank() -> int:
    """Return this process's number, from 0."""
    return int(os.environ.get("RANK", "0")) if num_processes() > 1 else 0


def is_main() -> bool:
    """Return whether this process writes what exists once: run folder, models, log, record."""
    return rank() == 0


def share(batches: Sequence[Item]) -> Sequence[Item]:
    """Return this process's part of a plan that is the same in all: every `num_processes()`-th batch."""
    return batches[rank() :: num_processes()]


def on_cpu(device: str | None) -> bool:
    """Return whether a run with this `device` computes on the CPU, as several processes without an accelerator do."""
    if device is not None or num_processes() == 1:
        return device == "cpu"
    import torch

    # torch.accelerator is newer than the oldest supported torch.
    return not getattr(torch, "accelerator", torch.cuda).is_available()


@contextlib.contextmanager
def joined(device: str | None) -> Iterator[None]:
    """Connect the processes, each on its own device, and take over the launcher's request for FSDP for the block.

    The processes stay connected after the block; `leave` disconnects them.

    Args:
        device: the run's device, without an index.

    Raises:
        UserError: if the device names one GPU for all, the processes cannot communicate there, or the launcher asks
            for DeepSpeed or an unsupported FSDP setting.
    """
    if num_processes() == 1:
        yield
        return
    if device is not None and ":" in device:
        kind = device.partition(":")[0]
        raise UserError(f'device is "{device}" for {num_processes()} processes; each takes its own: give "{kind}"')
    if _is_on("ACCELERATE_USE_DEEPSPEED"):
        raise UserError(
            "the launcher asks for DeepSpeed; train a teacher whose optimizer does not fit one GPU with "
            f"{LAUNCHERS / 'fsdp.yaml'}, or with LoRA or QLoRA"
        )
    sharding = _requested_sharding()
    from accelerate import PartialState

    # training/fsdp.py shards; with the variable set, transformers and accelerate would too, when they load and train.
    with _unset("ACCELERATE_USE_FSDP"):
        if PartialState(cpu=on_cpu(device)).num_processes != num_processes():
            raise UserError(
                f"{num_processes()} processes were started, but they cannot work together on this device; "
                "give --device cpu, or start one process"
            )
        token = _sharding.set(sharding)
        try:
            yield
        finally:
            _sharding.reset(token)


@contextlib.contextmanager
def _unset(name: str) -> Iterator[None]:
    """Hide an environment variable during the block."""
    value = os.environ.pop(name, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[name] = value


def _is_on(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("true", "1")


def _requested_sharding() -> _Sharding | None:
    """Return what the launcher asks of FSDP, or None if it does not ask for it."""
    if not _is_on("ACCELERATE_USE_FSDP"):
        return None
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise UserError(
            f"the launcher asks for FSDP with fsdp_version {version}; set it to 2, as {LAUNCHERS / 'fsdp.yaml'} does"
        )
    for name in ("FSDP_OFFLOAD_PARAMS", "FSDP_ACTIVATION_CHECKPOINTING"):
        if _is_on(name):
            # A checkpointed block that runs again would add its keys and values to the cache again.
            raise UserError(f"the launcher asks for {name.lower()}, which does not work with thoughts; set it to false")
    try:
        from torch.distributed.fsdp import fully_shard  # noqa: F401
    except ImportError as error:
        raise UserError("the launcher asks for FSDP, which needs torch 2.6 or later") from error
    return _Sharding(keeps_gathered=os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "").lower() in ("false", "0"))


def is_sharded() -> bool:
    """Return whether weights are sharded over the processes during training (FSDP)."""
    return _sharding.get() is not None


def keeps_gathered() -> bool:
    """Return whether gathered weights stay in memory until the end of an update."""
    sharding = _sharding.get()
    return sharding is not None and sharding.keeps_gathered


def device_of(name: str | None) -> torch.device:
    """Return the device of a run: the named one, or the best available; each process has its own."""
    import torch

    if name is not None and num_processes() == 1:
        return torch.device(name)
    from accelerate import PartialState

    device = PartialState(cpu=on_cpu(name)).device
    assert device is not None
    return torch.device(device)


def wait() -> None:
    """Wait until every process has called this."""
    if num_processes() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def gather(items: list[Item]) -> list[Item]:
    """Return the items of all processes, in the order of their ranks, to each of them."""
    if num_processes() == 1:
        return items
    from accelerate.utils import gather_object

    return gather_object(items)


def on_main(find: Callable[..., Found], *arguments: Any) -> Found:
    """Call `find(*arguments)` in the main process and return its result to each process.

    One process looks at the disk, and all take the same branch afterwards.

    Raises:
        UserError: in each process, if the call raised it in the main one.
    """
    if num_processes() == 1:
        return find(*arguments)
    from accelerate.utils import broadcast_object_list

    said: list[Any] = [None, None]
    if is_main():
        try:
            said[0] = find(*arguments)
        except UserError as error:
            said[1] = error
    broadcast_object_list(said)
    if said[1] is not None:
        raise said[1]
    return said[0]


def highest(number: int) -> int:
    """Return the largest of the processes' numbers."""
    if num_processes() == 1:
        return number
    import torch
    from accelerate import PartialState
    from accelerate.utils import gather as gather_tensors

    numbers: Any = gather_tensors(torch.tensor([number], device=PartialState().device))
    return int(numbers.max())


def leave() -> None:
    """Disconnect the processes at the end of the command."""
    if num_processes() > 1:
        from accelerate import PartialState

        PartialState().destroy_process_group()


def first_to_fail() -> bool:
    """Return whether no other process has failed before; only the first reports its error, the others fail with it."""
    if num_processes() == 1:
        return True
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=5))
        # A launcher that restarts the processes has one store for all attempts.
        return store.add(f"lrd/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1) == 1
    except (KeyError, ValueError, RuntimeError):
        return True  # the store cannot be reached: report twice rather than never
