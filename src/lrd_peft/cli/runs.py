"""The commands that take a configuration: the phases and studies. Their flags are its settings."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from lrd_peft.cli.commands import KINDS
from lrd_peft.config import PHASES, Phase, RunConfig, parse_request
from lrd_peft.config.flags import PhaseFlags, RunFlags, completion_script, parse_flags
from lrd_peft.config.flat import GROUPS, FlatConfig
from lrd_peft.runtime.errors import UserError

logger = logging.getLogger(__name__)

FIRST = (
    *("teacher", "student", "dataset", "method", "distill_alpha", "distill_layers", "lora_r"),
    *("learning_rate", "epochs", "batch_size", "output_dir", "seed", "device"),
)
"""Settings that `lrd run --help` shows."""


def _groups(*names: str) -> tuple[str, ...]:
    return tuple(setting for name in names for setting in GROUPS[name].model_fields)


@dataclass(frozen=True, slots=True)
class Part:
    """A command that runs phases.

    Attributes:
        phases: What it runs.
        shown: Settings in its help text.
        kind: Its flags.
    """

    phases: tuple[Phase, ...]
    shown: tuple[str, ...]
    kind: type[RunFlags] = RunFlags


_BASIS = ("model", "data", "thinking")
PARTS: dict[str, Part] = {
    "run": Part(PHASES, FIRST, PhaseFlags),
    "train-teacher": Part(("teacher",), _groups(*_BASIS, "teacher", "adapter", "optimizer", "run")),
    "extract": Part(("store",), _groups(*_BASIS, "store", "distill", "run")),
    "distill": Part(("student",), _groups(*_BASIS, "student", "distill", "adapter", "optimizer", "run"), PhaseFlags),
    "evaluate": Part(("evaluation",), _groups(*_BASIS, "evaluation", "run")),
}


@dataclass(frozen=True, kw_only=True)
class StudyFlags(RunFlags):
    """`lrd study`."""

    name: Annotated[Positional[str], arg(metavar="NAME")]
    """Study that ships with the package, or a YAML file."""
    quick: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """Run the small variant: one seed, small budgets."""
    seeds: Annotated[tuple[int, ...] | None, arg(metavar="INT ...", help_behavior_hint="")] = None
    """Seeds, instead of the study's."""
    shard: Annotated[str | None, arg(metavar="K/N", help_behavior_hint="")] = None
    """Run only part K of N; the parts do not depend on what is done."""
    workers: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: 2)")] = None
    """Tasks that run at a time."""
    keep_students: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """Keep the students in the cells' run folders."""

    def __call__(self) -> None:
        from lrd_peft.studies.run import study

        study(
            self.name,
            self.settings,
            recipe=self.config,
            dry_run=self.dry_run,
            quick=self.quick,
            seeds=self.seeds,
            shard=self.shard,
            num_workers=self.workers,
            keep_students=self.keep_students,
        )


def read_run_command(name: str, argv: Sequence[str], description: str) -> Callable[[], None]:
    """Parse the flags of a command and return what it does; `--help` prints and exits.

    Raises:
        UserError: If a flag is wrong.
    """
    if name in PARTS:
        return _phases(name, argv, description)
    description = f"{description} Any lrd run flag overrides every cell."
    return parse_flags(StudyFlags, argv, prog="lrd study", description=description, defaults=FlatConfig(), shown=())


def print_completion(shell: str, helps: dict[str, str]) -> None:
    """Print the completion script of the whole command line.

    Args:
        shell: bash, zsh or fish.
        helps: Description of each command.

    Raises:
        UserError: If the shell is another one.
    """
    shells = ("bash", "zsh", "fish")
    if shell not in shells:
        raise UserError(f'no completion for "{shell}"; use lrd --print-completion with one of {", ".join(shells)}')
    kinds: dict[str, Any] = {**{name: part.kind for name, part in PARTS.items()}, **KINDS, "study": StudyFlags}
    commands = tuple(
        Annotated[kinds[name], tyro.conf.subcommand(name, description=help, prefix_name=False)]
        for name, help in helps.items()
    )
    completion_script(Union[commands], shell, prog="lrd")  # noqa: UP007 (built at run time)


def _phases(name: str, argv: Sequence[str], description: str) -> Callable[[], None]:
    part = PARTS[name]
    request = parse_request(argv, kind=part.kind, prog=f"lrd {name}", description=description, shown=part.shown)

    def run() -> None:
        if request.without_effect:
            given = ", ".join(f"--{name}" for name in request.without_effect)
            logger.warning("no effect on a run of method %s: %s", request.config.student.method, given)
        if request.dry_run:
            from lrd_peft.pipeline.dry_run.describe import dry_run

            print(dry_run(request.config))
            return
        from lrd_peft.pipeline.runner import run_phases
        from lrd_peft.runtime.processes import is_main, leave

        run_phases(request.config, part.phases, from_run=request.from_run)
        if "evaluation" in part.phases:
            from lrd_peft.report.run_summary import show

            root = Path(request.config.run.output_dir)
            print(show(root))
            if request.config.run.report_to != "none" and is_main():
                from lrd_peft.integrations.trackers import track_results
                from lrd_peft.report.write_report import write_report

                write_report(root, root / "report")
                track_results(request.config, root / "report")
            print(_next_commands(root, request.config))
        leave()

    return run


def _next_commands(root: Path, config: RunConfig) -> str:
    """Return what a user may do with a finished run."""
    run = shlex.quote(str(root))
    lines = [f"Run folder: {root}", "Next:"]
    if config.trains_student:
        lines.append(f'  lrd solve {run} "QUESTION"')
        if config.thinks:
            lines += [f"  lrd ablate {run}", f"  lrd probe {run}", f"  lrd inspect {run}"]
    return "\n".join([*lines, f"  lrd report {run}", f"  lrd compare {run} OTHER_RUN"])
