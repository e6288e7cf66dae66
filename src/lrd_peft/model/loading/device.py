"""Check that this machine has the device that the user asked for."""

from __future__ import annotations

from lrd_peft.runtime.errors import UserError


def require_device(name: str | None) -> None:
    """Check a device before any work begins.

    Args:
        name: Device as torch names it ("cpu", "cuda", "cuda:1", "mps"), or None for the default.

    Raises:
        UserError: If torch does not know the device, or this machine does not have it.

    Example:
        >>> from lrd_peft.model.loading.device import require_device
        >>> require_device("cpu")
    """
    if name is None:
        return
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f'cannot use device "{name}": {str(error).splitlines()[0]}') from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise UserError(
                f'device is "{name}", but torch {torch.__version__} finds no CUDA GPU; use --device cpu, or install '
                "a CUDA build of torch and a driver for it"
            )
        if device.index is not None and device.index >= count:
            raise UserError(f'device is "{name}", but this machine has {count} CUDA GPUs, numbered from 0')
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f'device is "{name}", but torch finds no Metal GPU; use --device cpu')
    elif device.type != "cpu":
        try:
            torch.empty(1, device=device)
        except (RuntimeError, NotImplementedError, AssertionError) as error:
            raise UserError(f'cannot use device "{name}": {str(error).splitlines()[0]}') from error
