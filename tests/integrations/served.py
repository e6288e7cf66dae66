"""Runs a command that serves, in a process of its own, until a test has asked it enough."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def served(*arguments: str) -> Iterator[str]:
    """Run `lrd` with these arguments, yield the address that it prints, and stop it as Ctrl-C does."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "lrd_peft", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found is not None, line + process.stderr.read()
        yield found[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) in (0, 130), process.stderr.read()
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.communicate()
