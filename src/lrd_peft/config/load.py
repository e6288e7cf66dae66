"""Configuration from YAML and flags, and back to YAML: defaults < file < flags. Knows files, not phases."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from lrd_peft.config import flags
from lrd_peft.config.fields import Fields
from lrd_peft.config.messages import explain, nearest_field
from lrd_peft.config.schema import RunConfig
from lrd_peft.errors import UserError, nearest


@dataclass(frozen=True, slots=True)
class Request:
    """What a command line asks for."""

    config: RunConfig
    dry_run: bool


def load_config(
    argv: Sequence[str] = (),
    *,
    yaml_path: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Return the configuration of defaults, then the YAML file, then overrides, then flags.

    Args:
        argv: flags such as `["--lora_r", "16"]`; `--config FILE` names the YAML file too.
        yaml_path: a YAML file of field names and values.
        overrides: field names and values from Python.

    Raises:
        UserError: with the file, the field, and what was expected.
    """
    return parse_request(argv, yaml_path=yaml_path, overrides=overrides).config


def parse_request(
    argv: Sequence[str],
    *,
    prog: str = "lrd run",
    description: str = "",
    yaml_path: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Request:
    """Return the configuration and whether `--dry_run` was asked for; as `load_config` otherwise."""
    path = flags.config_file(argv) or yaml_path
    defaults = _read_fields(Path(path)) if path is not None else {}
    try:
        fields = Fields.model_validate({**defaults, **(overrides or {})})
        dry_run = False
        values = fields.model_dump()
        if argv:
            values, dry_run = flags.parse(argv, defaults=fields, prog=prog, description=description)
        return Request(RunConfig.model_validate(values), dry_run)
    except ValidationError as error:
        raise UserError(explain(error)) from None


def _read_fields(path: Path) -> dict[str, Any]:
    """Read a YAML file and check each field by itself; rules between fields wait until the flags are in."""
    values, lines = read_yaml(path)
    for name in values:
        if name not in Fields.model_fields:
            line = lines.get(str(name))
            where = f", line {line}" if line else ""
            raise UserError(f'{path}{where}: there is no setting "{name}".{nearest_field(str(name))}')

    def place(field: str) -> str:
        return f"{path}, line {lines[field]}: " if field in lines else f"{path}: "

    try:
        return Fields.model_validate(values).model_dump(include=set(values))
    except ValidationError as error:
        raise UserError(explain(error, place=place)) from None


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Return a YAML file's mapping, and the line of each key.

    Raises:
        UserError: if there is no such file, or it is damaged, no mapping, or names a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        siblings = map(str, sorted(path.parent.glob("*.yaml")))
        raise UserError(f'there is no configuration file "{path}".{nearest(str(path), siblings)}') from None
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
                raise UserError(f'{path}, line {line}: "{name}" stands in line {lines[name]} already; keep one')
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
    """Return every field as YAML that `load_config` reads back to an equal configuration."""
    values = config.model_dump(mode="json")
    # PyYAML writes Unicode's own line breaks as they are, and reads them back as others.
    breaks = any(mark in json.dumps(values, ensure_ascii=False) for mark in "\x85\u2028\u2029")
    return yaml.safe_dump(
        values,
        sort_keys=False,
        default_flow_style=None,
        allow_unicode=not breaks,
        width=10**6,
    )
