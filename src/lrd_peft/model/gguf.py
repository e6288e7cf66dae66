"""A GGUF file becomes a folder of safetensors, once, in a cache. Knows files, not model names.

transformers takes 15 seconds to read a small GGUF and then refuses to save what it read, because it calls the
model quantized. Its weights are float32 by then: they move into a plain model of that shape, which is saved.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrd_peft.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Part of the folder name: raise it when a conversion of the same file would give other bytes.
_FORMAT = 1
_FINGERPRINTED_BYTES = 1 << 20
# float32 takes 32 bits a weight; the smallest common GGUF types take a little more than 3.
_LARGEST_GROWTH = 10


def cache_root() -> Path:
    """Return the cache folder: `$LRD_CACHE`, or `~/.cache/lrd_peft`."""
    chosen = os.environ.get("LRD_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "lrd_peft"


def converted_path(gguf: Path, *, cache: Path | None = None) -> Path:
    """Return the folder that `convert` fills for this file, named after its size and first megabyte."""
    digest = hashlib.sha256(f"{_FORMAT} {gguf.stat().st_size} ".encode())
    with gguf.open("rb") as file:
        digest.update(file.read(_FINGERPRINTED_BYTES))
    return (cache or cache_root()) / "gguf" / f"{gguf.stem}-{digest.hexdigest()[:16]}"


def gguf_config(gguf: Path) -> PreTrainedConfig:
    """Read the configuration of a GGUF file without its weights."""
    from transformers import AutoConfig

    _require_reader()
    with _explained(gguf):
        return _plain(AutoConfig.from_pretrained(str(gguf.parent), gguf_file=gguf.name))


def convert(gguf: Path, *, cache: Path | None = None) -> Path:
    """Return a folder in the transformers layout with the weights (float32) and tokenizer of a GGUF file.

    The folder appears under its name only when it is complete; a second call finds it there. Two processes
    that convert the same file at once do the work twice and do no harm.
    """
    target = converted_path(gguf, cache=cache)
    if target.is_dir():
        return target
    _require_reader()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise UserError(
            f"cannot write the converted weights of {gguf.name} to {target.parent}: {error.strerror}; "
            "set LRD_CACHE to a folder you may write to"
        ) from error
    try:
        _require_space(gguf, folder=work)
        with _explained(gguf):
            _write(gguf, folder=work)
        _publish(work, target=target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _write(gguf: Path, *, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    source: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    # dequantize: with the package `kernels` installed the weights would else stay packed.
    packed = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(_plain(packed.config), dtype=torch.float32)
    plain.load_state_dict(packed.state_dict(), strict=True, assign=True)
    plain.tie_weights()
    plain.generation_config = packed.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _publish(work: Path, *, target: Path) -> None:
    # mkdtemp and safetensors make private files; a cache may be shared.
    for path in work.iterdir():
        path.chmod(0o644)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    work.chmod(0o755)
    try:
        work.rename(target)
    except OSError:
        # Another process was first: its folder holds the same bytes.
        if not target.is_dir():
            raise


def _plain(config: PreTrainedConfig) -> PreTrainedConfig:
    config = copy.deepcopy(config)
    vars(config).pop("quantization_config", None)
    return config


def _require_reader() -> None:
    if importlib.util.find_spec("gguf") is None:
        raise UserError("reading a GGUF file needs the package gguf; run: pip install gguf")


def _require_space(gguf: Path, *, folder: Path) -> None:
    needed, free = gguf.stat().st_size * _LARGEST_GROWTH, shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"converting {gguf.name} may take {needed / 1e9:.1f} GB, and {folder.parent} has only "
            f"{free / 1e9:.1f} GB free; make room, or set LRD_CACHE to a folder on another disk"
        )


@contextlib.contextmanager
def _explained(gguf: Path) -> Iterator[None]:
    """Turn what transformers raises over an unreadable or unsupported file into one message for the user."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        text = str(error).strip() or type(error).__name__
        raise UserError(f"cannot read the model in {gguf}: {text.splitlines()[0]}") from error
