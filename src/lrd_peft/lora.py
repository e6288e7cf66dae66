"""LoRA adapters for a student or a teacher.

W_after = W + (lora_alpha / r) B A,    A [r, in], B [out, r], B = 0 at the start    (LoRA, arXiv 2106.09685, eq. 3)
"""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections.abc import Collection, Sequence
from typing import Any, TypeVar

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lrd_peft.model.loop import unwrap
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.model.twin import build_twin
from lrd_peft.runtime.errors import UserError, nearest

Model = TypeVar("Model", bound=ThinkingModel)

logger = logging.getLogger(__name__)

ALL_LINEAR = "all-linear"
_WORTH_SAYING = 0.01  # share of weights without an adapter
# Modules that PEFT has LoRA layers for; quantized linear layers have "Linear" in the name of their class.
_ADAPTABLE = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention, Conv1D)


def lora_config(
    lm: nn.Module,
    *,
    r: int = 16,
    lora_alpha: float = 32,
    lora_dropout: float = 0.0,
    target_modules: str | Sequence[str] = ALL_LINEAR,
    new_token_ids: Sequence[int] = (),
) -> LoraConfig:
    """Build PEFT's configuration for a causal LM without adapters.

    Args:
        lm: Causal LM; its weights are not used.
        r: Rank, at least 1.
        lora_alpha: Scale of the update, as lora_alpha / r.
        lora_dropout: Dropout in front of A, from 0 to 1.
        target_modules: Modules to adapt: a name, a list of names, a regular expression that matches whole paths, or
            "all-linear" for every linear layer except the head.
        new_token_ids: Ids whose embeddings are trained as well.

    Returns:
        The configuration.

    Raises:
        UserError: If the rank is below 1, or a target does not exist or cannot be adapted.
    """
    if r < 1:
        raise UserError(f"lora_r is {r}; the rank must be at least 1")
    config = LoraConfig(
        r=r,
        lora_alpha=lora_alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=lora_dropout,
        target_modules=target_modules if isinstance(target_modules, str) else list(target_modules),
    )
    return _completed(lm, config, new_token_ids=new_token_ids)


def _completed(lm: nn.Module, config: LoraConfig, *, new_token_ids: Sequence[int]) -> LoraConfig:
    """Return a copy of a configuration with what follows from the model; check its targets."""
    config = copy.deepcopy(config)
    targets = config.target_modules
    if targets is not None:
        targets = _as_expression(targets)
        if isinstance(targets, str) and targets != ALL_LINEAR and re.fullmatch(r"\w+", targets):
            targets = [targets]  # PEFT would match a plain name against whole paths
        config.target_modules = targets if isinstance(targets, str) else sorted(targets)
        check_targets(lm, config.target_modules)
    if any(isinstance(module, Conv1D) for module in lm.modules()):
        config.fan_in_fan_out = True
    config.task_type = "CAUSAL_LM"
    if config.trainable_token_indices is None and not config.modules_to_save:
        # Otherwise new marker tokens would stay at their initial embeddings.
        config.trainable_token_indices = list(new_token_ids) or None
    return config


def check_targets(lm: nn.Module, target_modules: str | Collection[str]) -> None:
    """Check that target modules exist and can be adapted.

    Args:
        lm: Causal LM without adapters; its weights are not used.
        target_modules: As in `create_lora_model`.

    Raises:
        UserError: If one does not exist, or PEFT has no LoRA layer for it.
    """
    target_modules = _as_expression(target_modules)
    if target_modules == ALL_LINEAR:
        return
    modules = {path: module for path, module in lm.named_modules() if path}
    is_expression = isinstance(target_modules, str) and not re.fullmatch(r"\w+", target_modules)
    names = [target_modules] if isinstance(target_modules, str) else list(target_modules)
    chosen: dict[str, nn.Module] = {}
    missing = []
    for name in names:
        if is_expression:
            found = {path: module for path, module in modules.items() if _matches(name, path)}
        else:
            found = {path: module for path, module in modules.items() if path == name or path.endswith("." + name)}
        chosen |= found
        if not found:
            missing.append(name)
    if missing:
        known = sorted({path.rsplit(".", 1)[-1] for path, module in modules.items() if _is_adaptable(module)})
        asked = ", ".join(missing)
        raise UserError(
            f"lora_targets has {asked}, which this model lacks.{nearest(asked, known)} Its modules are "
            f'{", ".join(known)}; "{ALL_LINEAR}" is every linear layer except the head'
        )
    for path, module in chosen.items():
        if not _is_adaptable(module):
            raise UserError(
                f"lora_targets chooses {path}, a {type(module).__name__}, for which PEFT has no LoRA layer; leave it "
                "out, or train it whole with LoraConfig(modules_to_save=[...])"
            )


def _as_expression(target_modules: str | Collection[str]) -> str | Collection[str]:
    """Return the only element of a list if it is no name: a command line and a file have it as a list."""
    if not isinstance(target_modules, str) and len(target_modules) == 1:
        [only] = target_modules
        return target_modules if re.fullmatch(r"[\w.]+", only) else only
    return target_modules


def _matches(expression: str, path: str) -> bool:
    try:
        return re.fullmatch(expression, path) is not None
    except re.error as error:
        raise UserError(f'lora_targets is "{expression}", which is not a regular expression: {error}') from error


def _is_adaptable(module: nn.Module) -> bool:
    return isinstance(module, _ADAPTABLE) or "Linear" in type(module).__name__


def create_lora_model(
    student: Model,
    r: int | None = None,
    lora_alpha: float | None = None,
    *,
    lora_dropout: float | None = None,
    target_modules: str | Sequence[str] | None = None,
    train_markers: bool = True,
    peft_config: PeftConfig | None = None,
) -> Model:
    """Freeze a model's weights and add trainable LoRA adapters.

    The model itself is changed and returned. Its projection and projectors stay trainable, and so do the embeddings
    of new marker tokens.

    Args:
        student: Student or teacher without adapters.
        r: Rank, at least 1; 16 by default.
        lora_alpha: Scale of the update, as lora_alpha / r; 32 by default.
        lora_dropout: Dropout in front of the adapters, from 0 to 1; 0 by default.
        target_modules: Modules to adapt: a name, a list of names, a regular expression that matches whole paths, or
            "all-linear" (the default) for every linear layer except the head.
        train_markers: Train the embeddings of new marker tokens too.
        peft_config: PEFT's own configuration, for DoRA, rsLoRA, modules_to_save and the like. It replaces the other
            arguments; one given with it must have the same value.

    Returns:
        The same model.

    Raises:
        UserError: If the model has adapters already, or an argument does not fit.

    Example:
        >>> from peft import LoraConfig
        >>> from lrd_peft import StudentModel, create_lora_model
        >>> student = create_lora_model(StudentModel("tiny-student"), r=16, lora_alpha=32)
        >>> dora = LoraConfig(r=4, use_dora=True, target_modules=["q_proj", "v_proj"])
        >>> student = create_lora_model(StudentModel("tiny-student"), peft_config=dora)
        >>> student.has_adapters
        True
    """
    if isinstance(student.lm, PeftModel):
        raise UserError("this model has LoRA adapters already; create_lora_model takes a model without adapters")
    lm = unwrap(student.lm)
    arguments = {"r": r, "lora_alpha": lora_alpha, "lora_dropout": lora_dropout, "target_modules": target_modules}
    given: dict[str, Any] = {name: value for name, value in arguments.items() if value is not None}
    new_token_ids = student.new_token_ids if train_markers else ()
    if peft_config is None:
        config = lora_config(lm, **given, new_token_ids=new_token_ids)
    else:
        if not isinstance(peft_config, LoraConfig):
            raise UserError(f"peft_config is a {type(peft_config).__name__}; only LoraConfig is supported")
        for name, value in given.items():
            own = getattr(peft_config, name)
            same = value == own or (not isinstance(value, (int, float, str)) and set(value) == own)
            if not same:
                raise UserError(f"{name} is {value}, but peft_config has {own}; give one of the two")
        config = _completed(lm, peft_config, new_token_ids=new_token_ids)
    student.lm = _with_adapters(lm, config)
    if config.target_modules == ALL_LINEAR or given.get("target_modules", ALL_LINEAR) == ALL_LINEAR:
        for line in describe_uncovered(student.lm):
            logger.warning(line)
    return student


def _with_adapters(lm: PreTrainedModel, config: LoraConfig) -> nn.Module:
    try:
        with warnings.catch_warnings():
            # PEFT adds patterns for the experts of some architectures and then finds that they match nothing.
            warnings.filterwarnings("ignore", message=".*keys did not match any targeted module.*")
            return get_peft_model(lm, config)
    except (ValueError, TypeError, NotImplementedError, AttributeError) as error:
        raise UserError(f"PEFT refuses these adapters: {' '.join(str(error).split())}") from error


def check_adapters(lm: PreTrainedModel, **options: Any) -> None:
    """Check that a model takes adapters and still runs, on a tiny twin of it (see model/twin.py).

    Args:
        lm: Causal LM without adapters; its weights are not used and may be on the meta device.
        options: Arguments of `lora_config`.

    Raises:
        UserError: If PEFT refuses the adapters, or the model with them does not run.
    """
    check_targets(lm, options.get("target_modules", ALL_LINEAR))
    twin = build_twin(type(lm), lm.config)
    if twin is None:
        return
    adapted = _with_adapters(twin, lora_config(twin, **options)).train()
    ids = torch.tensor([[3, 4, 5]])
    try:
        adapted(input_ids=ids, use_cache=False).logits.float().sum().backward()
    except Exception as error:  # a module may fail in any way under an adapter that it was not written for
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f'a model of type "{lm.config.model_type}" does not run with these adapters ({reason}); choose others with '
            "lora_targets, for example its attention projections"
        ) from error


def describe_uncovered(lm: nn.Module) -> list[str]:
    """Say which weight matrices of the blocks have no adapter: experts are parameters, not linear layers.

    Args:
        lm: PEFT model.

    Returns:
        One line, or none if every matrix but embeddings, head and convolutions has an adapter.
    """
    kinds = (nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    head: Any = unwrap(lm).get_output_embeddings()
    left_out = {id(p) for module in lm.modules() if isinstance(module, kinds) for p in module.parameters(recurse=False)}
    left_out |= set() if head is None else {id(p) for p in head.parameters()}
    matrices = [(name, p) for name, p in lm.named_parameters() if p.dim() >= 2 and "lora_" not in name]
    matrices = [(name, p) for name, p in matrices if id(p) not in left_out]
    bare = [(name, p.numel()) for name, p in matrices if "base_layer" not in name]
    total = sum(p.numel() for _, p in matrices)
    share = sum(size for _, size in bare) / max(1, total)
    if share < _WORTH_SAYING:
        return []
    names = sorted({".".join(part for part in name.split(".")[-4:] if not part.isdecimal()) for name, _ in bare})
    return [
        f"{share:.0%} of the weights in the blocks get no adapter ({', '.join(names)}): they are no linear layers of "
        "their own, or PEFT leaves them out; LoraConfig(target_parameters=[...]) adapts experts"
    ]
