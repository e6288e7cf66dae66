"""What `lrd env` prints: versions, processor, threads and devices, for a report of a problem."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lrd_peft.runtime.environment import environment


def environment_text() -> str:
    """Return versions, processor, threads and devices, one a line, without names of hosts, users or folders."""
    return "\n".join(f"{name + ':':<14}{value}" for name, value in _facts())


def _facts() -> Iterator[tuple[str, str]]:
    found = environment()
    for name, version in found["packages"].items():
        yield name, version or "not installed"
    yield "python", found["python"]
    yield "platform", found["platform"]
    yield "processor", f"{found['processor']}, {found['num_cores']} cores"
    yield "threads", f"{torch.get_num_threads()} (OMP_NUM_THREADS: {found['num_threads'] or 'not set'})"
    yield "BLAS", _blas()
    yield "devices", ", ".join(_devices())
    if found["commit"]:
        yield "commit", found["commit"] + (" (modified)" if found["modified"] else "")


def _blas() -> str:
    if torch.backends.mkl.is_available():
        return "MKL"
    return "OpenBLAS" if "OpenBLAS" in torch.__config__.show() else "other"


def _devices() -> Iterator[str]:
    yield "cpu"
    for index in range(torch.cuda.device_count()):
        yield f"cuda:{index} ({torch.cuda.get_device_name(index)}, CUDA {torch.version.cuda})"
    if torch.backends.mps.is_available():
        yield "mps"
