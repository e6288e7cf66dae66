"""Which way each use of a model takes: the fast one, or a slower one that gives the right numbers.

`self_check.py` finds the ways, once for each kind of model. They stand on the transformers model itself.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast, get_args

from torch import nn

from lrd_peft.model.inspection import unwrap

Use = Literal["think", "train", "parallel", "decode"]
USES: tuple[Use, ...] = get_args(Use)

_ATTRIBUTE = "_lrd_paths"
_CHECK = "lrd_peft.model.self_check"
_COSTS: dict[Use, str] = {
    "think": "N thoughts cost N + 1 passes over the whole sequence",
    "train": "a training step with N thoughts costs N + 1 passes over the whole sequence",
    "parallel": "each parallel refinement is a pass over the whole sequence",
    "decode": "each generated token is a pass over the whole sequence",
}
_NAMES: dict[Use, str] = {
    "think": "thinking without gradients",
    "train": "training",
    "parallel": "parallel thoughts",
    "decode": "decoding",
}


@dataclass(frozen=True, slots=True)
class Paths:
    """The ways through a model.

    Attributes:
        cached: Uses that keep a KV cache. The others compute the whole sequence again at each pass.
        rows_apart: Without a cache, rows of different length are computed apart, because the model does not ignore
            left padding.
        own_head: The model's own forward pass computes the logits.
        shallow: The last pass of extraction may stop after the deepest kept layer.
        plain_states: The hidden states between blocks are [position, hidden]; otherwise only the last layer's are used.
        refusal: Why the model cannot think at all; empty if it can.
    """

    cached: frozenset[Use] = frozenset(USES)
    rows_apart: bool = False
    own_head: bool = False
    shallow: bool = True
    plain_states: bool = True
    refusal: str = ""

    @property
    def is_fast(self) -> bool:
        """Whether no use takes a slower way."""
        return self == Paths()

    def notes(self) -> tuple[str, ...]:
        """Say which slower ways the model takes and what they cost, one line each."""
        lines = []
        slow: list[Use] = [use for use in USES if use not in self.cached]
        if slow:
            apart = "; rows of different length run apart" if self.rows_apart else ""
            lines.append(
                f"no KV cache in {', '.join(_NAMES[use] for use in slow)}, because this architecture's gives other "
                f"numbers: {'; '.join(_COSTS[use] for use in slow)}{apart}"
            )
        if self.own_head:
            lines.append("the model's own forward pass computes the logits: the loss needs memory for all of them")
        if not self.shallow:
            lines.append("extraction runs all blocks in its last pass, because this architecture cannot be cut short")
        if not self.plain_states:
            lines.append(
                "the states between the blocks are no vectors in this architecture: only the last layer is kept"
            )
        return tuple(lines)


def paths_of(lm: nn.Module) -> Paths:
    """Return the ways through a model; the first call for a model checks it (see self_check.py).

    Args:
        lm: Causal LM of transformers, PEFT-wrapped or not.

    Raises:
        UserError: If the model cannot think.
    """
    inner = unwrap(lm)
    known = vars(inner).get(_ATTRIBUTE)
    if known is None:
        # By name, because the check thinks and so stands above all that asks for the ways.
        known = importlib.import_module(_CHECK).check_model(inner)
        setattr(inner, _ATTRIBUTE, known)
    return cast(Paths, known)


def forget_paths(lm: nn.Module) -> None:
    """Make the next use of a model that has changed find its ways again."""
    vars(lm).pop(_ATTRIBUTE, None)


@contextlib.contextmanager
def trying(lm: nn.Module, paths: Paths) -> Iterator[None]:
    """Give a model these ways within this context."""
    inner = unwrap(lm)
    before = vars(inner).get(_ATTRIBUTE)
    setattr(inner, _ATTRIBUTE, paths)
    try:
        yield
    finally:
        if before is None:
            delattr(inner, _ATTRIBUTE)
        else:
            setattr(inner, _ATTRIBUTE, before)
