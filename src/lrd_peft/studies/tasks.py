"""The tasks of a study: teachers and stores that cells share, and the cells.

ROOT/shared/teacher-FINGERPRINT   phase 1 of all cells with the same fingerprint, run once
ROOT/shared/store-FINGERPRINT     phase 2, the same
ROOT/NAME/cells/CELL--seedK       run folder; its teacher/ and store/ are links to the shared ones
ROOT/NAME/records/CELL--seedK.json    exists when the cell is done; copied from another study that has the same cell
ROOT/NAME/thoughts/CELL--seedK.*.json  its ablation and its probes, if its settings ask for them
ROOT/NAME/study.json              description of the study
ROOT/*/logs, ROOT/*/locks         output of each task; locks of the tasks in progress

A lock ends with the process that holds it, even by `kill -9`.
"""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lrd_peft.config import PHASES, Phase, RunConfig
from lrd_peft.evaluation.records import Record, read_record, write_record
from lrd_peft.pipeline.ledger import PhaseLedger
from lrd_peft.pipeline.reuse import SHARED, link_phase
from lrd_peft.pipeline.run_folder import ABLATION, PROBES, RunPaths, wanted_looks
from lrd_peft.pipeline.run_lock import RunLock
from lrd_peft.runtime.environment import portable
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.files import locked
from lrd_peft.runtime.json_files import write_atomic
from lrd_peft.runtime.logs import shown_logs
from lrd_peft.studies.grid import Cell

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """The paths of one study and of the folders that it shares with its neighbors."""

    root: Path
    name: str

    @property
    def path(self) -> Path:
        return self.root / self.name

    @property
    def records(self) -> Path:
        return self.path / "records"

    @property
    def thoughts(self) -> Path:
        return self.path / "thoughts"

    def shared(self, name: str) -> RunPaths:
        """Return the folder of a shared teacher or store: a run folder in which only some phases run."""
        return RunPaths(self.root / "shared" / name)


@dataclass(frozen=True, slots=True)
class Task:
    """A part of a study that one process runs: a shared teacher, a shared store, or a cell.

    Attributes:
        name: unique in the study.
        kind: the shared phase, or "cell".
        needs: phase -> name of the shared task that must be done before.
        config: of the cell, or of the first cell that shares it.
        folder: of the study.
        keep_student: keep a cell's student and graded problems after its record is written.
    """

    name: str
    kind: Phase | Literal["cell"]
    config: RunConfig
    folder: StudyFolder
    needs: dict[Phase, str]
    keep_student: bool = False

    @property
    def record(self) -> Path:
        """Path of a cell's record."""
        return self.folder.records / f"{self.name}.json"

    @property
    def log(self) -> Path:
        """File of the task's output."""
        return self._beside("logs", ".log")

    def is_done(self) -> bool:
        if self.kind == "cell":
            return self.record.is_file()
        return PhaseLedger(self.folder.shared(self.name), self.config).finished(self.kind) is not None

    def is_taken(self) -> bool:
        """Return whether a process works on it."""
        if not self._lock_path.exists():
            return False
        with locked(self._lock_path) as mine:
            return not mine

    def lock(self) -> contextlib.AbstractContextManager[bool]:
        """Lock the task for the block; yields False if another process holds it."""
        self._lock_path.parent.mkdir(parents=True, exist_ok=True)
        return locked(self._lock_path)

    @property
    def _lock_path(self) -> Path:
        return self._beside("locks", ".lock")

    def _beside(self, what: str, suffix: str) -> Path:
        place = self.folder.path if self.kind == "cell" else self.folder.root / "shared"
        return place / what / (self.name + suffix)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended; "busy" means that another process works on it."""

    status: Literal["done", "busy", "failed"]
    message: str = ""


def tasks_of(cells: Sequence[Cell], folder: StudyFolder, *, keep_students: bool = False) -> list[Task]:
    """Return the tasks of cells, each after those that it needs, including those that are done."""
    tasks: dict[str, Task] = {}
    for cell in cells:
        needs: dict[Phase, str] = {}
        for phase in SHARED:
            if phase not in cell.config.needed_phases:
                continue
            name = f"{phase}-{cell.config.fingerprint(phase)}"
            tasks.setdefault(name, Task(name, phase, cell.config, folder, dict(needs)))
            needs[phase] = name
        tasks[cell.name] = Task(cell.name, "cell", cell.config, folder, needs, keep_students)
    return list(tasks.values())


def perform(task: Task) -> Outcome:
    """Run a task unless it is done or another process runs it; its output goes to its log.

    An error becomes the outcome, so that the other tasks of the study continue.
    """
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with (
        shown_logs(),
        task.log.open("a", encoding="utf-8", buffering=1) as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        logger.info("%s  %s", time.strftime("%Y-%m-%d %H:%M:%S"), task.name)
        try:
            with task.lock() as mine:
                if not mine:
                    return Outcome("busy")
                if not task.is_done():
                    _work(task)
            return Outcome("done")
        except Exception as error:
            traceback.print_exc()
            name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            return Outcome("failed", f"{name}{' '.join(str(error).split())} (log: {task.log})")


def _work(task: Task) -> None:
    from lrd_peft.pipeline.preflight import preflight  # loads torch
    from lrd_peft.pipeline.runner import run_phases

    if task.kind != "cell":
        run = task.folder.shared(task.name)
        with RunLock(run).hold(patient=True):  # a cell may be rebuilding a damaged part of it
            _link(task, run)
            run_phases(task.config, (*task.needs, task.kind), held=run)
        return
    if not task.keep_student and (record := _same_run(task)) is not None:
        task.record.parent.mkdir(parents=True, exist_ok=True)
        write_record(task.record, record)
        return
    preflight(task.config)
    with RunLock.claim(task.config) as run:
        _link(task, run)
        run_phases(task.config, PHASES, held=run)
        record = read_record(run.record)
        _keep_looks(task, run.root)
        if not task.keep_student:
            # Before the record: a process killed here finds the run finished when it is started again.
            PhaseLedger(run, task.config).discard_student()
    task.record.parent.mkdir(parents=True, exist_ok=True)
    write_record(task.record, record)


def _keep_looks(task: Task, folder: Path, *, prefix: str = "") -> None:
    """Copy what a cell found about its thoughts to where it stays when the student goes.

    Args:
        task: The cell.
        folder: Where the files are.
        prefix: What their names begin with there.
    """
    for name in (ABLATION, PROBES):
        path = folder / f"{prefix}{name}"
        if path.is_file():
            task.folder.thoughts.mkdir(parents=True, exist_ok=True)
            write_atomic(task.folder.thoughts / f"{task.name}.{name}", path.read_bytes())


def _same_run(task: Task) -> Record | None:
    """Take over a cell of the same configuration from a neighboring study; return its record, or None."""
    wanted, looks = portable(task.config.result_fields()), wanted_looks(task.config)
    for path in sorted(task.folder.root.glob(f"*/records/*--seed{task.config.run.seed}.json")):
        try:
            record = read_record(path)
            found = RunConfig.from_flat(record.config)
        except UserError:  # damaged, or of another version
            continue
        thoughts, prefix = path.parent.parent / "thoughts", f"{path.stem}."
        if portable(found.result_fields()) != wanted or not all((thoughts / f"{prefix}{x}").is_file() for x in looks):
            continue
        logger.info("taken over from %s, which has the same configuration", path)
        _keep_looks(task, thoughts, prefix=prefix)
        return record
    return None


def _link(task: Task, run: RunPaths) -> None:
    """Link the shared folders that a task needs into a run folder."""
    for phase, name in task.needs.items():
        link_phase(task.folder.shared(name), phase, run)
