"""The command line of a configuration: one flag for each field. Knows argument lists, not files."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import re
from collections.abc import Sequence
from typing import Annotated, Any

from lrd_peft.config.fields import Fields
from lrd_peft.config.messages import ALIASES, expected, nearest_field
from lrd_peft.errors import UserError

# Read as text, so that 10% reaches the field's own check.
_AS_TEXT = ("warmup_steps",)
_CONFIG_HELP = "YAML file with settings; flags go over it."
_DRY_RUN_HELP = "Print the resolved configuration, sizes and work, and do nothing."


def config_file(argv: Sequence[str]) -> str | None:
    """Return the file that `--config` names: it is read before the other flags, as it sets their defaults."""
    path = None
    for index, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if flag != "--config":
            continue
        path = value if equals else next(iter(argv[index + 1 : index + 2]), "")
        if not path or path.startswith("--"):
            raise UserError("--config needs the name of a YAML file")
    return path


def parse(argv: Sequence[str], *, defaults: Fields, prog: str, description: str) -> tuple[dict[str, Any], bool]:
    """Parse flags over defaults; `--help` prints and exits.

    Returns:
        The value of each field, and whether `--dry_run` is there.

    Raises:
        UserError: for an unknown flag or a value of the wrong type.
    """
    import tyro

    flags = _flags_class(defaults)
    complaints = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaints):
            parsed, rest = tyro.cli(
                flags,
                args=list(argv),
                prog=prog,
                description=description,
                return_unknown_args=True,
                use_underscores=True,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(f"{_complaint(complaints.getvalue(), argv)} See {prog} --help.") from None
    if rest:
        raise UserError(_unknown(rest, argv, prog))
    values = {field.name: getattr(parsed, field.name) for field in dataclasses.fields(parsed)}
    del values["config"]
    return values, values.pop("dry_run")


def _flags_class(defaults: Fields) -> Any:
    """Return a dataclass with a field for each flag: tyro parses it, pydantic checks the values after."""
    import tyro

    short = {field: f"--{alias}" for alias, field in ALIASES.items()}
    fields: list[tuple[str, Any, Any]] = [
        ("config", Annotated[str | None, tyro.conf.arg(help=_CONFIG_HELP)], dataclasses.field(default=None)),
        ("dry_run", Annotated[bool, tyro.conf.arg(help=_DRY_RUN_HELP)], dataclasses.field(default=False)),
    ]
    for name, info in Fields.model_fields.items():
        value: Any = getattr(defaults, name)
        kind: Any = info.annotation
        if name in _AS_TEXT:
            kind, value = str, repr(value).removesuffix(".0")
        aliases = [short[name]] if name in short else None
        argument = tyro.conf.arg(help=info.description, aliases=aliases)
        fields.append((name, Annotated[kind, argument], dataclasses.field(default=value)))
    return dataclasses.make_dataclass("Flags", fields, frozen=True)


def _unknown(rest: Sequence[str], argv: Sequence[str], prog: str) -> str:
    flag = next((part for part in rest if part.startswith("-")), None)
    if flag is not None:
        shown = flag.partition("=")[0]
        hint = nearest_field(shown.lstrip("-").replace("-", "_"), extra=("config", "dry_run"))
        hint = hint.replace(' "', ' "--')
        return f"unknown flag {shown}.{hint} See {prog} --help."
    before = [part for part in argv[: list(argv).index(rest[0])] if part.startswith("--")]
    where = f" after {before[-1]}" if before else ""
    return f'"{rest[0]}"{where} belongs to no flag. See {prog} --help.'


def _complaint(box: str, argv: Sequence[str]) -> str:
    """Return what is wrong with a flag's values in our words, or in tyro's if they name no flag of ours."""
    for index, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        name = flag[2:].replace("-", "_")
        field = ALIASES.get(name, name)
        if flag.startswith("--") and field in Fields.model_fields and re.search(rf"--{name}\b", box):
            after = itertools.takewhile(lambda part: not part.startswith("--"), argv[index + 1 :])
            given = value if equals else " ".join(after)
            return f"{flag} {given or 'has no value'}: it must be {expected(field)}."
    return _first_line(box)


def _first_line(box: str) -> str:
    """Return the message inside the frame that tyro draws, as one line."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    words = []
    for line in plain.splitlines()[1:]:
        text = line.strip(" │|")
        if not text or set(text) <= set("─-╰╯"):
            break
        words.append(text)
    return " ".join(words) or " ".join(plain.split())
