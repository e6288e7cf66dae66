"""Worker processes of this machine that run the tasks of a study."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection, wait
from typing import Any

from lrd_peft.runtime.interrupt import Stopped, heard
from lrd_peft.studies.tasks import Outcome, Task, perform

# What a stopped task may take to finish its step and save.
_SECONDS_TO_SAVE = 60


class Processes:
    """A process of its own for each task, so that memory is measured for each and a crash is one task's.

    They are forked from a server that has loaded torch once. One thread each, unless OMP_NUM_THREADS says otherwise.
    """

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        # read by the processes when they load torch
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._context: Any = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["lrd_peft.pipeline.runner"])
        self._running: dict[Connection, tuple[Task, Any]] = {}

    @property
    def running(self) -> list[Task]:
        """Tasks in progress, in the order in which they started."""
        return [task for task, _ in self._running.values()]

    def start(self, task: Task) -> None:
        """Start a task; the caller makes sure that a worker is free."""
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_work, args=(task, theirs))
        process.start()
        theirs.close()
        self._running[ours] = (task, process)

    def wait(self, seconds: float) -> list[tuple[Task, Outcome]]:
        """Wait up to `seconds` for a task to end and return those that ended, possibly none."""
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
        """Stop all tasks in progress; running the study again resumes them."""
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
