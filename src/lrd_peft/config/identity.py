"""Which settings decide the result of which phase, so that an artifact is reused or refused.

Computed from the `Affects` marks on the fields. A phase builds on the phases before it, so its identity includes
their settings. A setting counts only if the run's method uses it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from operator import attrgetter
from typing import Any

from lrd_peft.config.fields import PHASES, Affects, Phase, marks
from lrd_peft.config.flat import GROUPS, OWNERS
from lrd_peft.config.methods import METHODS

MARKS: dict[str, list[Affects]] = {field: marks(GROUPS[group].model_fields[field]) for field, group in OWNERS.items()}
"""Marks of each setting."""
assert all(MARKS.values()), "a field has no mark that says what it affects"

NO_RESULT = frozenset(field for field, found in MARKS.items() if all(mark.phase is None for mark in found))
"""Settings that change no result."""

ADDED: dict[str, Any] = {field: mark.added for field, found in MARKS.items() for mark in found if mark.was_added}
"""Value of each setting that older records lack."""


def has_use_for(method: str, field: str) -> bool:
    """Return whether a method's objective uses a setting; settings that depend on no objective count as used."""
    found, row = MARKS.get(field, ()), METHODS.get(method)
    if row is None or not any(mark.objectives for mark in found):
        return True
    # Conditions on other settings are left out: they are those of a run, not of a method.
    return any(
        row.objective in mark.objectives and all(getattr(row, condition, True) for condition in mark.when)
        for mark in found
    )


def phase_fields(config: Any, phase: Phase) -> dict[str, Any]:
    """Return the settings that decide the result of a phase of a `RunConfig`, those of earlier phases included.

    Settings without an effect are left out. Values that mean the same are normalized: `teacher_seed` becomes the seed
    that is used, for example.
    """
    fields = {}
    for reached in PHASES[: PHASES.index(phase) + 1]:
        for name, group in OWNERS.items():
            for mark in MARKS[name]:
                if mark.phase == reached and _applies(mark, config):
                    fields[name] = attrgetter(mark.value or f"{group}.{name}")(config)
    return fields


def without_effect(config: Any, fields: Collection[str]) -> list[str]:
    """Return those of the given settings that change results in general, but none of this `RunConfig`'s run."""
    reached = config.needed_phases
    return [
        field
        for field in fields
        if field not in NO_RESULT
        and not any(mark.phase is None or (mark.phase in reached and _applies(mark, config)) for mark in MARKS[field])
    ]


def _applies(mark: Affects, config: Any) -> bool:
    """Return whether a setting has an effect in a configuration."""
    if mark.objectives and config.method.objective not in mark.objectives:
        return False
    return all(getattr(config, condition) for condition in mark.when)


def fingerprint(fields: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that stand for these settings and values, in any order."""
    counted = {name: value for name, value in fields.items() if name not in ADDED or value != ADDED[name]}
    text = json.dumps(counted, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return `(setting, value in a, value in b)` where two mappings differ; a missing value is `None`.

    Lists and tuples with the same elements are equal, since JSON has no tuples.
    """

    def plain(value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    names = [*a, *(name for name in b if name not in a)]
    return [(name, a.get(name), b.get(name)) for name in names if plain(a.get(name)) != plain(b.get(name))]
