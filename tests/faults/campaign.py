"""Real runs of the embedded models that are disturbed, and whether their end is that of an undisturbed one.

The heavy modules are imported once; each run is a forked process of its own that calls the command line, so that a
kill hits the work and not the imports.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrd_peft.cli import app as cli
from lrd_peft.evaluation.records import comparable, read_record
from tests.pipeline.small_run import FLAGS

NAME = "run"  # of every run folder: a record holds it


def prepare() -> None:
    """Import what a run needs, and keep it off the network."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch

    torch.set_num_threads(1)
    for heavy in ("lrd_peft.pipeline.runner", "lrd_peft.pipeline.verify", "lrd_peft.report.run_summary"):
        importlib.import_module(heavy)


@dataclass
class Process:
    """A command line in a forked process; its output goes to a file."""

    pid: int
    output: Path
    ended: int | None = None
    processor_seconds: float = 0.0  # once it has ended

    def poll(self) -> int | None:
        """Return the exit status as `subprocess` gives it, or None."""
        return self._collect(os.WNOHANG)

    def wait(self) -> int:
        ended = self._collect(0)
        assert ended is not None
        return ended

    def _collect(self, options: int) -> int | None:
        if self.ended is None:
            pid, status, usage = os.wait4(self.pid, options)
            if pid != 0:
                self.ended = os.waitstatus_to_exitcode(status)
                self.processor_seconds = usage.ru_utime + usage.ru_stime
        return self.ended

    def wait_for_work(self, processor_seconds: float) -> None:
        """Return when it has worked for so long, or has ended: on a busy machine the clock says little."""
        stat = Path(f"/proc/{self.pid}/stat")
        while self.poll() is None:
            fields = stat.read_text().rpartition(")")[2].split()
            if (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") >= processor_seconds:
                return
            time.sleep(0.001)

    def signal(self, number: int) -> int:
        if self.poll() is None:
            os.kill(self.pid, number)
        return self.wait()

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    @property
    def error(self) -> str:
        """The last line; a traceback is never what a user should see."""
        lines = [line for line in self.text.splitlines() if line.strip()]
        return "Traceback!" if "Traceback (most" in self.text else lines[-1] if lines else ""


def start(*arguments: str, output: Path, before: Callable[[], None] | None = None) -> Process:
    """Start `lrd ARGUMENTS` in a fork; `before` is called in it first."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        warnings.simplefilter("ignore")
        try:
            with open(output, "wb", buffering=0) as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            if before is not None:
                before()
            status = cli.main(list(arguments)) or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return Process(pid, output)


def run_flags(folder: Path) -> tuple[str, ...]:
    return ("run", *FLAGS, "--output_dir", str(folder))


def finish(folder: Path, output: Path) -> str:
    """Give the command of the run and return what it printed; it must succeed."""
    process = start(*run_flags(folder), output=output)
    if process.wait() != 0:
        raise AssertionError(process.text)
    return process.text


def end_state(folder: Path) -> dict[str, Any]:
    """Return what must be the same: names of all files, bytes of weights and store, the record without clocks."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    state: dict[str, Any] = {"names": [str(path.relative_to(folder)) for path in paths]}
    for path in paths:
        if path.suffix == ".safetensors" or path.parent.name == "store":
            state[str(path.relative_to(folder))] = path.read_bytes()
    record = comparable(read_record(folder / "record.json"))
    return state | {f"record: {key}": value for key, value in record.items()}


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    return [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]


def place(folder: Path) -> str:
    """Return where a run stands, by its log."""
    lines = []
    if (folder / "log.jsonl").exists():
        for line in (folder / "log.jsonl").read_text().splitlines():
            lines.append(json.loads(line))
    if not lines:
        return "before the first phase"
    if lines[-1]["event"] == "phase finished":
        return "record" if lines[-1]["phase"] == "evaluation" else f"after {lines[-1]['phase']}"
    phase = next(line["phase"] for line in reversed(lines) if line["event"] == "phase begins")
    if phase != "teacher":
        return str(phase)
    stages = [line["stage"] for line in lines if line["event"] == "stage finished"]
    stage = stages[-1] + 1 if stages else 0
    return f"teacher, stage {stage}" if stage <= 2 else "teacher"


def undisturbed(root: Path) -> tuple[Path, float]:
    """Make a run that nothing disturbs; return its folder and the processor time that it took."""
    folder = root / "undisturbed" / NAME
    folder.parent.mkdir(parents=True)
    process = start(*run_flags(folder), output=root / "undisturbed.txt")
    assert process.wait() == 0, process.text
    return folder, process.processor_seconds


def copy(folder: Path, to: Path) -> Path:
    """Copy a run folder, without the rest of what was copied there before."""
    shutil.rmtree(to.parent, ignore_errors=True)
    shutil.copytree(folder, to)
    return to
