"""The command line `lrd`: finds the command, runs it, and turns errors and signals into one line and a status."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lrd_peft.runtime.errors import UserError, explain_os_error, nearest
from lrd_peft.runtime.interrupt import Stopped, heard
from lrd_peft.runtime.logs import shown_logs
from lrd_peft.runtime.processes import first_to_fail, is_main, num_processes

USER_ERROR, INTERRUPTED, BROKEN_PIPE = 2, 130, 141
_MEMORY_MESSAGE = (
    "error: out of memory; finished phases are kept. Reduce teacher_batch_size, eval_batch_size (extraction) or "
    "batch_size (raise gradient_accumulation_steps to match), or use --gradient_checkpointing or --dtype bfloat16"
)


@dataclass(frozen=True, slots=True)
class Command:
    """One command in the overview; its arguments are in `commands.py`, or in `runs.py` if it takes a configuration.

    Attributes:
        help: Its line in `lrd --help`.
        resumes: It takes a configuration, and the same command resumes where it stopped.
        together: Several processes can run it together (torchrun, accelerate launch).
    """

    help: str
    resumes: bool = False
    together: bool = False


COMMANDS: dict[str, Command] = {
    "run": Command("Run all phases and print the results.", resumes=True, together=True),
    "train-teacher": Command("Phase 1: train the teacher.", resumes=True, together=True),
    "extract": Command("Phase 2: store the teacher's hidden states.", resumes=True, together=True),
    "distill": Command("Phase 3: train the student.", resumes=True, together=True),
    "evaluate": Command("Phase 4: evaluate on held-out problems.", resumes=True, together=True),
    "solve": Command("Answer questions with the student of a run."),
    "inspect": Command("Decode a student's thoughts and compare its layers with the teacher's."),
    "ablate": Command("Replace a model's thoughts and see what its answers lose."),
    "probe": Command("Read intermediate results in a model's hidden states, with controls."),
    "parallel": Command("Refine a model's thoughts in parallel: accuracy against passes."),
    "compare": Command("Compare two runs problem by problem (McNemar)."),
    "show": Command("Print the results of a finished run."),
    "verify": Command("Check every file of a run folder for damage."),
    "study": Command("Run a grid of configurations; finished cells are skipped.", resumes=True),
    "report": Command("Draw figures and tables of results, and one HTML page."),
    "problems": Command("Print problems as JSON lines."),
    "export": Command("Write a model that thinks as a transformers model that needs this package no more."),
    "push": Command("Upload a run's student, teacher, records or store to the Hugging Face Hub."),
    "import": Command("Bring a checkpoint of Coconut, CODI, PCCoT or SIM-CoT here."),
    "serve": Command("Answer requests to OpenAI's completion endpoints, in batches."),
    "play": Command("Ask a model in the browser, look into its thoughts, change them."),
    "lm-eval": Command("Evaluate a model that thinks with lm-evaluation-harness."),
    "env": Command("Print versions, processor and devices, for a report of a problem."),
}


def overview() -> str:
    """Return what `lrd --help` prints."""
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items())
    return (
        "usage: lrd COMMAND [arguments]\n\n"
        "Teach a language model to reason in continuous thoughts, and distill it into a smaller one.\n\n"
        f"commands:\n{rows}\n\n"
        "lrd COMMAND --help shows the flags of a command, lrd --version the version.\n"
        "lrd --print-completion bash|zsh|fish prints a completion script for the shell.\n"
        "LRD_TRACEBACK=1 in the environment shows where an error comes from.\n"
        "Start with: lrd run --config demo"
    )


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run one command and return the exit status; `None` and 0 mean success."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Imports make many objects: looking through them as often as by default is a sixth of the start.
    gc.set_threshold(10_000)
    if num_processes() > 1:
        # DDP remarks in each process that find_unused_parameters costs time where all parameters are used.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    resumes = bool(arguments) and arguments[0] in COMMANDS and COMMANDS[arguments[0]].resumes
    try:
        with contextlib.ExitStack() as stack:
            if not is_main():  # one of several processes
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            status = _dispatch(arguments)
        sys.stdout.flush()  # A broken pipe shows here rather than at exit.
        return status
    except BrokenPipeError:
        # Python flushes stdout once more at exit, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt as stop:
        hint = "; run the same command to resume" if resumes else ""
        by = f" by {stop}" if isinstance(stop, Stopped) else ""
        status = stop.status if isinstance(stop, Stopped) else INTERRUPTED
        message = f"interrupted{by}{hint}"
    except (UserError, OSError) as error:
        if os.environ.get("LRD_TRACEBACK") == "1":
            raise
        text = _os_message(error, resumes=resumes) if isinstance(error, OSError) else str(error)
        status, message = USER_ERROR, f"error: {text}"
    except Exception as error:
        if not _is_out_of_memory(error) or os.environ.get("LRD_TRACEBACK") == "1":
            if first_to_fail():
                raise
            return USER_ERROR  # Another process has failed first and says why.
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
    if name in ("--print-completion", "--print_completion"):
        from lrd_peft.cli.runs import print_completion

        helps = {command: row.help for command, row in COMMANDS.items()}
        print_completion(rest[0] if rest else "", helps)
        return None
    if name not in COMMANDS:
        if name.startswith("-"):
            raise UserError(f"{name} needs a command before it: lrd run {' '.join(arguments)}")
        raise UserError(f'unknown command "{name}".{nearest(name, COMMANDS)} See lrd --help.')
    if num_processes() > 1 and not COMMANDS[name].together:
        raise UserError(f"lrd {name} runs in one process, but {num_processes()} were started: drop the launcher")
    with shown_logs(), heard():
        return _read(name, rest)()


def _read(name: str, arguments: Sequence[str]) -> Callable[[], int | None]:
    """Return what a command does with these arguments; imports tyro, and pydantic only where flags are settings."""
    if COMMANDS[name].resumes:
        from lrd_peft.cli.runs import read_run_command

        return read_run_command(name, arguments, COMMANDS[name].help)
    from lrd_peft.cli.commands import read_command

    return read_command(name, arguments, COMMANDS[name].help)


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether a device or the system ran out of memory; for the latter, torch raises a plain RuntimeError."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(error)


def _os_message(error: OSError, *, resumes: bool) -> str:
    place = f' "{error.filename}"' if error.filename else ""
    if isinstance(error, PermissionError):
        return f"no permission for{place}; choose another folder" + (" with --output_dir" if resumes else "")
    if error.errno == errno.ENOSPC:
        hint = "; free some space, then run the same command to resume" if resumes else ""
        return f"no space left on the disk{place and ' for' + place}{hint}"
    return f"{explain_os_error(error)}{place and ':' + place}"
