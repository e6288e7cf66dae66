"""Runs a study: starts the cells that have no record yet, shows progress, reports failures."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lrd_peft.config import RunConfig, differences
from lrd_peft.config.recipes import find_yaml
from lrd_peft.evaluation.records import Record, read_record
from lrd_peft.evaluation.study_description import StudyDescription, TunedCell
from lrd_peft.runtime.environment import portable
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.files import locked
from lrd_peft.runtime.json_files import read_optional, write_json_atomic
from lrd_peft.runtime.progress import Progress, duration
from lrd_peft.studies.grid import Cell, Study, make_study, shard_of
from lrd_peft.studies.tasks import StudyFolder, Task, tasks_of
from lrd_peft.studies.tuning import choice_line, trials_of
from lrd_peft.studies.workers import Processes

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0


def study(
    name: str,
    settings: Mapping[str, Any] | None = None,
    *,
    recipe: str | None = None,
    dry_run: bool = False,
    quick: bool = False,
    seeds: Sequence[int] | None = None,
    shard: str | None = None,
    num_workers: int | None = None,
    keep_students: bool = False,
) -> None:
    """Run the cells of a study that have no record yet.

    Args:
        name: a shipped study, or the path of a YAML file.
        settings: Settings that override the study's base in every cell.
        recipe: Recipe or YAML file that replaces the study's.
        dry_run: Only print the cells and which of them are done.
        quick: the small variant of the study.
        seeds: instead of those in the file.
        shard: "2/8" runs the second of eight parts.
        num_workers: tasks that run at the same time (default: 2).
        keep_students: keep the students and graded problems in the cells' run folders.

    Raises:
        UserError: if the request is invalid, existing records belong to another configuration, or a cell failed (after
            all others have run).
    """
    if num_workers is not None and num_workers < 1:
        raise UserError(f"--workers is {num_workers}; it must be at least 1")
    plan = make_study(find_yaml(name, what="study"), settings, recipe=recipe, quick=quick, seeds=seeds)
    if plan.tune is not None:
        plan = replace(plan, tuned=_known_choices(_folder(plan)))
    cells = _cells(plan, shard)
    trials = trials_of(plan, cells).without(plan.tuned)
    workers = num_workers or 2
    if dry_run:
        _show(trials.study, trials.cells)
        if not trials.cells:  # else the cells have values that are not chosen yet
            check_records(cells, _folder(plan))
        _show(plan, cells)
        return
    if trials.cells:
        _run_cells(trials.study, tasks_of(trials.cells, _folder(trials.study)), num_workers=workers)
        found = trials.choose()
        logger.info("\n".join(map(choice_line, found)))
        known = [chosen for chosen in plan.tuned if chosen.cell not in trials.points]
        plan = replace(plan, tuned=(*known, *found))
        cells = _cells(plan, shard)
    check_records(cells, _folder(plan))
    _run_cells(plan, tasks_of(cells, _folder(plan), keep_students=keep_students), num_workers=workers)


def _folder(plan: Study) -> StudyFolder:
    return StudyFolder(plan.root, plan.name)


def _cells(plan: Study, shard: str | None) -> list[Cell]:
    return shard_of(plan.cells(), shard) if shard else plan.cells()


def _show(plan: Study, cells: Sequence[Cell]) -> None:
    if cells:
        logger.info(plan_overview(plan, tasks_of(cells, _folder(plan)), num_cells=len(plan.cells())))


def _run_cells(plan: Study, tasks: Sequence[Task], *, num_workers: int) -> None:
    """Run the tasks of a study's cells, and write study.json.

    Raises:
        UserError: if a cell failed.
    """
    folder, cells = _folder(plan), [task for task in tasks if task.kind == "cell"]
    if not all(task.is_done() for task in cells):
        workers = Processes(num_workers)
        try:
            write_description(plan, folder)
            failures = run_tasks(tasks, workers, label=f"study {plan.name}")
        finally:
            workers.stop()
        if failures:
            lines = "\n".join(f"  {cell}: {reason}" for cell, reason in failures.items())
            raise UserError(f"{len(failures)} of {len(cells)} cells failed; the same command tries them again\n{lines}")
    logger.info("study %s: all %d cells have their records in %s", plan.name, len(cells), folder.records)


def _known_choices(folder: StudyFolder) -> tuple[TunedCell, ...]:
    """Return what earlier calls chose on validation problems, from study.json."""
    described = read_optional(folder.path / "study.json", StudyDescription)
    return () if described is None else described.tuned


def check_records(cells: Sequence[Cell], folder: StudyFolder) -> None:
    """Refuse records that belong to another configuration than the cells.

    Raises:
        UserError: naming the first record that differs, and its fields.
    """
    for cell in cells:
        path = folder.records / f"{cell.name}.json"
        if not path.is_file():
            continue
        try:
            held = RunConfig.from_flat(read_record(path).config)
        except UserError:
            raise UserError(f"{path} was written by another version of lrd_peft; {_elsewhere(folder)}") from None
        changed = differences(portable(held.result_fields()), portable(cell.config.result_fields()))
        if changed:
            listed = "; ".join(f"{field}: there {there!r}, now {now!r}" for field, there, now in changed)
            raise UserError(f"{path} is of another configuration ({listed}); {_elsewhere(folder)}")


def _elsewhere(folder: StudyFolder) -> str:
    return f"choose another --output_dir, or delete {folder.path}"


def write_description(plan: Study, folder: StudyFolder) -> None:
    """Write study.json, including the seeds of earlier calls."""
    lock = folder.path / "locks" / "study.json.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock, wait=True):  # two shards that begin together would write one temporary file
        seeds = {int(record.stem.rpartition("--seed")[2]) for record in folder.records.glob("*--seed*.json")}
        described = StudyDescription.from_json(plan.describe() | {"seeds": sorted(seeds | set(plan.seeds))})
        write_json_atomic(folder.path / "study.json", described.to_json())


def run_tasks(tasks: Sequence[Task], workers: Processes, *, label: str) -> dict[str, str]:
    """Run the tasks that are not done, each after those that it needs.

    A task that another process works on is left to it; if that process dies, the task is taken over.

    Args:
        tasks: shared tasks and cells.
        workers: who runs them.
        label: for progress lines.

    Returns:
        Failed cell -> reason.
    """
    clock = _Clock(workers.num_workers)
    cells = [task for task in tasks if task.kind == "cell"]
    waiting = {task.name: task for task in tasks if not task.is_done()}
    for cell in cells:
        if cell.name not in waiting:
            clock.learn(read_record(cell.record))
    unneeded = waiting.keys() - {cell.name for cell in cells} - {n for t in waiting.values() for n in t.needs.values()}
    for name in unneeded:
        del waiting[name]
    num_done = sum(cell.name not in waiting for cell in cells)
    logger.info("%s: %d of %d cells done, %d at a time", label, num_done, len(cells), workers.num_workers)
    failures: dict[str, str] = {}
    with Progress(label, total=len(cells), unit="cells", initial=num_done, uneven=True) as progress:
        while waiting:
            for task in _ready(waiting, workers, failures):
                workers.start(task)
            if not workers.running:
                time.sleep(_POLL_SECONDS)  # all that is left is under way elsewhere
            for task, outcome in workers.wait(_POLL_SECONDS) if workers.running else ():
                assert outcome.status != "done" or task.is_done()
                if outcome.status == "failed":
                    failures[task.name] = outcome.message
                    del waiting[task.name]
                    logger.info("%s: failed: %s", task.name, outcome.message)
            for task in [task for task in waiting.values() if task.is_done()]:
                del waiting[task.name]
                if task.kind == "cell":
                    num_done += 1
                    record = read_record(task.record)
                    clock.learn(record)
                    logger.info("[%d/%d] %s: %s", num_done, len(cells), task.name, _result(record))
                else:
                    logger.info("%s: ready", task.name)
            names = ", ".join(task.name for task in workers.running) or "waiting for other processes"
            progress.update(num_done, f"now: {names}", seconds_left=clock.seconds_left(waiting.values()))
    return {cell.name: failures[cell.name] for cell in cells if cell.name in failures}


def _ready(waiting: dict[str, Task], workers: Processes, failures: dict[str, str]) -> list[Task]:
    """Return the tasks that free workers can start; a task that needs a failed one fails here."""
    running = {task.name for task in workers.running}
    ready: list[Task] = []
    for task in list(waiting.values()):
        broken = [name for name in task.needs.values() if name in failures]
        if broken:
            failures[task.name] = f"{broken[0]} failed: {failures[broken[0]]}"
            del waiting[task.name]
        elif len(running) + len(ready) >= workers.num_workers:
            break
        elif task.name not in running and waiting.keys().isdisjoint(task.needs.values()) and not task.is_taken():
            ready.append(task)
    return ready


class _Clock:
    """Estimates the time left from the durations in records."""

    def __init__(self, num_workers: int) -> None:
        self._num_workers = num_workers
        self._seconds: dict[str, list[float]] = {"teacher": [], "store": [], "cell": []}

    def learn(self, record: Record) -> None:
        spent: dict[str, Any] = dict(record.costs.wall_seconds)
        for phase in ("teacher", "store"):
            if phase in spent:
                self._seconds[phase].append(spent.pop(phase))
        self._seconds["cell"].append(sum(spent.values()))

    def seconds_left(self, waiting: Iterable[Task]) -> float | None:
        """Return the expected seconds for tasks, by the mean of known durations; None before any is known."""
        total = 0.0
        for task in waiting:
            known = self._seconds[task.kind]
            if not known:
                return None
            total += sum(known) / len(known)
        return total / self._num_workers


def _result(record: Record) -> str:
    parts = [f"{name} {accuracy:.1%}" for name, accuracy in record.own_accuracies().items()]
    seconds = record.costs.wall_seconds
    spent = sum(value for phase, value in seconds.items() if phase not in ("teacher", "store"))
    return f"{', '.join(parts)} ({duration(spent)})"


def plan_overview(plan: Study, tasks: Sequence[Task], *, num_cells: int) -> str:
    """Return the list of cells with their state, and of the shared tasks."""
    cells = [task for task in tasks if task.kind == "cell"]
    width = max(len(task.name) for task in tasks)
    done = {task.name for task in tasks if task.is_done()}

    def state(task: Task) -> str:
        return "done" if task.name in done else "under way" if task.is_taken() else "to do"

    lines = [
        f"{plan.name}: {plan.title}",
        f"{len(cells)} cells of {num_cells}, {sum(task.name in done for task in cells)} done; seeds "
        f"{', '.join(map(str, plan.seeds))}; folder {Path(plan.root, plan.name)}",
        "",
        *(f"{task.name:<{width}}  {state(task)}" for task in cells),
    ]
    shared = [task for task in tasks if task.kind != "cell"]
    if shared:
        lines += ["", f"shared, made once, in {Path(plan.root, 'shared')}"]
        for task in shared:
            users = sum(task.name in cell.needs.values() for cell in cells)
            lines.append(f"{task.name:<{width}}  {state(task)}, for {users} cells")
    return "\n".join(lines)
