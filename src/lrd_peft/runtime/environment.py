"""What results may depend on: package versions, processor, memory, commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

_PACKAGES = (
    "lrd-peft",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "safetensors",
    "tokenizers",
    "numpy",
    "math-verify",
)


def portable(value: Any) -> Any:
    """Return a configuration without this machine's folders: an absolute path becomes its last part."""
    if isinstance(value, Mapping):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        if value.startswith(("/", "~")):
            return PurePosixPath(value).name
        if PureWindowsPath(value).drive:
            return PureWindowsPath(value).name
    return value


def environment() -> dict[str, Any]:
    """Return what results may depend on, without names of hosts, users or folders."""
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": versions,
        "processor": _processor(),
        "num_cores": os.cpu_count(),
        "num_threads": os.environ.get("OMP_NUM_THREADS"),
        **_commit(),
    }


def peak_memory_bytes() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    try:
        # Linux: unlike getrusage, not inherited from the process that started this one.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _processor() -> str | None:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or None


def _commit() -> dict[str, Any]:
    """Return the commit of the checkout that contains this file, and whether its files have been modified."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=here.parent, capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    # An installed package may lie inside the checkout of another project.
    if git("ls-files", "--error-unmatch", here.name) is None or (commit := git("rev-parse", "HEAD")) is None:
        return {"commit": None, "modified": None}
    return {"commit": commit, "modified": bool(git("status", "--porcelain", "--untracked-files=no"))}
