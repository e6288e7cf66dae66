"""Studies: a YAML file describes a grid of runs, and each cell of the grid is a configuration.

recipe, base, flags      settings of all cells; later ones override earlier ones
axes                     fields and their values; each combination is a cell
also                     additional cells
seeds                    each cell runs once per seed
tune                     fields whose values are chosen for each cell on validation problems (`studies.tuning`)
quick                    what `--quick` changes: recipe, base, values, seeds
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lrd_peft.config import RunConfig, load_config
from lrd_peft.config.flat import OWNERS, nearest_field
from lrd_peft.config.identity import NO_RESULT
from lrd_peft.config.load import read_yaml
from lrd_peft.evaluation.study_description import TunedCell
from lrd_peft.runtime.environment import portable
from lrd_peft.runtime.errors import UserError, nearest

DEFAULT_ROOT = "runs/studies"

Values = Annotated[tuple[Any, ...], Field(min_length=1)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1)]


class Quick(BaseModel):
    """What `--quick` changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str | None = None
    base: dict[str, Any] = {}
    axes: dict[str, Values] = {}
    seeds: Seeds | None = None


class Tuning(BaseModel):
    """Fields whose values are chosen for each cell by the accuracy on validation problems.

    Attributes:
        axes: Field -> values to try; each combination is a trial.
        base: Settings of the trials alone, such as fewer updates.
        seed: Seed of the trials.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    axes: Annotated[dict[str, Values], Field(min_length=1)]
    base: dict[str, Any] = {}
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class StudyFile(BaseModel):
    """A study file; `recipe` is relative to it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    recipe: str
    base: dict[str, Any] = {}
    axes: Annotated[dict[str, Values], Field(min_length=1)]
    also: tuple[dict[str, Any], ...] = ()
    seeds: Seeds
    tune: Tuning | None = None
    quick: Quick = Quick()


@dataclass(frozen=True, slots=True)
class Cell:
    """One point of the grid with one seed.

    Attributes:
        label: Point of the grid, such as "distill_alpha=0.1" or "student=teacher-4,method=latent-lora".
        seed: Seed of the run.
        values: Field -> value, for the fields in which the cell differs from the base.
        config: Configuration of the run.
    """

    label: str
    seed: int
    values: dict[str, Any]
    config: RunConfig

    @property
    def name(self) -> str:
        """Name of the cell's record, folder, log and lock."""
        return f"{self.label}--seed{self.seed}"


@dataclass(frozen=True, slots=True)
class Study:
    """A study after its flags are applied.

    Attributes:
        name: Name of its folder and of the folder of its records; a quick study has its own.
        title: Title for figures and tables.
        root: Folder of all studies, where they share teachers and stores.
        base: Configuration of all cells.
        axes: Field -> values of the grid.
        also: Additional cells, each as field -> value.
        seeds: Seeds of each cell.
        tune: What is chosen on validation problems before the cells run.
        tuned: What was chosen.
    """

    name: str
    title: str
    root: Path
    base: RunConfig
    axes: dict[str, tuple[Any, ...]]
    also: tuple[dict[str, Any], ...]
    seeds: tuple[int, ...]
    tune: Tuning | None = None
    tuned: tuple[TunedCell, ...] = ()

    def cells(self) -> list[Cell]:
        """Return all cells by seed, then in the order of the axes, so that cells of one teacher are adjacent.

        A cell that does not depend on the seed, such as an untrained model, appears once, with the first seed.

        Raises:
            UserError: If a cell is not a valid configuration, or two cells have the same name.
        """
        points = itertools.product(*self.axes.values()) if self.axes else ()
        grid = [dict(zip(self.axes, point, strict=True)) for point in points]
        cells = [self.cell(values, seed) for seed in self.seeds for values in (*grid, *self.also)]
        found: dict[tuple[str, str], int] = {}
        for cell in cells:
            found.setdefault((cell.label, cell.config.fingerprint()), cell.seed)
        cells = [cell for cell in cells if found[cell.label, cell.config.fingerprint()] == cell.seed]
        names = [cell.name for cell in cells]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f'study "{self.name}" has the cell {name} more than once')
        return cells

    def describe(self) -> dict[str, Any]:
        """Return the contents of study.json: what a reader of the records needs to know."""
        cells = {cell.label: cell.values for cell in self.cells()}
        axes = [
            {"field": field, "values": list({str(v[field]): v[field] for v in cells.values() if field in v}.values())}
            for field in self.axes
        ]
        return {
            "name": self.name,
            "title": self.title,
            "axes": axes,
            "seeds": list(self.seeds),
            "base": portable(self.base.result_fields()),
            "cells": [{"cell": label, "values": values} for label, values in cells.items()],
            "tuned": [chosen.to_json() for chosen in self.tuned],
        }

    def cell(self, values: Mapping[str, Any], seed: int) -> Cell:
        """Return the cell of these values and this seed.

        Args:
            values: Field -> value, over the base.
            seed: Seed of the run.

        Raises:
            UserError: If it is not a valid configuration.
        """
        try:
            config = _resolved(self.base.changed(**values, seed=seed))
        except UserError as error:
            shown = ", ".join(f"{field} {value!r}" for field, value in values.items())
            raise UserError(f'study "{self.name}", cell with {shown}: {error}') from None
        plain = config.flat()
        values = {field: plain[field] for field in values}
        label = ",".join(f"{field}={_slug(value)}" for field, value in values.items())
        for chosen in self.tuned:
            if chosen.cell == label:
                config = config.changed(**chosen.values)
        folder = self.root / self.name / "cells" / f"{label}--seed{seed}"
        return Cell(label, seed, values, config.changed(output_dir=str(folder)))


def _resolved(config: RunConfig) -> RunConfig:
    """Set the fields that depend on the models, so that a cell has the fingerprint of its run."""
    if config.distill.distill_layers is not None:
        return config
    from lrd_peft.pipeline.preflight import resolve_layers  # loads torch

    return resolve_layers(config)


def read_study(path: Path) -> StudyFile:
    """Read a study's YAML file.

    Raises:
        UserError: If a key or value is wrong; the message names the file, the key and the nearest valid name.
    """
    values, lines = read_yaml(path)
    try:
        study = StudyFile.model_validate({str(key): value for key, value in values.items()})
    except ValidationError as error:
        raise UserError("; ".join(dict.fromkeys(_explain(error, path, lines)))) from None
    named = {"base": study.base, "quick.base": study.quick.base, "axes": study.axes}
    if study.tune:
        named |= {"tune.axes": study.tune.axes, "tune.base": study.tune.base}
    for key, fields in named.items():
        _check_fields(fields, key, path)
    for fields in study.also:
        _check_fields(fields, "also", path)
    tuned = study.tune.axes if study.tune else {}
    for field in tuned:
        if field in study.axes:
            raise UserError(f"{path}: {field} is in axes and in tune.axes; a value is either varied or chosen")
    for field in (*study.axes, *tuned, *itertools.chain(*study.also)):
        if field in NO_RESULT:
            raise UserError(f"{path}: {field} does not affect results, so it cannot be an axis; move it to base")
    for field in study.quick.axes:
        if field not in study.axes:
            raise UserError(f'{path}: quick.axes has "{field}", which is not an axis.{nearest(field, study.axes)}')
    return study


def make_study(
    path: Path,
    settings: Mapping[str, Any] | None = None,
    *,
    recipe: str | None = None,
    quick: bool = False,
    seeds: Sequence[int] | None = None,
) -> Study:
    """Return the study of a file, with settings that override its base.

    Args:
        path: YAML file of the study.
        settings: Settings for all cells, such as those given as flags.
        recipe: Recipe or YAML file that replaces the study's.
        quick: Use the small variant.
        seeds: Seeds that replace the file's.

    Raises:
        UserError: If the file or a setting is wrong, or a setting is one that the study varies.
    """
    file = read_study(path)
    variant = file.quick if quick else Quick()
    for name in settings or ():
        if name == "seed":
            raise UserError("a study has several seeds; use --seeds")
        if name in file.axes or (file.tune and name in file.tune.axes):
            raise UserError(f"the study {path.stem} varies {name}; drop --{name}, or write your own study")
    base = load_config(
        yaml_path=recipe or os.path.normpath(path.parent / (variant.recipe or file.recipe)),
        overrides={**file.base, **variant.base, "output_dir": DEFAULT_ROOT, **(settings or {})},
    )
    return Study(
        name=f"{path.stem}-quick" if quick else path.stem,
        title=file.title,
        root=Path(base.run.output_dir),
        base=base,
        axes={**file.axes, **variant.axes},
        also=file.also,
        seeds=tuple(dict.fromkeys(seeds or variant.seeds or file.seeds)),
        # A small variant has small budgets already.
        tune=file.tune.model_copy(update={"base": {}}) if file.tune and quick else file.tune,
    )


def shard_of(cells: Sequence[Cell], shard: str) -> list[Cell]:
    """Return the cells of shard "k/n": the k-th of n contiguous parts, so that few shards need the same teacher.

    The split does not depend on which cells are finished.

    Raises:
        UserError: If `shard` is not "k/n" with 1 <= k <= n.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    number, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= count:
        raise UserError(f'--shard is "{shard}"; use k/n, such as 2/8 for the second of eight parts')
    return list(cells[(number - 1) * len(cells) // count : number * len(cells) // count])


def _slug(value: Any) -> str:
    """Return a value as part of a file name."""
    if isinstance(value, list):
        return "-".join(map(_slug, value))
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^\w.+]+", "-", text, flags=re.ASCII).strip("-")


def _check_fields(fields: Mapping[str, Any], key: str, path: Path) -> None:
    for field in fields:
        if field in ("seed", "output_dir"):
            raise UserError(f"{path}: {key} sets {field}; use seeds, or the flag --output_dir")
        if field not in OWNERS:
            raise UserError(f'{path}: {key} has "{field}", which is not a setting.{nearest_field(field)}')


def _explain(error: ValidationError, path: Path, lines: Mapping[str, int]) -> list[str]:
    models: dict[str, type[BaseModel]] = {"quick": Quick, "tune": Tuning}
    told = []
    for detail in error.errors():
        parts = [str(part) for part in detail["loc"]]
        place = ".".join(parts)
        where = f"{path}, line {lines[parts[0]]}" if parts[0] in lines else str(path)
        if detail["type"] == "extra_forbidden":
            model = models[parts[0]] if len(parts) > 1 else StudyFile
            told.append(f'{where}: there is no key "{place}".{nearest(parts[-1], model.model_fields)}')
        elif detail["type"] == "missing":
            told.append(f'{where}: the key "{place}" is missing')
        else:
            told.append(f"{where}: {place} is {detail['input']!r}: {detail['msg'].lower()}")
    return told
