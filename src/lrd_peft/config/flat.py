"""The settings as one flat list, as flags, YAML files, records and studies write them."""

from __future__ import annotations

from typing import Any, get_type_hints

from pydantic import Field, create_model

from lrd_peft.config.both_paths import BothPathsConfig
from lrd_peft.config.distill_options import DistillConfig
from lrd_peft.config.fields import Group
from lrd_peft.config.inputs import DataConfig, ModelConfig, ThinkingConfig
from lrd_peft.config.messages import expected_value, nearest_setting
from lrd_peft.config.phases import (
    AdapterConfig,
    EvaluationConfig,
    OptimizerConfig,
    RunOptions,
    StoreConfig,
    StudentConfig,
    TeacherConfig,
)
from lrd_peft.config.removal import RemovalConfig
from lrd_peft.config.step_writer import StepDecoderConfig

GROUPS: dict[str, type[Group]] = {
    "model": ModelConfig,
    "data": DataConfig,
    "thinking": ThinkingConfig,
    "teacher": TeacherConfig,
    "store": StoreConfig,
    "student": StudentConfig,
    "distill": DistillConfig,
    "both_paths": BothPathsConfig,
    "step_decoder": StepDecoderConfig,
    "adapter": AdapterConfig,
    "removal": RemovalConfig,
    "optimizer": OptimizerConfig,
    "evaluation": EvaluationConfig,
    "run": RunOptions,
}
"""Name of each group in `RunConfig`, in the order of help texts and YAML files."""

OWNERS: dict[str, str] = {field: group for group, model in GROUPS.items() for field in model.model_fields}
"""Name of each setting's group."""
assert len(OWNERS) == sum(len(model.model_fields) for model in GROUPS.values()), "two groups share a field name"


def _fields() -> dict[str, Any]:
    """Return name -> (type with its checks, field)."""
    found: dict[str, Any] = {}
    for model in GROUPS.values():
        types = get_type_hints(model, include_extras=True)
        for name, info in model.model_fields.items():
            found[name] = (types[name], Field(default=info.default, description=info.description))
    return found


FlatConfig: type[Group] = create_model("FlatConfig", __base__=Group, **_fields())
"""Every setting checked by itself, without the rules between settings."""


def nearest_field(name: str, *, extra: tuple[str, ...] = ()) -> str:
    """Return `' Did you mean "x"?'` for the setting nearest to a wrong name, or an empty string."""
    return nearest_setting(name, FlatConfig, extra=extra)


def expected(field: str) -> str:
    """Return what a setting may hold, such as "a number from 0 to 1"."""
    return expected_value(field, FlatConfig)
