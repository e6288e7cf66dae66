"""Building blocks of the configuration: field types, the mark that says what a field affects, the base of groups."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from typing_extensions import Self

from lrd_peft.config.choices import ProblemField
from lrd_peft.config.messages import explain
from lrd_peft.config.methods import ObjectiveName
from lrd_peft.runtime.errors import UserError, nearest

Phase = Literal["teacher", "store", "student", "evaluation"]
PHASES: tuple[Phase, ...] = get_args(Phase)

_NOT_ADDED: Any = object()


@dataclass(frozen=True, slots=True)
class Affects:
    """Mark on a field: which results depend on it. Identity and fingerprints are computed from these marks.

    A field may carry several marks; it counts where one of them applies.

    Attributes:
        phase: First phase whose result depends on the field. `None`: the field changes no result.
        objectives: Objectives that use the field. Empty: it does not depend on the objective.
        when: Names of `RunConfig` properties that must all be true for the field to have an effect.
        value: Path from `RunConfig` to the value that counts, where several spellings mean the same.
        added: Value of the field in records and artifacts that were written before the field existed. It has no part
            in fingerprints, so that theirs stay valid.
    """

    phase: Phase | None
    objectives: Collection[ObjectiveName] = ()
    when: tuple[str, ...] = ()
    value: str | None = None
    added: Any = _NOT_ADDED

    @property
    def was_added(self) -> bool:
        """Whether records exist that lack the field."""
        return self.added is not _NOT_ADDED


NO_EFFECT = Affects(None)
"""Mark of a field that changes where, how fast or how visibly a run works, and no result."""


def marks(info: FieldInfo) -> list[Affects]:
    """Return the marks of a field."""
    return [mark for mark in info.metadata if isinstance(mark, Affects)]


def _distinct(values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    if values is not None:
        repeated = sorted({str(value) for value in values if values.count(value) > 1})
        if repeated:
            raise ValueError(f"{', '.join(repeated)} is listed more than once")
    return values


def _fraction_of_percent(value: Any) -> Any:
    """Turn "10%" into 0.1."""
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            percent = float(value.strip()[:-1])
        except ValueError:
            return value
        if percent >= 100:
            raise ValueError(f'"{value}" must be below 100%')
        return percent / 100
    return value


def _fraction_or_whole(value: float) -> float:
    if value >= 1 and not value.is_integer():
        raise ValueError(f"{value} is neither a fraction below 1 nor a whole number of updates")
    return value


def _device_name(value: str) -> str:
    if not re.fullmatch(r"(cpu|cuda|mps|xpu|npu|hpu)(:\d+)?", value):
        raise ValueError(f'"{value}" is not a device; use a name such as cpu, cuda, cuda:1 or mps')
    return value


_NEXT_PAIR = re.compile(rf",(?=(?:{'|'.join(get_args(ProblemField))})=)")


def _column_pairs(value: Any) -> Any:
    """Turn "question=query,answer=response", a list of such pairs or a mapping into pairs "question=query"."""
    if isinstance(value, dict):
        return tuple(f"{field}={column}" for field, column in value.items())
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, list | tuple) or not all(isinstance(pair, str) for pair in value):
        return value
    # A comma that no field follows belongs to the name of a column.
    return tuple(part for pair in value for part in _NEXT_PAIR.split(pair))


def _named_columns(pairs: tuple[str, ...]) -> tuple[str, ...]:
    known = get_args(ProblemField)
    fields = [pair.partition("=")[0] for pair in pairs]
    for pair, field in zip(pairs, fields, strict=True):
        if field not in known or not pair.partition("=")[2]:
            hint = nearest(field, known)
            raise ValueError(
                f'"{pair}" must be FIELD=COLUMN, such as question=query; the fields are {", ".join(known)}.{hint}'
            )
        if fields.count(field) > 1:
            raise ValueError(f"{field} is named more than once")
    return tuple(sorted(pairs, key=lambda pair: known.index(pair.partition("=")[0])))


Columns = Annotated[
    tuple[str, ...], BeforeValidator(_column_pairs), Field(min_length=1), AfterValidator(_named_columns)
]
Fraction = Annotated[float, Field(ge=0, le=1)]
FractionBelowOne = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Epochs = Annotated[tuple[NonNegative, ...], Field(min_length=1)]
Layers = Annotated[tuple[CountOrZero, ...], Field(min_length=1), AfterValidator(_distinct)]
LayersWithRepeats = Annotated[tuple[CountOrZero, ...], Field(min_length=1)]
Names = Annotated[tuple[Name, ...], Field(min_length=1), AfterValidator(_distinct)]
NamesOrOne = Annotated[Names, BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
NamesOrNone = Annotated[tuple[Name, ...], AfterValidator(_distinct)]
Warmup = Annotated[NonNegative, BeforeValidator(_fraction_of_percent), AfterValidator(_fraction_or_whole)]
Device = Annotated[str, AfterValidator(_device_name)]


class Group(BaseModel):
    """Base of the groups of settings. The docstring under a field is also the `--help` of its flag."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        # Pydantic accepts true for 1; in a configuration that is a slip.
        assert info.field_name is not None
        if cls.model_fields[info.field_name].annotation is not bool:
            parts = value if isinstance(value, list | tuple) else (value,)
            if any(isinstance(part, bool) for part in parts):
                raise PydanticCustomError("boolean_for_a_number", "true and false are not numbers or names")
        return value

    @classmethod
    def checked(cls, **values: Any) -> Self:
        """Return a group with these values, for values that come from Python users.

        Raises:
            UserError: If a value is wrong or a rule between the values is broken, in one line.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise UserError(explain(error, cls)) from None
