"""Who does the tasks of a study: processes of this machine, or a Ray cluster. Knows tasks, not their order.

Both start a task, wait for any to end, and stop what is under way.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from lrd_peft.errors import UserError
from lrd_peft.experiments.study_tasks import Outcome, Task, perform
from lrd_peft.interrupt import Stopped, heard

# What a stopped task may take to finish its step and save.
_SECONDS_TO_SAVE = 60


class Workers(Protocol):
    """What a study needs of those who work for it."""

    num_workers: int

    @property
    def running(self) -> list[Task]:
        """The tasks under way, in the order they were started."""
        ...

    def start(self, task: Task) -> None:
        """Begin a task; there must be a free worker."""
        ...

    def wait(self, seconds: float) -> list[tuple[Task, Outcome]]:
        """Return the tasks that have ended, after at most so many seconds; none may have."""
        ...

    def stop(self) -> None:
        """End what is under way; the same study goes on from there later."""
        ...


class Processes:
    """A process of its own for each task, so that memory is measured for each and a crash is one task's.

    They are forked from a server that has loaded torch once. One thread each, unless OMP_NUM_THREADS says otherwise.
    """

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        # read by the processes when they load torch
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        server = "forkserver" in multiprocessing.get_all_start_methods()
        self._context: Any = multiprocessing.get_context("forkserver" if server else "spawn")
        if server:
            self._context.set_forkserver_preload(["lrd_peft.experiments.runner"])
        self._running: dict[Connection, tuple[Task, Any]] = {}

    @property
    def running(self) -> list[Task]:
        return [task for task, _ in self._running.values()]

    def start(self, task: Task) -> None:
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_work, args=(task, theirs))
        process.start()
        theirs.close()
        self._running[ours] = (task, process)

    def wait(self, seconds: float) -> list[tuple[Task, Outcome]]:
        ended = []
        for connection in wait(list(self._running), timeout=seconds):
            assert isinstance(connection, Connection)
            task, process = self._running.pop(connection)
            try:
                outcome = connection.recv()
            except EOFError:  # it died before it could say how it ended
                process.join()
                outcome = Outcome("failed", f"its process {_end(process.exitcode)} (log: {task.log})")
            connection.close()
            process.join()
            ended.append((task, outcome))
        return ended

    def stop(self) -> None:
        processes = [process for _, process in self._running.values()]
        try:
            for process in processes:
                process.terminate()
            for process in processes:
                process.join(_SECONDS_TO_SAVE)
        finally:  # a second signal does not wait
            for process in processes:
                process.kill()
                process.join()
            for connection in self._running:
                connection.close()
            self._running.clear()


def _work(task: Task, connection: Connection) -> None:
    """Do a task in a process that does not outlive the study's."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    with contextlib.suppress(Stopped), heard():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-c reaches all; the study's process stops this one
        connection.send(perform(task))


def _end(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-exit_code).name}"
    return f"ended with exit status {exit_code}"


class RayWorkers:
    """The tasks on a Ray cluster (RAY_ADDRESS), or on one that is started here.

    All its machines must see the study's folder under the same name, with locks that work there (flock).

    Raises:
        UserError: if Ray is not installed, or the cluster does not answer.
    """

    def __init__(self, num_workers: int | None) -> None:
        try:
            ray: Any = importlib.import_module("ray")  # an extra: type checkers need not have it
        except ImportError:
            raise UserError(
                "the executor ray needs the package ray: pip install 'lrd-peft[ray]', or leave --executor out"
            ) from None
        self._ray = ray
        try:
            if os.environ.get("RAY_ADDRESS"):
                ray.init(log_to_driver=False)
            else:
                ray.init(num_cpus=num_workers, include_dashboard=False, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"the Ray cluster cannot be used: {' '.join(str(error).split())}") from None
        self.num_workers = num_workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        environment = {"env_vars": {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}}
        # max_calls: a fresh process for each task, as on one machine; a task that dies is reported, not repeated
        self._perform: Any = ray.remote(num_cpus=1, max_calls=1, max_retries=0, runtime_env=environment)(_perform_in)
        self._running: dict[Any, Task] = {}

    @property
    def running(self) -> list[Task]:
        return list(self._running.values())

    def start(self, task: Task) -> None:
        self._running[self._perform.remote(task, os.getcwd())] = task

    def wait(self, seconds: float) -> list[tuple[Task, Outcome]]:
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=seconds)
        ended = []
        for reference in ready:
            task = self._running.pop(reference)
            try:
                outcome = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                outcome = Outcome("failed", f"on the Ray cluster: {str(error).splitlines()[0]}")
            ended.append((task, outcome))
        return ended

    def stop(self) -> None:
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()
        self._ray.shutdown()


def _perform_in(task: Task, folder: str) -> Outcome:
    os.chdir(folder)  # the paths of a configuration are relative to where the study was started
    return perform(task)
