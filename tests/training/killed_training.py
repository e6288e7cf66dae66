"""A training that dies as kill -9 would have it: `killed_training.py FOLDER between|inside STEP`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from lrd_peft.training import checkpoints
from tests.training.resumed import make_trainer


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DieAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            die()


def main(folder: Path, where: str, step: int) -> None:
    trainer = make_trainer(folder)
    if where == "between":
        trainer.add_callback(DieAt(step))
    else:
        # Between the files of a checkpoint and the marker that makes it count.
        sync = checkpoints.sync_folder

        def sync_folder(path: Path) -> None:
            if path.name == f"checkpoint-{step}":
                die()
            sync(path)

        checkpoints.sync_folder = sync_folder
    trainer.train()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
