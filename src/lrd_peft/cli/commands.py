"""The commands that read a finished run, results or data: their arguments, and what each does."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from lrd_peft.cli import sharing
from lrd_peft.runtime.command_line import parse
from lrd_peft.runtime.errors import UserError, nearest

Run = Annotated[Positional[Path], arg(metavar="RUN")]
Action = Callable[[], int | None]


@dataclass(frozen=True)
class Solve:
    """`lrd solve`."""

    run: Run
    """Run folder, or an embedded model that thinks, such as tiny-latent-student."""
    questions: Annotated[Positional[tuple[str, ...]], arg(metavar="QUESTION")]
    """Questions, each in quotes."""

    def __call__(self) -> None:
        if not self.questions:
            raise UserError("missing QUESTION. See lrd solve --help.")
        from lrd_peft.model.loading.embedded import THINKING_MODELS

        run = self.run if str(self.run) in THINKING_MODELS else _existing(self.run)
        from lrd_peft.pipeline.solve import solve

        print(solve(run, self.questions))


@dataclass(frozen=True)
class Inspect:
    """`lrd inspect`."""

    run: Run
    """Run folder of a latent student."""
    num_problems: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: 60 and 200)")] = None
    """Held-out problems to decode and to compare."""
    output: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: RUN)")] = None
    """Folder for answers.json and similarity.json."""

    def __call__(self) -> None:
        run = _existing(self.run)
        from lrd_peft.pipeline.inspect import inspect

        print("\n".join(inspect(run, num_problems=self.num_problems, output=self.output)))


@dataclass(frozen=True)
class _LatentModels:
    """What `lrd ablate`, `lrd probe` and `lrd parallel` look at."""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """Run folder, or a saved model that thinks, such as tiny-latent-student."""
    models: Annotated[tuple[str, ...], arg(metavar="METHOD ...", help_behavior_hint="(default: all that think)")] = ()
    """Methods of the run: teacher-latent, or its own."""
    dataset: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: those of the run)")] = None
    """Data set."""


@dataclass(frozen=True)
class Ablate(_LatentModels):
    """`lrd ablate`."""

    num_problems: Annotated[int, arg(metavar="INT")] = 300
    """Held-out problems of each data set."""
    output: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: RUN)")] = None
    """Folder for ablation.json."""

    def __call__(self) -> None:
        from lrd_peft.pipeline.ablate import ablate_run
        from lrd_peft.report.thought_tables import ablation_text

        found, path = ablate_run(
            self.run, models=self.models, dataset=self.dataset, num_problems=self.num_problems, output=self.output
        )
        _print_found(map(ablation_text, found.found), path)


@dataclass(frozen=True)
class Probe(_LatentModels):
    """`lrd probe`."""

    num_problems: Annotated[int, arg(metavar="INT")] = 1000
    """Held-out problems of each data set."""
    output: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: RUN)")] = None
    """Folder for probe.json."""

    def __call__(self) -> None:
        from lrd_peft.pipeline.probe import probe_run
        from lrd_peft.report.thought_tables import probe_text

        found, path = probe_run(
            self.run, models=self.models, dataset=self.dataset, num_problems=self.num_problems, output=self.output
        )
        _print_found(map(probe_text, found.found), path)


@dataclass(frozen=True)
class Parallel(_LatentModels):
    """`lrd parallel`."""

    num_problems: Annotated[int, arg(metavar="INT")] = 300
    """Held-out problems of each data set."""
    output: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: RUN)")] = None
    """Folder for parallel.json."""

    def __call__(self) -> None:
        from lrd_peft.pipeline.parallel import refine_run
        from lrd_peft.report.thought_tables import parallel_text

        found, path = refine_run(
            self.run, models=self.models, dataset=self.dataset, num_problems=self.num_problems, output=self.output
        )
        _print_found(map(parallel_text, found.found), path)


@dataclass(frozen=True)
class Env:
    """`lrd env`."""

    def __call__(self) -> None:
        from lrd_peft.pipeline.environment_text import environment_text

        print(environment_text())


@dataclass(frozen=True)
class Compare:
    """`lrd compare`."""

    run_a: Annotated[Positional[Path], arg(metavar="RUN_A")]
    """Run folder or record."""
    run_b: Annotated[Positional[Path], arg(metavar="RUN_B")]
    """Run folder or record."""

    def __call__(self) -> None:
        run_a, run_b = _existing(self.run_a), _existing(self.run_b)
        from lrd_peft.pipeline.compare import compare

        print(compare(run_a, run_b))


@dataclass(frozen=True)
class Show:
    """`lrd show`."""

    run: Run
    """Run folder or record."""

    def __call__(self) -> None:
        run = _existing(self.run)
        from lrd_peft.report.run_summary import show

        print(show(run))


@dataclass(frozen=True)
class Verify:
    """`lrd verify`."""

    run: Run
    """Run folder."""

    def __call__(self) -> None:
        run = _existing(self.run)
        from lrd_peft.pipeline.verify import verify

        checked = verify(run)
        print(checked.report())
        checked.complain()


@dataclass(frozen=True)
class Report:
    """`lrd report`."""

    results: Annotated[Positional[Path], arg(metavar="RESULTS")] = Path("results")
    """Results folder, run folder or record."""
    output_dir: Annotated[
        Path | None, arg(metavar="PATH", help_behavior_hint="(default: enhanced_figures, or RUN/report)")
    ] = None
    """Folder for the figures, tables and the page."""
    reference: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """Add the specification's claims, labeled as such."""

    def __call__(self) -> None:
        from lrd_peft.report.write_report import write_report

        place = self.results
        inside = (place.parent if place.is_file() else place) / "report"
        output = self.output_dir or (Path("enhanced_figures") if place == Path("results") else inside)
        print("\n".join(write_report(place, output, reference=self.reference)))


@dataclass(frozen=True)
class Problems:
    """`lrd problems`."""

    name: Annotated[Positional[str], arg(metavar="NAME")]
    """Data set, as in `lrd run --dataset`."""
    split: Literal["train", "validation", "test"] = "train"
    """Split."""
    limit: Annotated[int, arg(metavar="INT")] = 10
    """Maximum problems per data set (0 = all)."""
    seed: Annotated[int, arg(metavar="INT")] = 0
    """Seed of the generated data sets."""
    data_dir: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """Folder with local copies, used instead of the hub."""
    steps_style: Literal["text", "equations"] = "text"
    """Form of the reasoning steps."""
    columns: Annotated[tuple[str, ...], arg(metavar="FIELD=COLUMN ...", help_behavior_hint="")] = ()
    """Columns of a file or hub id, such as question=query answer=response."""

    def __call__(self) -> None:
        from lrd_peft.config.inputs import DataConfig
        from lrd_peft.data import load_problems

        columns = DataConfig.checked(columns=self.columns).column_names if self.columns else None

        problems = load_problems(
            self.name,
            split=self.split,
            limit=None if self.limit == 0 else self.limit,
            seed=self.seed,
            data_dir=self.data_dir,
            steps_style=self.steps_style,
            columns=columns,
        )
        for problem in problems:
            print(json.dumps(problem.to_row(), ensure_ascii=False))
        print(problems.report(), file=sys.stderr)


KINDS: dict[str, type[Any]] = {
    "solve": Solve,
    "inspect": Inspect,
    "ablate": Ablate,
    "probe": Probe,
    "parallel": Parallel,
    "compare": Compare,
    "show": Show,
    "verify": Verify,
    "report": Report,
    "problems": Problems,
    "env": Env,
    **sharing.KINDS,
}
"""Name and arguments of each command."""


def read_command(name: str, argv: Sequence[str], description: str) -> Action:
    """Parse the arguments of a command and return what it does; `--help` prints and exits.

    Raises:
        UserError: If an argument is wrong.
    """
    if name == "lm-eval":  # its arguments are the harness's own
        return functools.partial(sharing.lm_eval, argv, description)
    kind = KINDS[name]
    flags = ["help", *(field.name for field in fields(kind))]
    return parse(kind, argv, prog=f"lrd {name}", description=description, flags=flags)


def _print_found(texts: Iterable[str], path: Path | None) -> None:
    print("\n\n".join(texts))
    if path is not None:
        print(f"\nwritten  {path}")


def _existing(path: Path) -> Path:
    if not path.exists():
        siblings = [str(other) for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f'there is no run "{path}".{nearest(str(path), siblings)}')
    return path
