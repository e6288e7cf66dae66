"""A study: a grid of runs in a YAML file -> cells -> configurations. Knows names and values, not how a run works.

recipe, base, flags      what all cells have          (a later one goes over an earlier one)
axes                     every combination of their values is a cell
also                     single cells beside the grid
seeds                    each cell runs once with each
quick                    what `--quick` changes: another recipe, base, values, seeds
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

from lrd_peft.config import RunConfig, parse_request
from lrd_peft.config.identity import NO_RESULT
from lrd_peft.config.load import read_yaml
from lrd_peft.config.messages import ALIASES, explain, nearest_field
from lrd_peft.errors import UserError, nearest
from lrd_peft.records import portable

STUDIES = Path("configs", "studies")
DEFAULT_ROOT = "runs/studies"

Values = Annotated[tuple[Any, ...], Field(min_length=1)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1)]


class Quick(BaseModel):
    """What `--quick` changes; what is left out stays."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str | None = None
    base: dict[str, Any] = {}
    axes: dict[str, Values] = {}
    seeds: Seeds | None = None


class StudyFile(BaseModel):
    """A study as its YAML file says it; `recipe` is relative to that file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    recipe: str
    base: dict[str, Any] = {}
    axes: Annotated[dict[str, Values], Field(min_length=1)]
    also: tuple[dict[str, Any], ...] = ()
    seeds: Seeds
    quick: Quick = Quick()


@dataclass(frozen=True, slots=True)
class Cell:
    """One point of the grid with one seed.

    Attributes:
        label: the point: "distill_alpha=0.1", or "student=teacher-4,method=latent-lora".
        values: field -> value in which it differs from the base.
        config: the whole configuration of its run.
    """

    label: str
    seed: int
    values: dict[str, Any]
    config: RunConfig

    @property
    def name(self) -> str:
        """The name of its record, folder, log and lock."""
        return f"{self.label}--seed{self.seed}"


@dataclass(frozen=True, slots=True)
class Study:
    """A study with its flags applied, ready to be laid out in cells.

    Attributes:
        name: of the folder that its records go to; a quick study has one of its own.
        root: the folder of all studies, which they share teachers and stores in.
        base: what all cells have.
    """

    name: str
    title: str
    root: Path
    base: RunConfig
    axes: dict[str, tuple[Any, ...]]
    also: tuple[dict[str, Any], ...]
    seeds: tuple[int, ...]

    def cells(self) -> list[Cell]:
        """Return every cell: the seeds outermost, since cells of one seed share a teacher; then the axes in order.

        What a seed changes nothing about, an untrained model for one, is there once, with the first seed.

        Raises:
            UserError: if a cell is no valid configuration, or two have one name.
        """
        grid = [
            dict(zip(self.axes, combination, strict=True)) for combination in itertools.product(*self.axes.values())
        ]
        cells = [self._cell(values, seed) for seed in self.seeds for values in (*grid, *self.also)]
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
        """Return what a reader of the records needs to know: the contents of study.json."""
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
        }

    def _cell(self, values: Mapping[str, Any], seed: int) -> Cell:
        try:
            config = RunConfig.model_validate({**self.base.model_dump(), **values, "seed": seed})
        except ValidationError as error:
            shown = ", ".join(f"{field} {value!r}" for field, value in values.items())
            raise UserError(f'study "{self.name}", cell with {shown}: {explain(error)}') from None
        plain = config.model_dump(mode="json", include=set(values))
        values = {field: plain[field] for field in values}
        label = ",".join(f"{field}={_slug(value)}" for field, value in values.items())
        folder = self.root / self.name / "cells" / f"{label}--seed{seed}"
        return Cell(label, seed, values, config.model_copy(update={"output_dir": str(folder)}))


def read_study(path: Path) -> StudyFile:
    """Read a study's YAML file.

    Raises:
        UserError: with the file, the key, and the nearest name for a wrong one.
    """
    values, lines = read_yaml(path)
    try:
        study = StudyFile.model_validate({str(key): value for key, value in values.items()})
    except ValidationError as error:
        raise UserError("; ".join(dict.fromkeys(_explain(error, path, lines)))) from None
    for key, fields in (("base", study.base), ("quick.base", study.quick.base), ("axes", study.axes)):
        _check_fields(fields, key, path)
    for fields in study.also:
        _check_fields(fields, "also", path)
    for field in (*study.axes, *itertools.chain(*study.also)):
        if field in NO_RESULT:
            raise UserError(f"{path}: {field} changes no result of a run, so it can be no axis; put it into base")
    for field in study.quick.axes:
        if field not in study.axes:
            raise UserError(f'{path}: quick.axes has "{field}", which is no axis.{nearest(field, study.axes)}')
    return study


def find_study(name: str) -> Path:
    """Return the file of a study by its name in configs/studies, or by its path.

    Raises:
        UserError: if there is none; with the nearest name.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else STUDIES / f"{name}.yaml"
    if not path.is_file():
        known = sorted(other.stem for other in STUDIES.glob("*.yaml"))
        listed = f"in {STUDIES} there are {', '.join(known)}" if known else f"there is no folder {STUDIES} here"
        raise UserError(f'there is no study "{name}".{nearest(name, known)} Name a YAML file; {listed}')
    return path


def make_study(
    path: Path, argv: Sequence[str] = (), *, quick: bool = False, seeds: Sequence[int] | None = None
) -> tuple[Study, bool]:
    """Return the study of a file with flags over its base, and whether they hold `--dry_run`.

    Args:
        argv: flags of `lrd run`; `--config` takes the place of the study's recipe.
        quick: the small variant.
        seeds: instead of the file's.

    Raises:
        UserError: if the file or a flag is wrong, or a flag sets what the study varies.
    """
    file = read_study(path)
    variant = file.quick if quick else Quick()
    for argument in argv:
        flag = argument[2:].partition("=")[0].replace("-", "_") if argument.startswith("--") else ""
        field = ALIASES.get(flag, flag)
        if field == "seed":
            raise UserError("a study has several seeds; use --seeds")
        if field in file.axes:
            raise UserError(f"the study {path.stem} varies {field}; leave --{flag} out, or write a study of your own")
    request = parse_request(
        argv,
        prog=f"lrd study {path.stem}",
        yaml_path=os.path.normpath(path.parent / (variant.recipe or file.recipe)),
        overrides={**file.base, **variant.base, "output_dir": DEFAULT_ROOT},
    )
    study = Study(
        name=f"{path.stem}-quick" if quick else path.stem,
        title=file.title,
        root=Path(request.config.output_dir),
        base=request.config,
        axes={**file.axes, **variant.axes},
        also=file.also,
        seeds=tuple(dict.fromkeys(seeds or variant.seeds or file.seeds)),
    )
    return study, request.dry_run


def shard_of(cells: Sequence[Cell], shard: str) -> list[Cell]:
    """Return the cells of shard "k/n": the k-th of n equal stretches, so that few shards need the same teacher.

    The split depends on the study alone, never on what is done.

    Raises:
        UserError: if it is no "k/n" with 1 <= k <= n.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    number, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= count:
        raise UserError(f'--shard is "{shard}"; it must be like 2/8: the second of eight')
    return list(cells[(number - 1) * len(cells) // count : number * len(cells) // count])


def _slug(value: Any) -> str:
    """Return a value as a part of a file's name."""
    if isinstance(value, list):
        return "-".join(map(_slug, value))
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^\w.+]+", "-", text, flags=re.ASCII).strip("-")


def _check_fields(fields: Mapping[str, Any], key: str, path: Path) -> None:
    for field in fields:
        if field in ("seed", "output_dir"):
            raise UserError(f"{path}: {key} sets {field}; use seeds, or the flag --output_dir")
        if field not in RunConfig.model_fields:
            raise UserError(f'{path}: {key} has "{field}", which is no setting.{nearest_field(field)}')


def _explain(error: ValidationError, path: Path, lines: Mapping[str, int]) -> list[str]:
    told = []
    for detail in error.errors():
        parts = [str(part) for part in detail["loc"]]
        place = ".".join(parts)
        where = f"{path}, line {lines[parts[0]]}" if parts[0] in lines else str(path)
        if detail["type"] == "extra_forbidden":
            model = Quick if len(parts) > 1 else StudyFile
            told.append(f'{where}: there is no key "{place}".{nearest(parts[-1], model.model_fields)}')
        elif detail["type"] == "missing":
            told.append(f'{where}: the key "{place}" is missing')
        else:
            told.append(f"{where}: {place} is {detail['input']!r}: {detail['msg'].lower()}")
    return told
