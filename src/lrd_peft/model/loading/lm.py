"""Load a causal language model and its tokenizer by name.

Names:
    hub id            "HuggingFaceTB/SmolLM2-135M-Instruct"; needs the network or the local hub cache
    folder            in the transformers layout, weights as safetensors only
    smollm2           SmolLM2-135M-Instruct, converted from GGUF by `python -m tools.convert_gguf smollm2`
    tiny-teacher, tiny-student    embedded models
    teacher:N         N blocks of the teacher (see pruning.py)
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrd_peft.config.choices import Dtype, Quantization, check_choice
from lrd_peft.model.inspection import block_count
from lrd_peft.model.loading.device import require_device
from lrd_peft.model.loading.published import PUBLISHED, published_config
from lrd_peft.model.loading.sources import Source, check_folder, find_source
from lrd_peft.model.pruning import kept_blocks, prune_config, prune_depth
from lrd_peft.runtime.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_DTYPE_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_TEACHER_PREFIX = "teacher:"


@dataclass(frozen=True, slots=True)
class LoadedLM:
    """A model ready for use, in evaluation mode.

    Attributes:
        lm: Causal language model.
        tokenizer: Its tokenizer, always with a pad token.
        source: Where the model came from and what was done to it, in words.
        kept_blocks: Blocks (from 0) that depth pruning kept; None if it dropped none.
        notes: Choices made at load that a user should know.
    """

    lm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    kept_blocks: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()


def load_lm(
    name: str,
    *,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    quantization: str | None = None,
    keep_blocks: str | Sequence[int] | None = None,
    teacher: str | None = None,
    attn_implementation: str | None = None,
) -> LoadedLM:
    """Load a causal language model and its tokenizer.

    Args:
        name: Name of the model; see the module's docstring.
        dtype: float32, bfloat16 or float16, whatever the file holds.
        device: Where to put the model. None leaves it on the CPU (with quantization: the first GPU if there is one).
        revision: Branch, tag or commit of a hub model.
        trust_remote_code: Run Python code that comes with the model.
        quantization: "4bit" or "8bit" through bitsandbytes, or None.
        keep_blocks: For teacher:N, how to choose the blocks ("spread" if None; see pruning.py) or their N indices. For
            other models, the indices of the blocks to keep, or None for all.
        teacher: Model that "teacher:N" refers to.
        attn_implementation: Attention implementation by its name in transformers; None for the default.

    Returns:
        The model and its tokenizer.

    Raises:
        UserError: If the model cannot be found or loaded, or an option does not fit.
    """
    require_device(None if device is None else str(device))
    keep, base = _parse(name, teacher=teacher)
    torch_dtype = _dtype(dtype)
    options: dict[str, Any] = {"dtype": torch_dtype, "trust_remote_code": trust_remote_code}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    if quantization is not None:
        options |= _quantized(quantization, dtype=torch_dtype, device=device)
    source = find_source(base, revision=revision)
    if not source.on_hub:
        check_folder(Path(source.location), name=base)

    options |= source.options(revision)
    lm = _read_weights(source, name=base, options=options)
    tokenizer, notes = _read_tokenizer(source, name=base, revision=revision, remote_code=trust_remote_code)
    check_vocabulary(lm, tokenizer, name=base)
    lm.config.pad_token_id = tokenizer.pad_token_id
    kept = _kept(block_count(lm.config), keep=keep, keep_blocks=keep_blocks)
    description = source.description
    if kept is not None:
        total = block_count(lm.config)
        prune_depth(lm, kept)
        description = f"{len(kept)} of {total} blocks ({', '.join(map(str, kept))}) of {description}"
    if quantization is not None:
        description += f" in {quantization}"
    elif device is not None:
        _move(lm, device=device)
    return LoadedLM(lm, tokenizer, description, kept, notes)


@functools.cache
def _say_published(name: str) -> None:
    """Warn once per process that sizes come from a table; teacher and student are often the same model."""
    logger.warning("%s cannot be reached; using the sizes that its authors published", name)


def load_model_config(
    name: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    keep_blocks: str | Sequence[int] | None = None,
    teacher: str | None = None,
    published: bool = False,
) -> PreTrainedConfig:
    """Load the configuration of a model without its weights.

    Args:
        name: As in `load_lm`.
        revision: As in `load_lm`.
        trust_remote_code: As in `load_lm`.
        keep_blocks: As in `load_lm`.
        teacher: As in `load_lm`.
        published: If the hub cannot be reached, use the published configuration of a few well-known models and log a
            warning.

    Returns:
        The configuration, pruned if blocks are dropped.

    Raises:
        UserError: If the model cannot be found.
    """
    keep, base = _parse(name, teacher=teacher)
    try:
        source = find_source(base, revision=revision)
    except UserError:
        if not (published and base in PUBLISHED):
            raise
        _say_published(base)
        config = published_config(base)
    else:
        config = _read_config(source, name=base, revision=revision, remote_code=trust_remote_code)
    kept = _kept(block_count(config), keep=keep, keep_blocks=keep_blocks)
    return config if kept is None else prune_config(config, kept)


def load_tokenizer(
    name: str, *, revision: str | None = None, trust_remote_code: bool = False, teacher: str | None = None
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model without its weights. Arguments are those of `load_lm`."""
    _, base = _parse(name, teacher=teacher)
    source = find_source(base, revision=revision)
    return _read_tokenizer(source, name=base, revision=revision, remote_code=trust_remote_code)[0]


def _parse(name: str, *, teacher: str | None) -> tuple[int | None, str]:
    """Return the number of blocks to keep (None unless "teacher:N") and the name of the model that has them."""
    if not name.startswith(_TEACHER_PREFIX):
        return None, name
    count = name.removeprefix(_TEACHER_PREFIX)
    if not count.isascii() or not count.isdigit() or int(count) < 1:
        raise UserError(f'"{name}": after "{_TEACHER_PREFIX}" comes the number of blocks, as in teacher:13')
    if teacher is None:
        raise UserError(f'"{name}" keeps blocks of the teacher, and no teacher was named')
    if teacher.startswith(_TEACHER_PREFIX):
        raise UserError(f'the teacher is "{teacher}", which needs a teacher itself; name a model')
    return int(count), teacher


def _kept(total: int, *, keep: int | None, keep_blocks: str | Sequence[int] | None) -> tuple[int, ...] | None:
    if keep is None:
        if isinstance(keep_blocks, str):
            raise UserError(f'keep_blocks is "{keep_blocks}", which gives no number of blocks; use it with teacher:N')
        return None if keep_blocks is None else tuple(keep_blocks)
    if keep_blocks is None or isinstance(keep_blocks, str):
        return kept_blocks(total, keep, how=keep_blocks or "spread")
    if len(keep_blocks) != keep:
        raise UserError(f"teacher:{keep} keeps {keep} blocks, but keep_blocks names {len(keep_blocks)}")
    return tuple(keep_blocks)


def _dtype(name: str | torch.dtype) -> torch.dtype:
    import torch

    short = str(name).removeprefix("torch.")
    full = _DTYPE_NAMES.get(short, short)
    check_choice("dtype", full, Dtype)
    return getattr(torch, full)


def _quantized(how: str, *, dtype: torch.dtype, device: str | torch.device | None) -> dict[str, Any]:
    import torch

    check_choice("quantization", how, Quantization)
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"quantization {how} needs the package bitsandbytes; run: pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    config = (
        BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        if how == "4bit"
        else BitsAndBytesConfig(load_in_8bit=True)
    )
    place = (
        device if device is not None else f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"
    )
    return {"quantization_config": config, "device_map": {"": place}}


def _read_weights(source: Source, *, name: str, options: dict[str, Any]) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    with _explained(name), _quiet(not source.on_hub):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.location, use_safetensors=True, output_loading_info=True, **options
        )
    lm, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        # transformers would fill them with random values.
        raise UserError(
            f'the weights of "{name}" lack {len(missing)} tensors of {type(lm).__name__}, first {missing[0]}'
        )
    return lm


def _read_tokenizer(
    source: Source, *, name: str, revision: str | None, remote_code: bool
) -> tuple[PreTrainedTokenizerBase, tuple[str, ...]]:
    from transformers import AutoTokenizer

    with _explained(name):
        tokenizer = AutoTokenizer.from_pretrained(
            source.location, trust_remote_code=remote_code, **source.options(revision)
        )
    notes = []
    if tokenizer.pad_token_id is None:
        token = tokenizer.eos_token or tokenizer.unk_token
        if token is None:
            raise UserError(
                f'the tokenizer of "{name}" has no pad token, and no end-of-text or unknown token '
                "to replace it; set one in its tokenizer_config.json"
            )
        tokenizer.pad_token = token
        notes.append(f'the tokenizer of "{name}" has no pad token; "{token}" pads instead')
    if tokenizer.eos_token_id is None:
        notes.append(f'the tokenizer of "{name}" has no end-of-text token')
    return tokenizer, tuple(notes)


def _read_config(source: Source, *, name: str, revision: str | None, remote_code: bool) -> PreTrainedConfig:
    from transformers import AutoConfig

    if not source.on_hub:
        check_folder(Path(source.location), name=name, weights=False)
    with _explained(name):
        return AutoConfig.from_pretrained(source.location, trust_remote_code=remote_code, **source.options(revision))


def check_vocabulary(lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, name: str) -> None:
    """Refuse a tokenizer with ids that the model has no embeddings for.

    Args:
        lm: Causal language model.
        tokenizer: Its tokenizer.
        name: Name of the model, for the message.

    Raises:
        UserError: If an id has no embedding.
    """
    embeddings: Any = lm.get_input_embeddings()
    rows = embeddings.num_embeddings
    for what, token_id in (("pad", tokenizer.pad_token_id), ("end-of-text", tokenizer.eos_token_id)):
        if isinstance(token_id, int) and token_id >= rows:
            raise UserError(
                f'the {what} token of the tokenizer of "{name}" has id {token_id} and the model has '
                f"{rows} embeddings: they do not belong together"
            )
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= rows:
        raise UserError(
            f'the tokenizer of "{name}" has ids up to {largest} and the model has {rows} embeddings; use the tokenizer '
            "that the model was trained with, or save the model after model.resize_token_embeddings(len(tokenizer))"
        )


def _move(lm: PreTrainedModel, *, device: str | torch.device) -> None:
    try:
        lm.to(device)  # pyright: ignore[reportArgumentType]
    except (RuntimeError, AssertionError) as error:
        raise UserError(f'cannot use device "{device}": {str(error).splitlines()[0]}') from error


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn the libraries' errors about a model's files into a UserError of one line."""
    from safetensors import SafetensorError

    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        text = str(error).strip() or type(error).__name__
        if "trust_remote_code" in text:
            raise UserError(
                f'"{name}" needs Python code of its own to run; read that code, and if you trust it set '
                "trust_remote_code"
            ) from error
        raise UserError(f'cannot load "{name}": {text.splitlines()[0]}') from error


@contextlib.contextmanager
def _quiet(wanted: bool) -> Iterator[None]:
    """Switch off transformers' progress bars for a moment: local models load before anyone could read one."""
    from transformers.utils import logging as transformers_logging

    if not wanted or not transformers_logging.is_progress_bar_enabled():
        yield
        return
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()
