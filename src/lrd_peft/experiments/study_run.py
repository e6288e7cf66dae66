"""Runs a study: hands out what has no record yet, shows how far it is, tells what failed. Knows no phases."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import ValidationError

from lrd_peft.config import RunConfig, differences
from lrd_peft.errors import UserError
from lrd_peft.evaluation.metrics import Summary
from lrd_peft.experiments.studies import Cell, Study, find_study, make_study, shard_of
from lrd_peft.experiments.study_tasks import StudyFolder, Task, tasks_of
from lrd_peft.experiments.study_workers import Processes, RayWorkers, Workers
from lrd_peft.progress import Progress, duration
from lrd_peft.records import Record, portable, read_record, write_json_atomic

_POLL_SECONDS = 1.0


def study(
    name: str,
    argv: Sequence[str] = (),
    *,
    quick: bool = False,
    seeds: Sequence[int] | None = None,
    shard: str | None = None,
    num_workers: int | None = None,
    executor: str = "local",
    keep_students: bool = False,
) -> None:
    """Run the cells of a study that have no record yet, or with `--dry_run` among the flags say which they are.

    Args:
        name: of a file in configs/studies, or a path.
        argv: flags of `lrd run`, which go over the study's base.
        quick: the small variant of the study.
        seeds: instead of the file's.
        shard: "2/8": only the second of eight parts.
        num_workers: tasks at a time; 2, or on a Ray cluster as many as it has processors.
        executor: "local" or "ray".
        keep_students: leave the students and graded problems in the cells' run folders.

    Raises:
        UserError: if something is wrong with the request, the records there are of another configuration, or a cell
            failed (after all others were run).
    """
    if num_workers is not None and num_workers < 1:
        raise UserError(f"--workers is {num_workers}; it must be at least 1")
    if executor not in ("local", "ray"):
        raise UserError(f'--executor is "{executor}"; it must be local or ray')
    plan, is_dry = make_study(find_study(name), argv, quick=quick, seeds=seeds)
    cells = plan.cells()
    chosen = shard_of(cells, shard) if shard else cells
    folder = StudyFolder(plan.root, plan.name)
    tasks = tasks_of(chosen, folder, keep_students=keep_students)
    check_records(chosen, folder)
    if is_dry:
        print(overview(plan, tasks, num_cells=len(cells)))
        return
    if not all(task.is_done() for task in tasks if task.kind == "cell"):
        workers = RayWorkers(num_workers) if executor == "ray" else Processes(num_workers or 2)
        try:
            write_description(plan, folder)
            failures = run_tasks(tasks, workers, label=f"study {plan.name}")
        finally:
            workers.stop()
        if failures:
            lines = "\n".join(f"  {cell}: {reason}" for cell, reason in failures.items())
            raise UserError(
                f"{len(failures)} of {len(chosen)} cells failed; the same command tries them again\n{lines}"
            )
    print(f"study {plan.name}: all {len(chosen)} cells have their records in {folder.records}")


def check_records(cells: Sequence[Cell], folder: StudyFolder) -> None:
    """Refuse records of another configuration than the cells'.

    Raises:
        UserError: naming the first that differs, and in what.
    """
    for cell in cells:
        path = folder.records / f"{cell.name}.json"
        if not path.is_file():
            continue
        try:
            held = RunConfig.model_validate(read_record(path).config)
        except ValidationError:
            raise UserError(f"{path} was written by another version of lrd_peft; {_elsewhere(folder)}") from None
        changed = differences(portable(held.result_fields()), portable(cell.config.result_fields()))
        if changed:
            listed = "; ".join(f"{field}: there {there!r}, now {now!r}" for field, there, now in changed)
            raise UserError(f"{path} is of another configuration ({listed}); {_elsewhere(folder)}")


def _elsewhere(folder: StudyFolder) -> str:
    return f"choose another --output_dir, or delete {folder.path}"


def write_description(plan: Study, folder: StudyFolder) -> None:
    """Write study.json, with the seeds that earlier calls added."""
    lock = folder.path / "locks" / "study.json.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):  # two shards that begin together would write one temporary file
        seeds = {int(record.stem.rpartition("--seed")[2]) for record in folder.records.glob("*--seed*.json")}
        write_json_atomic(folder.path / "study.json", plan.describe() | {"seeds": sorted(seeds | set(plan.seeds))})


def run_tasks(tasks: Sequence[Task], workers: Workers, *, label: str) -> dict[str, str]:
    """Do the tasks that are not done, each after those that it needs, and return why cells failed, by name.

    What another process works on is left to it; if that process dies, the task is taken over.
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
    print(f"{label}: {num_done} of {len(cells)} cells done, {workers.num_workers} at a time", flush=True)
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
                    print(f"{task.name}: failed: {outcome.message}", flush=True)
            for task in [task for task in waiting.values() if task.is_done()]:
                del waiting[task.name]
                if task.kind == "cell":
                    num_done += 1
                    record = read_record(task.record)
                    clock.learn(record)
                    print(f"[{num_done}/{len(cells)}] {task.name}: {_result(record)}", flush=True)
                else:
                    print(f"{task.name}: ready", flush=True)
            names = ", ".join(task.name for task in workers.running) or "waiting for other processes"
            progress.update(num_done, f"now: {names}", seconds_left=clock.seconds_left(waiting.values()))
    return {cell.name: failures[cell.name] for cell in cells if cell.name in failures}


def _ready(waiting: dict[str, Task], workers: Workers, failures: dict[str, str]) -> list[Task]:
    """Return what free workers can begin; a task that needs a failed one fails here."""
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
    """Estimates the time left from the phases' times in records."""

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
        """Return the seconds that tasks take at the mean of those known; None before any is known."""
        total = 0.0
        for task in waiting:
            known = self._seconds[task.kind]
            if not known:
                return None
            total += sum(known) / len(known)
        return total / self._num_workers


def _result(record: Record) -> str:
    entries = {name: record.metrics[name].get(record.method) for name in record.datasets}
    parts = [f"{name} {Summary.from_dict(e['summary']).accuracy:.1%}" for name, e in entries.items() if e]
    seconds = record.costs.wall_seconds
    spent = sum(value for phase, value in seconds.items() if phase not in ("teacher", "store"))
    return f"{', '.join(parts)} ({duration(spent)})"


def overview(plan: Study, tasks: Sequence[Task], *, num_cells: int) -> str:
    """Return the cells, what is done, and what they share."""
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
