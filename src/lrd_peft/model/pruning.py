"""Depth pruning: keep some blocks of a decoder.

A pruned model is an ordinary one: transformers saves and loads it. Which blocks to drop is an open question, hence four
strategies:

    spread        evenly spaced, first and last kept (DistilBERT, arXiv 1910.01108; "alternate dropping" of
                  arXiv 2004.03844)
    first         the first ones ("top-layer dropping" of arXiv 2004.03844)
    drop-middle   as many at the start as at the end, with a gap between
    drop-deep     the first ones and the last: the gap lies just before the last block (arXiv 2403.17887;
                  ShortGPT, arXiv 2403.03853, finds most of the redundant blocks there too)
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from lrd_peft.config.choices import PruneHow, check_choice
from lrd_peft.model.inspection import block_count, meta_model
from lrd_peft.model.paths import forget_paths
from lrd_peft.runtime.errors import UserError

# Entries of a configuration with one value per block.
_PER_BLOCK_ENTRIES = ("layer_types", "mlp_layer_types", "no_rope_layers")
# Attributes that hold the index of a module's block, which addresses the key-value cache.
_INDEX_ATTRIBUTES = ("layer_idx", "layer_id")


def kept_blocks(total: int, keep: int, *, how: str = "spread") -> tuple[int, ...]:
    """Choose the blocks to keep.

    Args:
        total: Number of blocks.
        keep: Number of blocks to keep.
        how: spread, first, drop-middle or drop-deep.

    Returns:
        Indices of the kept blocks, from 0, ascending.

    Raises:
        UserError: If the numbers do not fit, or the strategy is unknown.
    """
    check_choice("keep_blocks", how, PruneHow)
    if not 1 <= keep <= total:
        raise UserError(f"cannot keep {keep} of {total} blocks; keep between 1 and {total}")
    if how == "first" or keep == 1:
        return tuple(range(keep))
    if how == "spread":
        gaps = keep - 1
        return tuple((2 * index * (total - 1) + gaps) // (2 * gaps) for index in range(keep))
    at_start = (keep + 1) // 2 if how == "drop-middle" else keep - 1
    return (*range(at_start), *range(total - (keep - at_start), total))


def prune_config(config: PreTrainedConfig, kept: Sequence[int]) -> PreTrainedConfig:
    """Return the configuration of the model with only the `kept` blocks, as a copy."""
    total = block_count(config)
    kept = _checked(kept, total=total)
    config = copy.deepcopy(config)
    text_config: Any = config.get_text_config(decoder=True)
    changes = {
        name: [entries[index] for index in kept]
        for name in _PER_BLOCK_ENTRIES
        if isinstance(entries := getattr(text_config, name, None), (list, tuple)) and len(entries) == total
    }
    text_config.num_hidden_layers = len(kept)
    for name, entries in changes.items():
        setattr(text_config, name, entries)
    return config


def prune_depth(lm: PreTrainedModel, kept: Sequence[int]) -> PreTrainedModel:
    """Drop all blocks except the `kept` ones, in place.

    The blocks are renumbered for the key-value cache.

    Args:
        lm: Causal LM to change.
        kept: Indices of the blocks to keep, ascending.

    Returns:
        The same model.

    Raises:
        UserError: If a block's computation depends on its index in a way that a saved configuration cannot restore.
            The model is then unchanged.
    """
    config = lm.config
    kept = _checked(kept, total=block_count(config))
    if config.get_text_config(decoder=True).num_hidden_layers != block_count(config):
        raise UserError(f"the depth of {type(lm).__name__} cannot be pruned: its blocks hold several attention layers")
    pruned_config = prune_config(config, kept)
    blocks = find_blocks(lm)
    _require_same_blocks(lm, blocks, kept=kept, pruned_config=pruned_config)

    chosen = [blocks[index] for index in kept]
    del blocks[len(chosen) :]
    for index, block in enumerate(chosen):
        blocks[index] = block
        for module in block.modules():
            for name in _INDEX_ATTRIBUTES:
                if isinstance(vars(module).get(name), int):
                    setattr(module, name, index)
    # All modules share this configuration object, so it is changed in place.
    text_config, pruned = config.get_text_config(decoder=True), pruned_config.get_text_config(decoder=True)
    vars(text_config).update(vars(pruned))
    forget_paths(lm)
    return lm


def find_blocks(lm: PreTrainedModel) -> nn.ModuleList:
    """Return the decoder's blocks: the outermost ModuleList with as many entries as the configuration has blocks.

    Raises:
        UserError: If there is not exactly one such list.
    """
    total = block_count(lm.config)
    lists = [
        (name.count("."), module)
        for name, module in lm.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == total
    ]
    outermost = [module for depth, module in lists if depth == min(depth for depth, _ in lists)]
    if len(outermost) != 1:
        raise UserError(
            f"{type(lm).__name__} has {len(outermost)} lists of {total} blocks instead of one; "
            "its depth cannot be pruned"
        )
    return outermost[0]


@contextlib.contextmanager
def shallow(lm: PreTrainedModel, *, blocks: int) -> Iterator[list[Tensor]]:
    """Run only the first blocks within this context.

    Args:
        lm: Causal LM; complete again after the context.
        blocks: Number of blocks to run.

    Yields:
        List that receives the output of the last of these blocks at each pass. In transformers' own `hidden_states`
        that output has passed the final norm.

    Raises:
        UserError: If the blocks cannot be identified.
    """
    modules = find_blocks(lm)
    outputs: list[Tensor] = []
    # transformers installs these hooks on first use, when they would miss the blocks that are removed here. Only the
    # innermost model with these blocks gets them: an outer one would install its own beside those that the inner has.
    holders = [module for module in lm.modules() if isinstance(module, PreTrainedModel) and _holds(module, modules)]
    if getattr(holders[-1], "_can_record_outputs", None):
        maybe_install_capturing_hooks(holders[-1])

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    rest = list(modules)[blocks:]
    handle = modules[blocks - 1].register_forward_hook(keep)
    del modules[blocks:]
    try:
        yield outputs
    finally:
        handle.remove()
        modules.extend(rest)


def _holds(module: nn.Module, blocks: nn.ModuleList) -> bool:
    return any(part is blocks for part in module.modules())


def _checked(kept: Sequence[int], *, total: int) -> tuple[int, ...]:
    indices = tuple(kept)
    if not indices or list(indices) != sorted(set(indices)) or indices[0] < 0 or indices[-1] >= total:
        raise UserError(
            f"the kept blocks are {list(indices)}; they must be at least one of 0 to {total - 1}, "
            "each once, in ascending order"
        )
    return indices


def _require_same_blocks(
    lm: PreTrainedModel, blocks: nn.ModuleList, *, kept: tuple[int, ...], pruned_config: PreTrainedConfig
) -> None:
    """Refuse if a model built from the pruned configuration would have other blocks than the kept ones."""
    refusal = f"the depth of {type(lm).__name__} cannot be pruned to the blocks {list(kept)}: "
    try:
        rebuilt = find_blocks(meta_model(pruned_config))
    except (ValueError, KeyError, IndexError) as error:
        raise UserError(refusal + str(error).splitlines()[0]) from error
    for new_index, index in enumerate(kept):
        expected, found = _description(rebuilt[new_index]), _description(blocks[index])
        different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        if different:
            name = different[0]
            raise UserError(
                f"{refusal}{name} of block {index} is {found.get(name)}, "
                f"and would be {expected.get(name)} when loaded as block {new_index}"
            )


def _description(block: nn.Module) -> dict[str, object]:
    """Return a block's parameter names and the plain values of its modules, except index and mode."""
    facts: dict[str, object] = {name: "a parameter" for name, _ in block.named_parameters()}
    ignored = {"training", *_INDEX_ATTRIBUTES}
    for path, module in block.named_modules():
        for name, value in vars(module).items():
            if name not in ignored and not name.startswith("_") and isinstance(value, (bool, int, float, str)):
                facts[f"{path}.{name}"] = value
    return facts
