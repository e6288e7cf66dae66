"""A whole run that takes seconds: the embedded models, few problems, real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

FLAGS = (
    *("--num_train_problems", "24", "--num_validation_problems", "4", "--num_eval_problems", "6"),
    *("--max_stage", "2", "--teacher_batch_size", "4", "--batch_size", "4", "--epochs", "1", "--eval_batch_size", "8"),
    *("--logging_steps", "3", "--save_steps", "2", "--num_threads", "1", "--device", "cpu"),
)


def lrd(*arguments: str, cwd: Path | None = None) -> subprocess.Popen[str]:
    """Start the command line in a new process."""
    source = str(Path(__file__).resolve().parents[2] / "src")
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "lrd_peft", *arguments],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a process that must succeed and return what it printed."""
    output, _ = process.communicate(timeout=150)
    assert process.returncode == 0, output
    return output


def kill_when(process: subprocess.Popen[str], folder: Path, pattern: str) -> bool:
    """Kill -9 a process as soon as a file below `folder` matches; False if it ended before."""
    while process.poll() is None:
        if any(folder.glob(pattern)):
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return True
        time.sleep(0.002)
    return False


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
