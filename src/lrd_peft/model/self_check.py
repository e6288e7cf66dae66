"""A short check of a model before it is used: does each fast way give the numbers of the plain definition?

The plain definition of thinking (no cache, no batch, the whole sequence again for each thought) is compared with the
loop on a ragged, left-padded batch with three thoughts: last hidden states, hidden states of every layer, logits and
gradients; then decoding after rows have left the batch, parallel thoughts, and the shallow pass. A use whose cache
gives other numbers is computed without one; a model whose plain definition does not hold is refused.

The check runs on a tiny twin of the architecture (see twin.py), in float32 on the CPU, once per process and kind of
model. Where no twin can be built it runs on the model itself.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from lrd_peft.model.known_architectures import is_known_good, signature
from lrd_peft.model.path_checks import CANNOT_RUN, ModelCheck, find_paths
from lrd_peft.model.paths import Paths
from lrd_peft.model.twin import build_twin
from lrd_peft.runtime.errors import UserError

# Random weights that a kind of model is tried with.
_NUM_TWINS = 3


def check_model(lm: PreTrainedModel) -> Paths:
    """Find the ways through a model.

    Args:
        lm: Causal LM of transformers, without adapters.

    Raises:
        UserError: If the model cannot think; the message says what differs.
    """
    paths = Paths() if is_known_good(lm) else _ways_of_kind(lm)
    if paths.refusal:
        raise UserError(f'a model of type "{lm.config.model_type}" ({type(lm).__name__}) {paths.refusal}')
    return paths


_FOUND: dict[str, Paths] = {}


def _ways_of_kind(lm: PreTrainedModel) -> Paths:
    kind = signature(lm)
    if kind not in _FOUND:
        paths = find_twin_paths(type(lm), lm.config)
        # A twin that cannot be built or run says nothing about the model.
        if paths is None or paths.refusal.startswith(CANNOT_RUN):
            if _on_meta(lm):  # not kept: its weights, once loaded, are checked
                return paths or Paths()
            paths = find_paths(lm)
        _FOUND[kind] = paths
    return _FOUND[kind]


def _on_meta(lm: PreTrainedModel) -> bool:
    return any(parameter.is_meta for parameter in lm.parameters())


def find_twin_paths(kind: type[PreTrainedModel], config: PreTrainedConfig) -> Paths | None:
    """Check every use of a kind of model on tiny twins.

    Attention that selects its keys (DeepSeek's indexer) may be right with some weights by chance, so the ways are
    tried with others too.

    Args:
        kind: Class of the model.
        config: Its configuration, of any size.

    Returns:
        The ways through models of this kind, or None if the reduced sizes do not fit together.
    """
    found = None
    for seed in range(_NUM_TWINS):
        twin = build_twin(kind, config, seed=seed)
        if twin is None:
            return None
        if found is None:
            found = find_paths(twin)
        elif not _holds(twin, found):
            found = _slower(found, find_paths(twin))
        if found.refusal:
            break
    return found


def _holds(lm: PreTrainedModel, paths: Paths) -> bool:
    """Return whether these ways hold for another model of their kind, without gradients."""
    with torch.random.fork_rng(devices=[]):
        check = ModelCheck(lm)
        return not check.prepare() and all(not check.difference(use, paths) for use in ("think", "decode"))


def _slower(one: Paths, other: Paths) -> Paths:
    """Return ways that hold where either of two holds."""
    return Paths(
        cached=one.cached & other.cached,
        rows_apart=one.rows_apart or other.rows_apart,
        own_head=one.own_head or other.own_head,
        shallow=one.shallow and other.shallow,
        plain_states=one.plain_states and other.plain_states,
        refusal=one.refusal or other.refusal,
    )
