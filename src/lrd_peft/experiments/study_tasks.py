"""What a study consists of on disk: teachers and stores that cells share, and the cells. Knows phases by name only.

ROOT/shared/teacher-FINGERPRINT   phase 1 of all cells that agree on its fields, made once
ROOT/shared/store-FINGERPRINT     phase 2, the same
ROOT/NAME/cells/CELL--seedK       run folder; its teacher/ and store/ are links to the shared ones
ROOT/NAME/records/CELL--seedK.json    there when the cell is done; taken over from another study that has the same cell
ROOT/NAME/study.json              what the records are about
ROOT/*/logs, ROOT/*/locks         what each task printed; who works on it

A lock is the system's own (flock): it ends with the process that holds it, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import ValidationError

from lrd_peft.config import PHASES, Phase, RunConfig
from lrd_peft.errors import UserError
from lrd_peft.experiments.studies import Cell
from lrd_peft.records import Record, portable, read_record, write_record
from lrd_peft.run_folder import RunFolder

SHARED: tuple[Phase, ...] = ("teacher", "store")


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """The paths of one study, and what it shares with those beside it."""

    root: Path
    name: str

    @property
    def path(self) -> Path:
        return self.root / self.name

    @property
    def records(self) -> Path:
        return self.path / "records"

    def shared(self, name: str) -> RunFolder:
        """Return the folder of a shared teacher or store: a run folder of which only some phases are run."""
        return RunFolder(self.root / "shared" / name)


@dataclass(frozen=True, slots=True)
class Task:
    """A piece of a study that one process does: a shared teacher, a shared store, or a cell.

    Attributes:
        name: unique in the study.
        needs: the names of the shared tasks that must be done before, by phase.
        config: of the cell, or of the first cell that shares it.
        keep_student: leave a cell's student and graded problems when its record is written.
    """

    name: str
    kind: Phase | Literal["cell"]
    config: RunConfig
    folder: StudyFolder
    needs: dict[Phase, str]
    keep_student: bool = False

    @property
    def record(self) -> Path:
        """Where a cell's record goes."""
        return self.folder.records / f"{self.name}.json"

    @property
    def log(self) -> Path:
        """What the task prints."""
        return self._beside("logs", ".log")

    def is_done(self) -> bool:
        if self.kind == "cell":
            return self.record.is_file()
        return self.folder.shared(self.name).finished(self.kind, self.config) is not None

    def is_taken(self) -> bool:
        """Return whether some process works on it."""
        if not self._lock_path.exists():
            return False
        try:
            with self.lock():
                return False
        except Timeout:
            return True

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the task for this process; filelock's Timeout at once if another process holds it."""
        self._lock_path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self._lock_path, blocking=False):
            yield

    @property
    def _lock_path(self) -> Path:
        return self._beside("locks", ".lock")

    def _beside(self, what: str, suffix: str) -> Path:
        place = self.folder.path if self.kind == "cell" else self.folder.root / "shared"
        return place / what / (self.name + suffix)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended; `busy`: another process works on it."""

    status: Literal["done", "busy", "failed"]
    message: str = ""


def tasks_of(cells: Sequence[Cell], folder: StudyFolder, *, keep_students: bool = False) -> list[Task]:
    """Return the cells' tasks, each after those that it needs; what is done is among them."""
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
    """Do a task, unless it is done or another process does it; what it prints goes to its log.

    An error is the outcome, not raised: the other tasks of the study go on.
    """
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with (
        task.log.open("a", encoding="utf-8", buffering=1) as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {task.name}")
        try:
            with task.lock():
                if not task.is_done():
                    _work(task)
            return Outcome("done")
        except Timeout:
            return Outcome("busy")
        except Exception as error:
            traceback.print_exc()
            name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            return Outcome("failed", f"{name}{' '.join(str(error).split())} (log: {task.log})")


def _work(task: Task) -> None:
    from lrd_peft.experiments.preflight import preflight  # loads torch
    from lrd_peft.experiments.runner import run_phases

    if task.kind != "cell":
        run = task.folder.shared(task.name)
        with run.hold(patient=True):  # a cell may be making a damaged part of it again
            _link(task, run)
            run_phases(task.config, (*task.needs, task.kind), held=run)
        return
    if not task.keep_student and (record := _same_run(task)) is not None:
        task.record.parent.mkdir(parents=True, exist_ok=True)
        write_record(task.record, record)
        return
    preflight(task.config)
    with RunFolder.claim(task.config) as run:
        _link(task, run)
        run_phases(task.config, PHASES, held=run)
        record = read_record(run.record)
        if not task.keep_student:
            # Before the record: a process killed here comes back and finds the run finished.
            run.discard_student()
    task.record.parent.mkdir(parents=True, exist_ok=True)
    write_record(task.record, record)


def _same_run(task: Task) -> Record | None:
    """Return the record that another study beside this one has of a cell's very configuration, or None."""
    wanted = portable(task.config.result_fields())
    for path in sorted(task.folder.root.glob(f"*/records/*--seed{task.config.seed}.json")):
        try:
            record = read_record(path)
            found = RunConfig.model_validate(record.config)
        except (UserError, ValidationError):  # damaged, or of another version: that study's concern
            continue
        if portable(found.result_fields()) == wanted:
            print(f"taken over from {path}: the same configuration")
            return record
    return None


def _link(task: Task, run: RunFolder) -> None:
    """Put the shared folders that a task needs, and then the markers that they are finished, into a run folder."""
    for phase, name in task.needs.items():
        for part in (phase, f"{phase}.done.json"):
            link = run.root / part
            if not link.is_symlink():
                link.symlink_to(os.path.relpath(task.folder.shared(name).root / part, run.root))
