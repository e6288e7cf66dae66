"""The command line `lrd`: names a command, calls the room that does it, turns errors into one line.

Knows no models and no phases: what is heavy is imported by the command that needs it: `lrd --help` is quick.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from lrd_peft.errors import UserError, nearest
from lrd_peft.interrupt import Stopped, heard
from lrd_peft.processes import first_to_fail, is_main, leave, num_processes

USER_ERROR, INTERRUPTED, BROKEN_PIPE = 2, 130, 141
_MEMORY_MESSAGE = (
    "error: out of memory; finished phases are kept. Give a smaller teacher_batch_size, eval_batch_size (extraction) "
    "or, with more gradient_accumulation_steps, batch_size, or --dtype bfloat16"
)


@dataclass(frozen=True, slots=True)
class Command:
    """One subcommand.

    Attributes:
        help: one line for `lrd --help`.
        run: does it, from the arguments after its name; may return an exit status.
        resumes: the same command again goes on where it stopped.
        together: several processes can do it together (torchrun, accelerate launch).
    """

    help: str
    run: Callable[[Sequence[str]], int | None]
    resumes: bool = False
    together: bool = False


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are UserErrors, with both spellings of a flag and the nearest right one."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"lrd {command}", description=description, allow_abbrev=False)
        self._flags: list[str] = ["--help"]

    def flag(self, name: str, **settings: object) -> None:
        """Add `--some_name`, which may be written `--some-name` too."""
        self._flags.append(name)
        spellings = dict.fromkeys((name, "--" + name[2:].replace("_", "-")))
        self.add_argument(*spellings, **settings)  # pyright: ignore[reportArgumentType]

    def parse(self, arguments: Sequence[str], *, others: Sequence[str] = ()) -> argparse.Namespace:
        """Parse; flags named in `others`, with their values, are not for this parser: they are the result's `rest`."""
        found, rest = self.parse_known_args(list(arguments))
        unknown = [flag for flag in rest if not others or (flag.startswith("--") and _field(flag) not in others)]
        if unknown:
            flag = unknown[0].partition("=")[0]
            if not flag.startswith("-"):
                raise UserError(f'"{flag}" is one argument too many. See {self.prog} --help.')
            hint = nearest(f"--{_field(flag)}", [*self._flags, *(f"--{other}" for other in others)])
            raise UserError(f"unknown flag {flag}.{hint} See {self.prog} --help.")
        found.rest = rest
        return found

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. See {self.prog} --help.")


def _field(flag: str) -> str:
    return flag.partition("=")[0].lstrip("-").replace("-", "_")


def _phases(name: str, phases: tuple[str, ...], help: str) -> Command:
    """Return the command that runs some of the phases: its flags are the configuration's fields."""

    def run(arguments: Sequence[str]) -> None:
        from lrd_peft.config import parse_request

        request = parse_request(arguments, prog=f"lrd {name}", description=help)
        if request.dry_run:
            from lrd_peft.experiments.dry_run import dry_run

            print(dry_run(request.config))
        else:
            from lrd_peft.experiments.runner import run_phases

            run_phases(request.config, phases)
            if "evaluation" in phases:
                from lrd_peft.report.tables import show

                print(show(Path(request.config.output_dir)))
            leave()

    return Command(help, run, resumes=True, together=True)


def _solve(arguments: Sequence[str]) -> None:
    parser = _Parser("solve", COMMANDS["solve"].help)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("questions", nargs="+", metavar="QUESTION", help="a question, in quotes")
    found = parser.parse(arguments)
    run = _existing(found.run)
    from lrd_peft.phases.solve import solve

    print(solve(run, found.questions))


def _inspect(arguments: Sequence[str]) -> None:
    parser = _Parser("inspect", COMMANDS["inspect"].help)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder of a student that thinks")
    parser.flag("--num_problems", type=int, help="held-out problems (default: 60 for the answers, 200 compared)")
    parser.flag("--output", type=Path, help="folder for the two files, a study's for example (default: RUN)")
    found = parser.parse(arguments)
    run = _existing(found.run)
    from lrd_peft.phases.inspect import inspect

    print("\n".join(inspect(run, num_problems=found.num_problems, output=found.output)))


def _compare(arguments: Sequence[str]) -> None:
    parser = _Parser("compare", COMMANDS["compare"].help)
    parser.add_argument("run_a", type=Path, metavar="RUN_A", help="run folder or record")
    parser.add_argument("run_b", type=Path, metavar="RUN_B", help="run folder or record")
    found = parser.parse(arguments)
    run_a, run_b = _existing(found.run_a), _existing(found.run_b)
    from lrd_peft.experiments.compare import compare

    print(compare(run_a, run_b))


def _show(arguments: Sequence[str]) -> None:
    parser = _Parser("show", COMMANDS["show"].help)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder or record")
    run = _existing(parser.parse(arguments).run)
    from lrd_peft.report.tables import show

    print(show(run))


def _report(arguments: Sequence[str]) -> int | None:
    parser = _Parser("report", COMMANDS["report"].help)
    parser.add_argument(
        "results", nargs="?", type=Path, default=Path("results"), help="results folder, run folder or record"
    )
    parser.flag("--output_dir", type=Path, help="folder for all of it (default: enhanced_figures, or RUN/report)")
    parser.flag("--reference", action="store_true", help="draw the specification's claims too, labelled as such")
    parser.flag("--check", action="store_true", help="only: do the marked numbers of README.md and docs/ follow?")
    parser.flag("--update", action="store_true", help="only: write the marked numbers and tables anew")
    found = parser.parse(arguments)
    if found.check or found.update:
        from lrd_peft.report.check import check

        lines = check(Path.cwd(), update=found.update)
        print("\n".join(lines) or "every marked number follows from the records")
        return USER_ERROR if lines and not found.update else None
    from lrd_peft.report.build import build

    place = found.results
    beside = (place.parent if place.is_file() else place) / "report"
    output = found.output_dir or (Path("enhanced_figures") if place == Path("results") else beside)
    print("\n".join(build(place, output, reference=found.reference)))
    return None


def _pretrain(arguments: Sequence[str]) -> None:
    parser = _Parser("pretrain", COMMANDS["pretrain"].help)
    parser.add_argument("name", metavar="NAME", help="tiny-teacher or tiny-student")
    parser.flag("--output_dir", type=Path, help="folder that becomes the model (default: runs/pretrain/NAME)")
    parser.flag("--scale", type=float, default=1.0, help="share of the training; below 1 for a quick try")
    parser.flag("--num_threads", type=int, help="CPU threads of torch")
    found = parser.parse(arguments)
    if not found.scale > 0:
        raise UserError(f"--scale is {found.scale:g}; it must be above 0")
    if found.num_threads is not None and found.num_threads < 1:
        raise UserError(f"--num_threads is {found.num_threads}; it must be at least 1")
    from lrd_peft.phases.pretrain import pretrain

    folder = found.output_dir or Path("runs", "pretrain", found.name)
    print(pretrain(found.name, output_dir=folder, scale=found.scale, threads=found.num_threads))


def _verify(arguments: Sequence[str]) -> None:
    parser = _Parser("verify", COMMANDS["verify"].help)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    run = _existing(parser.parse(arguments).run)
    from lrd_peft.experiments.verify import verify

    checked = verify(run)
    print(checked.report())
    checked.complain()


def _problems(arguments: Sequence[str]) -> None:
    parser = _Parser("problems", COMMANDS["problems"].help)
    parser.add_argument("name", metavar="NAME", help='data set, as in --dataset of "lrd run"')
    parser.flag("--split", default="train", help="train, validation or test (default: train)")
    parser.flag("--limit", type=int, default=10, help="at most so many of each set; 0 for all (default: 10)")
    parser.flag("--seed", type=int, default=0, help="draws the problems of the generated sets (default: 0)")
    parser.flag("--data_dir", type=Path, help="folder with local files, instead of the hub")
    parser.flag("--steps_style", default="text", help="text or equations (default: text)")
    found = parser.parse(arguments)
    import json

    from lrd_peft.data import load_problems

    problems = load_problems(
        found.name,
        split=found.split,
        limit=None if found.limit == 0 else found.limit,
        seed=found.seed,
        data_dir=found.data_dir,
        steps_style=found.steps_style,
    )
    for problem in problems:
        print(json.dumps(problem.to_row(), ensure_ascii=False))
    print(problems.report(), file=sys.stderr)


def _study(arguments: Sequence[str]) -> None:
    from lrd_peft.config import RunConfig

    parser = _Parser("study", f"{COMMANDS['study'].help} Any flag of lrd run goes over what all cells have.")
    parser.add_argument("name", metavar="NAME", help="a file of configs/studies, or the path of one")
    parser.flag("--quick", action="store_true", help="the small variant: one seed, small budgets")
    parser.flag("--seeds", type=int, nargs="+", help="instead of the study's")
    parser.flag("--shard", help="2/8: only the second of eight parts, the same whatever is done")
    parser.flag("--workers", type=int, help="tasks at a time (default: 2; with ray, the cluster's processors)")
    parser.flag("--executor", default="local", help="local or ray, the cluster of RAY_ADDRESS (default: local)")
    parser.flag("--keep_students", action="store_true", help="leave the students in the cells' run folders")
    found = parser.parse(arguments, others=("config", "dry_run", "alpha", "lr", *RunConfig.model_fields))
    from lrd_peft.experiments.study_run import study

    study(
        found.name,
        found.rest,
        quick=found.quick,
        seeds=found.seeds,
        shard=found.shard,
        num_workers=found.workers,
        executor=found.executor,
        keep_students=found.keep_students,
    )


def _existing(path: Path) -> Path:
    if not path.exists():
        siblings = [str(other) for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f'there is no run "{path}".{nearest(str(path), siblings)}')
    return path


COMMANDS: dict[str, Command] = {
    "run": _phases("run", ("teacher", "store", "student", "evaluation"), "All phases, then the table."),
    "train-teacher": _phases("train-teacher", ("teacher",), "Phase 1: teach the teacher to think."),
    "extract": _phases("extract", ("store",), "Phase 2: write the teacher's hidden states to disk."),
    "distill": _phases("distill", ("student",), "Phase 3: train the student."),
    "evaluate": _phases("evaluate", ("evaluation",), "Phase 4: measure on held-out problems."),
    "solve": Command("Answer questions with the student of a run.", _solve),
    "inspect": Command("See what a student's thoughts decode to, and how like the teacher's its layers are.", _inspect),
    "compare": Command("Compare two runs problem by problem (McNemar).", _compare),
    "show": Command("Print the table of a finished run.", _show),
    "verify": Command("Read a whole run folder and say what is damaged.", _verify),
    "study": Command("Run a grid of runs: those that have no record yet.", _study, resumes=True),
    "report": Command("Draw the tables and figures of all results, and one HTML page.", _report),
    "problems": Command("Print problems as JSON lines.", _problems),
    "pretrain": Command("Make an embedded tiny model again, from its seed.", _pretrain),
}


def overview() -> str:
    """Return what `lrd --help` prints."""
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items())
    return (
        "usage: lrd COMMAND [arguments]\n\n"
        "Teach a language model to think in hidden states, and a smaller one to follow it.\n\n"
        f"commands:\n{rows}\n\n"
        "lrd COMMAND --help lists a command's flags; lrd --version prints the version.\n"
        "LRD_TRACEBACK=1 in the environment shows where an error comes from.\n"
        "Start with: lrd run --config configs/demo.yaml"
    )


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run one command and return the exit status; `None` and 0 are success."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if num_processes() > 1:
        # A remark of DDP's, from each process, that a pass may be spared where no parameter is ever left out.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    resumes = bool(arguments) and arguments[0] in COMMANDS and COMMANDS[arguments[0]].resumes
    try:
        with contextlib.ExitStack() as stack:
            if not is_main():  # of several processes
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            status = _dispatch(arguments)
        sys.stdout.flush()  # a broken pipe shows here rather than at exit
        return status
    except BrokenPipeError:
        # python flushes stdout once more at exit; that must not complain either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt as stop:
        on = "; the same command goes on from here" if resumes else ""
        by = f" by {stop}" if isinstance(stop, Stopped) else ""
        status = stop.status if isinstance(stop, Stopped) else INTERRUPTED
        message = f"interrupted{by}{on}"
    except (UserError, OSError) as error:
        if os.environ.get("LRD_TRACEBACK") == "1":
            raise
        text = _os_message(error, resumes=resumes) if isinstance(error, OSError) else str(error)
        status, message = USER_ERROR, f"error: {text}"
    except Exception as error:
        if not _is_out_of_memory(error) or os.environ.get("LRD_TRACEBACK") == "1":
            if first_to_fail():
                raise
            return USER_ERROR  # it only lost the process that has said why
        status, message = USER_ERROR, _MEMORY_MESSAGE
    if first_to_fail():
        print(f"lrd: {message}", file=sys.stderr)
    return status


def _dispatch(arguments: list[str]) -> int | None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return None if arguments else USER_ERROR
    name, *rest = arguments
    if name in ("-V", "--version"):
        from lrd_peft import __version__

        print(f"lrd {__version__}")
        return None
    if name not in COMMANDS:
        if name.startswith("-"):
            raise UserError(f"flags go after a command, {name} stands alone: lrd run {' '.join(arguments)}")
        raise UserError(f'there is no command "{name}".{nearest(name, COMMANDS)} See lrd --help.')
    if num_processes() > 1 and not COMMANDS[name].together:
        raise UserError(
            f"lrd {name} is work for one process, but {num_processes()} were started: leave the launcher out"
        )
    with heard():
        return COMMANDS[name].run(rest)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether a device or the system had no more memory: torch says the latter in a RuntimeError of its own."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(error)


def _os_message(error: OSError, *, resumes: bool) -> str:
    place = f' "{error.filename}"' if error.filename else ""
    if isinstance(error, PermissionError):
        return f"no permission for{place}; choose another folder" + (" with --output_dir" if resumes else "")
    if error.errno == errno.ENOSPC:
        on = "; free some space, then the same command goes on from here" if resumes else ""
        return f"no space left on the disk{place and ' for' + place}{on}"
    if error.errno is None:  # not from the system: libraries raise it with a message of their own
        return " ".join(str(error).split())
    return f"{error.strerror}{place and ':' + place}"


if __name__ == "__main__":
    sys.exit(main())
