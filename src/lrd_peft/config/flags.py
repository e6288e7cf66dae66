"""The flags of a configuration: one for each setting, in the groups of `RunConfig`."""

from __future__ import annotations

import contextlib
import json
import types
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import tyro
from tyro.conf import FlagCreatePairsOff, Suppress, arg
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from lrd_peft.config.fields import Group
from lrd_peft.config.flat import GROUPS, OWNERS, FlatConfig
from lrd_peft.config.messages import ALIASES
from lrd_peft.config.methods import METHODS
from lrd_peft.runtime.command_line import parse, setting_of
from lrd_peft.runtime.errors import UserError

_SHORT = {field: alias for alias, field in ALIASES.items()}


class Settings(dict[str, Any]):
    """The settings that a command line names, with their values; tyro sees one flag for each setting."""


@dataclass(frozen=True, kw_only=True)
class RunFlags:
    """Flags of every command that takes a configuration."""

    config: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """Recipe or YAML file; flags override its settings."""
    dry_run: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """Print what would be done; load no weights, write nothing."""
    help_all: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """Show all settings and exit."""
    settings: Annotated[Settings, arg(name="")]


@dataclass(frozen=True, kw_only=True)
class PhaseFlags(RunFlags):
    """Flags of the commands that run phases."""

    from_run: Annotated[str | None, arg(metavar="RUN", help_behavior_hint="")] = None
    """Finished run whose teacher and store are used instead of making them."""


Flags = TypeVar("Flags", bound=RunFlags)


def parse_flags(
    kind: type[Flags],
    argv: Sequence[str],
    *,
    prog: str,
    description: str,
    defaults: Group,
    shown: Collection[str] | None = None,
) -> Flags:
    """Parse the flags of a command; its `settings` hold only those that are given.

    Args:
        kind: Dataclass of the command's flags.
        argv: Arguments after the name of the command.
        prog: Command as the user types it.
        description: First line of the help text.
        defaults: Values that the help text shows.
        shown: Settings that `--help` shows; `None` for all.

    Raises:
        UserError: If a flag is unknown, is given under two names, or has no value.
    """
    arguments = ["--help" if setting_of(part) == "help_all" else part for part in argv]
    if arguments != list(argv):
        shown = None
    elif shown is not None:
        description = f"{description}\n\n{prog} --help-all shows all settings."
    given = _given(argv)
    # A suppressed flag is not parsed either, so the hidden ones are suppressed only for the help text.
    asks_for_help = not {"-h", "--help"}.isdisjoint(arguments)
    own = [field.name for field in fields(kind) if field.name != "settings"]
    return parse(
        kind,
        arguments,
        prog=prog,
        description=description,
        flags=["help", *own, *OWNERS, *ALIASES],
        registry=_registry(defaults, given, shown=shown if asks_for_help else None),
    )


def config_file(argv: Sequence[str]) -> str | None:
    """Return what `--config` names: it is read before the other flags, because `--help` shows its settings."""
    path = None
    for index, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if flag != "--config":
            continue
        path = value if equals else next(iter(argv[index + 1 : index + 2]), "")
        if not path or path.startswith("--"):
            raise UserError("--config needs the name of a recipe or a YAML file")
    return path


def completion_script(commands: Any, shell: str, *, prog: str) -> None:
    """Print the completion script of commands for a shell.

    Args:
        commands: Union of the commands' dataclasses, each with its name.
        shell: bash, zsh or fish.
        prog: Name of the program.
    """
    registry = _registry(FlatConfig(), (), shown=None, completes=True)
    # The flag that tyro recommends instead writes a file; "-" is standard output.
    tyro.cli(commands, args=["--tyro-write-completion", shell, "-"], prog=prog, use_underscores=True, registry=registry)


def _given(argv: Sequence[str]) -> set[str]:
    """Return the settings that flags name.

    Raises:
        UserError: If a setting is given by its name and by its alias.
    """
    spelled: dict[str, str] = {}
    for argument in argv:
        if not argument.startswith("--"):
            continue
        name = setting_of(argument)
        field = ALIASES.get(name, name)
        if field not in OWNERS:
            field = field.removeprefix("no_")
        if field in _SHORT and spelled.get(field, name) != name:
            raise UserError(f"--{spelled[field]} and --{name} are one setting; give one of the two")
        spelled[field] = name
    return spelled.keys() & OWNERS.keys()


def _registry(
    defaults: Group, given: Collection[str], *, shown: Collection[str] | None, completes: bool = False
) -> ConstructorRegistry:
    """Return the rules that make a flag of each setting, and `Settings` of the flags that are given."""

    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        if info.type is Settings:
            groups = tuple(
                StructFieldSpec(name, model, model(), helptext=(model.__doc__ or "").strip())
                for name, model in GROUPS.items()
            )
            return StructConstructorSpec(instantiate=partial(_merged, given), fields=groups)
        if info.type not in GROUPS.values():
            return None
        members = []
        for name, field in info.type.model_fields.items():
            kind: Any = _flag(name, field.annotation, getattr(defaults, name), completes=completes)
            if shown is not None and name not in shown:
                kind = Annotated[kind, Suppress]
            members.append(StructFieldSpec(name, kind, getattr(defaults, name), helptext=field.description))
        return StructConstructorSpec(instantiate=dict, fields=tuple(members))

    registry = ConstructorRegistry()
    registry.struct_rule(rule)
    return registry


def _merged(given: Collection[str], **groups: dict[str, Any]) -> Settings:
    return Settings({name: value for group in groups.values() for name, value in group.items() if name in given})


def _flag(name: str, annotation: Any, default: Any, *, completes: bool) -> Any:
    """Return the type that tyro sees for a setting; pydantic checks the value, which is only split into words here."""
    aliases = (f"--{_SHORT[name]}",) if name in _SHORT else None
    hint = "" if default is None else None
    if isinstance(default, str) and not default.isprintable():  # a newline
        hint = f"(default: {json.dumps(default)})"
    options = arg(name=name, prefix_name=False, aliases=aliases, help_behavior_hint=hint)
    if annotation is bool:
        return Annotated[bool, options]
    leaves = _leaves(annotation)
    choices = tuple(METHODS) if name in ("method", "methods") else _choices(leaves)
    spec = PrimitiveConstructorSpec(
        nargs="*" if any(get_origin(leaf) is tuple for leaf in leaves) else 1,
        metavar=_placeholder(name, leaves),
        instance_from_str=partial(_value, leaves),
        is_instance=lambda _: True,
        str_from_instance=_words,
        choices=choices or None if completes else None,
    )
    return Annotated[Any, spec, options]


def _leaves(annotation: Any) -> list[Any]:
    """Return the types of a union, without their marks."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _leaves(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [leaf for part in get_args(annotation) for leaf in _leaves(part)]
    return [annotation]


def _choices(leaves: Sequence[Any]) -> tuple[str, ...]:
    return tuple(choice for leaf in leaves if get_origin(leaf) is Literal for choice in get_args(leaf))


def _placeholder(name: str, leaves: Sequence[Any]) -> str:
    for leaf in leaves:
        if get_origin(leaf) is tuple:
            return f"{_placeholder(name, _leaves(get_args(leaf)[0]))} ..."
    if choices := _choices(leaves):
        return "|".join(choices)
    if int in leaves:
        return "INT"
    if float in leaves:
        return "FLOAT"
    return "PATH" if name.endswith("_dir") else "NAME"


def _value(leaves: Sequence[Any], words: Sequence[str]) -> Any:
    """Return the value that words stand for; what is no number stays text, for pydantic to refuse."""
    if len(words) == 1:
        [word] = words
        if word in _choices(leaves):
            return word
        if type(None) in leaves and word in ("None", "null"):
            return None
    for leaf in leaves:
        if get_origin(leaf) is tuple:
            return tuple(_value(_leaves(get_args(leaf)[0]), [word]) for word in words)
    if int in leaves or float in leaves:
        for number in (int, float):
            with contextlib.suppress(ValueError):
                return number(words[0])
    return words[0]


def _words(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list | tuple) else [str(value)]
