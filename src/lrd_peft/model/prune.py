"""Depth pruning: a decoder of which only some blocks are kept. Knows blocks, not where models come from.

A pruned model is an ordinary one: saved with `save_pretrained` it is loaded by transformers as it stands.
Which blocks to drop is an open question, hence four ways:

    spread        evenly spaced, first and last kept (DistilBERT, arXiv 1910.01108; "alternate dropping" of
                  arXiv 2004.03844)
    first         the first ones ("top-layer dropping" of arXiv 2004.03844)
    drop-middle   as many at the start as at the end, a gap between
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

from lrd_peft.errors import UserError, nearest
from lrd_peft.model.facts import block_count, meta_model

WAYS = ("spread", "first", "drop-middle", "drop-deep")

# Entries of a configuration that hold one value for each block.
_PER_BLOCK_ENTRIES = ("layer_types", "mlp_layer_types", "no_rope_layers")
# Attributes of a block's modules that hold the block's own index: the key-value cache is addressed by it.
_INDEX_ATTRIBUTES = ("layer_idx", "layer_id")


def kept_blocks(total: int, keep: int, *, how: str = "spread") -> tuple[int, ...]:
    """Return the indices (from 0) of the `keep` blocks that stay out of `total`."""
    if how not in WAYS:
        raise UserError(f'"{how}" is no way to choose blocks; the ways are {", ".join(WAYS)}.{nearest(how, WAYS)}')
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
    """Return the configuration of the model with only the `kept` blocks; the argument is left alone."""
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
    """Drop all blocks but the `kept` ones, in place, and return the same model.

    The blocks are renumbered for the key-value cache. Refused, before anything is changed, for architectures
    where a block's work depends on its index in a way that a saved configuration could not restore.
    """
    config = lm.config
    kept = _checked(kept, total=block_count(config))
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
    # The modules share this one configuration object, so it is changed rather than replaced.
    text_config, pruned = config.get_text_config(decoder=True), pruned_config.get_text_config(decoder=True)
    vars(text_config).update(vars(pruned))
    return lm


def find_blocks(lm: PreTrainedModel) -> nn.ModuleList:
    """Return the list of the decoder's blocks: the outermost ModuleList as long as the configuration says."""
    total = block_count(lm.config)
    lists = [
        (name.count("."), module)
        for name, module in lm.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == total
    ]
    outermost = [module for depth, module in lists if depth == min(depth for depth, _ in lists)]
    if len(outermost) != 1:
        raise UserError(
            f"{type(lm).__name__} has {len(outermost)} lists of {total} blocks where one is expected; "
            "its depth cannot be pruned"
        )
    return outermost[0]


@contextlib.contextmanager
def shallow(lm: PreTrainedModel, *, blocks: int) -> Iterator[list[Tensor]]:
    """Run only the first blocks within this context; the list receives the output of the last of them at each pass.

    transformers' own `hidden_states` show the last block that ran after the final norm, hence the list.

    Raises:
        UserError: if it cannot be told which of the modules are the blocks.
    """
    modules = find_blocks(lm)
    outputs: list[Tensor] = []
    if isinstance(lm.base_model, PreTrainedModel) and getattr(lm.base_model, "_can_record_outputs", None):
        # transformers does this when hidden states are first asked for, and would miss the blocks that are away then
        maybe_install_capturing_hooks(lm.base_model)

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


def _checked(kept: Sequence[int], *, total: int) -> tuple[int, ...]:
    indices = tuple(kept)
    if not indices or list(indices) != sorted(set(indices)) or indices[0] < 0 or indices[-1] >= total:
        raise UserError(
            f"the kept blocks are {list(indices)}; they must be at least one of 0 to {total - 1}, "
            "each once, in rising order"
        )
    return indices


def _require_same_blocks(
    lm: PreTrainedModel, blocks: nn.ModuleList, *, kept: tuple[int, ...], pruned_config: PreTrainedConfig
) -> None:
    """Refuse when a model built from the pruned configuration would have other blocks than those kept."""
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
    """Return a block's parameter names and all plain values that its modules hold, but for index and mode."""
    facts: dict[str, object] = {name: "a parameter" for name, _ in block.named_parameters()}
    ignored = {"training", *_INDEX_ATTRIBUTES}
    for path, module in block.named_modules():
        for name, value in vars(module).items():
            if name not in ignored and not name.startswith("_") and isinstance(value, (bool, int, float, str)):
                facts[f"{path}.{name}"] = value
    return facts
