"""Locks a run folder while it is in use.

One process at a time works on a run folder. A second process exits and reports the PID that holds the lock. When
several processes work together, the main process holds the lock for all.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from lrd_peft.config import PHASES, Phase, RunConfig, differences, dump_yaml, load_config
from lrd_peft.pipeline.ledger import PhaseLedger
from lrd_peft.pipeline.run_folder import RunPaths
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.files import LOCK, locked
from lrd_peft.runtime.json_files import FileModel, read_sealed, write_atomic, write_sealed
from lrd_peft.runtime.processes import on_main

logger = logging.getLogger(__name__)


class Holder(FileModel):
    """Contents of held_by.json: the process that works on the run folder.

    Attributes:
        since: local time at which it began.
    """

    pid: int
    host: str
    since: str


class RunLock:
    """Keeps other processes out of a run folder.

    Args:
        paths: the run folder.
    """

    def __init__(self, paths: RunPaths) -> None:
        self.paths = paths

    @classmethod
    @contextlib.contextmanager
    def claim(cls, config: RunConfig) -> Iterator[RunPaths]:
        """Create or reopen the run folder of a configuration, and lock it for the block.

        Called by all processes together. The configuration may differ from the folder's in fields that affect only
        the evaluation; config.yaml is then overwritten and the evaluation runs again.

        Raises:
            UserError: if another process holds the folder, it belongs to another configuration, is a file, or cannot
                be written.
        """
        paths = RunPaths(Path(config.run.output_dir))
        with contextlib.ExitStack() as held:

            def begin() -> None:
                held.enter_context(cls(paths).hold())
                _take_over(paths, config)

            on_main(begin)
            yield paths

    @contextlib.contextmanager
    def hold(self, *, patient: bool = False) -> Iterator[None]:
        """Create the folder and lock it for the block.

        Args:
            patient: wait for the process that holds it.

        Raises:
            UserError: if another process holds it, it is a file, or it cannot be written.
        """
        root = self.paths.root
        try:
            root.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(f"{root} cannot be a run folder: a file has that name") from error
        with contextlib.ExitStack() as held:
            if not held.enter_context(locked(root / LOCK)):
                if not patient:
                    raise UserError(self._in_use())
                logger.info("waiting for the process that works on %s", root)
                held.enter_context(locked(root / LOCK, wait=True))
            yield

    @contextlib.contextmanager
    def hold_shared(self, phase: Phase) -> Iterator[None]:
        """Wait until no other run makes the folder of a phase that this run shares, and lock it for the block.

        A folder of the run's own is locked with the run. Called by all processes together.
        """
        if not self.paths.is_shared(phase):
            yield
            return
        folder = (self.paths.root / phase).resolve()
        with contextlib.ExitStack() as held:

            def begin() -> None:
                held.enter_context(RunLock(RunPaths(folder.parent)).hold(patient=True))
                folder.mkdir(exist_ok=True)

            on_main(begin)
            yield

    def _in_use(self) -> str:
        who = "another process"
        with contextlib.suppress(UserError):
            holder = Holder.from_json(read_sealed(self.paths.holder))
            who = f"process {holder.pid} on {holder.host} since {holder.since}"
        return f"{self.paths.root} is in use by {who}; wait for it, or stop it: it saves its work when it is stopped"


def _take_over(paths: RunPaths, config: RunConfig) -> None:
    """Check that the folder is this configuration's, and write config.yaml and held_by.json."""
    root, path = paths.root, paths.config
    if path.is_file():
        try:
            held = load_config(yaml_path=path)
        except UserError as error:
            raise UserError(
                f"{error}. If your flags are those of this run, delete that file and give them again: it will be "
                "written again"
            ) from error
        _compare(root, config, held)
    elif _holds_something_else(paths, config):
        raise UserError(f"{root} is not empty and holds no run (no config.yaml); choose another --output_dir")
    try:
        write_atomic(path, dump_yaml(config).encode())
    except UserError as error:
        raise UserError(f"{error}; fix that or choose another --output_dir") from error
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    write_sealed(paths.holder, Holder(pid=os.getpid(), host=socket.gethostname(), since=since))


def _holds_something_else(paths: RunPaths, config: RunConfig) -> bool:
    """Without config.yaml, a marker of a finished phase still shows that the folder is this configuration's."""
    ours = {paths.holder.name, LOCK, f".{paths.config.name}.tmp"}
    ledger = PhaseLedger(paths, config)
    names = {entry.name for entry in paths.root.iterdir()} - ours
    return bool(names) and not any(ledger.finished(phase) is not None for phase in PHASES)


def _compare(root: Path, config: RunConfig, held: RunConfig) -> None:
    changed = differences(held.phase_fields("student"), config.phase_fields("student"))
    if changed:
        listed = "; ".join(f"{field}: there {there!r}, now {now!r}" for field, there, now in changed)
        raise UserError(
            f"{root} holds the run of another configuration ({listed}); choose another --output_dir, "
            "or delete that folder"
        )
