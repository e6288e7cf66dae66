"""Reads a configuration from YAML and flags, and writes it as YAML: flags override the file, the file the defaults."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from lrd_peft.config.fields import Group
from lrd_peft.config.flat import FlatConfig, nearest_field
from lrd_peft.config.identity import without_effect
from lrd_peft.config.messages import explain
from lrd_peft.config.recipes import find_yaml
from lrd_peft.config.schema import RunConfig
from lrd_peft.runtime.errors import UserError, nearest

if TYPE_CHECKING:
    from lrd_peft.config.flags import RunFlags


@dataclass(frozen=True, slots=True)
class Request:
    """What a command line asks for.

    Attributes:
        config: Configuration of the run.
        dry_run: Print what the command would do.
        from_run: Finished run whose teacher and store are used.
        without_effect: Settings that are given as flags but change nothing in this run.
    """

    config: RunConfig
    dry_run: bool = False
    from_run: Path | None = None
    without_effect: tuple[str, ...] = ()


def load_config(
    argv: Sequence[str] = (),
    *,
    yaml_path: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Return the configuration of the defaults, then the YAML file, then overrides, then flags.

    Args:
        argv: Flags such as `["--lora_r", "16"]`; `--config NAME` replaces `yaml_path`.
        yaml_path: Recipe or YAML file of settings.
        overrides: Settings and values from Python.

    Raises:
        UserError: If a setting is unknown, a value is wrong, or a rule between settings is broken.
    """
    if argv:
        return parse_request(argv, yaml_path=yaml_path, overrides=overrides).config
    return RunConfig.from_flat(_base(yaml_path, overrides).model_dump())


def parse_request(
    argv: Sequence[str],
    *,
    kind: type[RunFlags] | None = None,
    prog: str = "lrd run",
    description: str = "",
    shown: Collection[str] | None = None,
    yaml_path: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Request:
    """Parse the flags of a command that runs phases; `--help` prints and exits.

    Args:
        argv: As in `load_config`.
        kind: Flags of the command; `None` for those of `lrd run`.
        prog: Command as the user types it.
        description: First line of the help text.
        shown: Settings that `--help` shows; `None` for all.
        yaml_path: As in `load_config`.
        overrides: As in `load_config`.

    Raises:
        UserError: As `load_config`, or if a flag is wrong.
    """
    from lrd_peft.config.flags import PhaseFlags, config_file, parse_flags  # imports tyro

    base = _base(config_file(argv) or yaml_path, overrides)
    found = parse_flags(kind or PhaseFlags, argv, prog=prog, description=description, defaults=base, shown=shown)
    config = RunConfig.from_flat({**base.model_dump(), **found.settings})
    source = found.from_run if isinstance(found, PhaseFlags) else None
    idle = tuple(without_effect(config, found.settings))
    return Request(config, found.dry_run, None if source is None else Path(source), idle)


def _base(yaml_path: str | Path | None, overrides: Mapping[str, Any] | None) -> Group:
    """Return the settings below the flags, each checked by itself."""
    settings = {} if yaml_path is None else _read_fields(find_yaml(str(yaml_path)))
    try:
        return FlatConfig.model_validate({**settings, **(overrides or {})})
    except ValidationError as error:
        raise UserError(explain(error, FlatConfig)) from None


def _read_fields(path: Path) -> dict[str, Any]:
    """Read a YAML file and check each setting by itself; rules between settings are checked after the flags."""
    values, lines = read_yaml(path)
    for name in values:
        if name not in FlatConfig.model_fields:
            line = lines.get(str(name))
            where = f", line {line}" if line else ""
            raise UserError(f'{path}{where}: unknown setting "{name}".{nearest_field(str(name))}')

    def place(field: str) -> str:
        return f"{path}, line {lines[field]}: " if field in lines else f"{path}: "

    try:
        return FlatConfig.model_validate(values).model_dump(include=set(values))
    except ValidationError as error:
        raise UserError(explain(error, FlatConfig, place=place)) from None


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Read a YAML file.

    Returns:
        Its mapping, and the line of each key.

    Raises:
        UserError: If the file does not exist, is damaged, holds no mapping, or repeats a key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        siblings = map(str, sorted(path.parent.glob("*.yaml")))
        raise UserError(f'configuration file "{path}" does not exist.{nearest(str(path), siblings)}') from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'configuration file "{path}" cannot be read: {error}') from None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None or node.tag == "tag:yaml.org,2002:null":  # empty, or comments only
            return {}, {}
        if not isinstance(node, yaml.MappingNode):
            kind = "list" if isinstance(node, yaml.SequenceNode) else "single value"
            raise UserError(f'{path}, line 1: the file must hold "name: value" lines, not a {kind}')
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                raise UserError(
                    f'{path}, line {line}: duplicate setting "{name}", first set in line {lines[name]}; keep one'
                )
            lines[name] = line
        values = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: not valid YAML: {error.problem or error.context}") from None
    except UserError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    return values, lines


def dump_yaml(config: RunConfig) -> str:
    """Return every setting as YAML that `load_config` reads back to an equal configuration."""
    values = config.flat()
    # PyYAML writes Unicode line breaks unescaped and reads them back as other characters.
    breaks = any(mark in json.dumps(values, ensure_ascii=False) for mark in "\x85\u2028\u2029")
    return yaml.safe_dump(
        values,
        sort_keys=False,
        default_flow_style=None,
        allow_unicode=not breaks,
        width=10**6,
    )
