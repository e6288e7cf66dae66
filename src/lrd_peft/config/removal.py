"""Settings of the method icot that removes written steps token by token."""

from __future__ import annotations

from typing import Annotated

from pydantic import model_validator
from typing_extensions import Self

from lrd_peft.config.choices import RemovalSide
from lrd_peft.config.fields import Affects, Count, CountOrZero, Group, Positive


class RemovalConfig(Group):
    """Method icot: removal of written steps by tokens (Deng et al., arXiv 2405.14838), in place of whole steps."""

    remove_per_epoch: Annotated[Positive | None, Affects("student", when=("removes_steps",), added=None)] = None
    """Step tokens that icot removes in each epoch (default: whole steps, over the first half of the updates)."""
    removal_smoothing: Annotated[Positive | None, Affects("student", when=("removes_tokens",), added=None)] = None
    """Removal smoothing lambda: a row loses o more tokens with probability (1 - exp(-lambda)) exp(-lambda o)."""
    removal_side: Annotated[RemovalSide, Affects("student", when=("removes_tokens",), added="left")] = "left"
    """Side of the written steps that tokens are removed from."""
    pretrain_epochs: Annotated[CountOrZero, Affects("student", when=("removes_tokens",), added=0)] = 0
    """Epochs with all steps written before the removal begins."""
    remove_all_beyond: Annotated[Count | None, Affects("student", when=("removes_tokens",), added=None)] = None
    """Remove all tokens once this many are scheduled to go (default: never)."""

    @model_validator(mode="after")
    def _tokens_are_removed(self) -> Self:
        if self.remove_per_epoch is None:
            for name, info in type(self).model_fields.items():
                value = getattr(self, name)
                if value != info.default:
                    raise ValueError(
                        f"{name} is {value}, but remove_per_epoch is not set, so whole steps are removed; set "
                        f"remove_per_epoch, or leave {name} out"
                    )
        return self
