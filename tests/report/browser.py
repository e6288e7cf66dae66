"""Headless Chromium over its debugging pipe: opens a file, runs JavaScript in it, hears its console."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")
# Without these it keeps calling home.
_QUIET = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
]


class Browser:
    """One page of a browser of its own.

    Attributes:
        complaints: errors of the console and of scripts, and what the page's security policy refused.
    """

    def __init__(self, profile: Path, *, javascript: bool = True) -> None:
        assert CHROMIUM is not None
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()

        def take_pipes() -> None:
            # Chromium reads commands from 3 and answers on 4; first out of the way, then into place.
            safe_commands, safe_answers = os.dup2(commands, 10), os.dup2(answers, 11)
            os.dup2(safe_commands, 3)
            os.dup2(safe_answers, 4)

        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", *_QUIET]
        self._process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=take_pipes,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._buffer, self._last, self._session = b"", 0, None
        self.complaints: list[str] = []
        self._loaded = False
        target = next(t for t in self._ask("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._session = self._ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._ask(f"{domain}.enable")
        if not javascript:
            self._ask("Emulation.setScriptExecutionDisabled", value=True)

    def open(self, path: Path | str) -> None:
        """Open a file or an address and wait until it and its pictures are there."""
        self._loaded = False
        self._ask("Page.navigate", url=path.as_uri() if isinstance(path, Path) else path)
        while not self._loaded:
            self._receive()

    def resize(self, width: int) -> None:
        """Give the window another width in CSS pixels; a narrow one is that of a phone."""
        self._ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
        )

    def wait_for(self, expression: str, *, seconds: float = 60) -> Any:
        """Return the value of an expression as soon as it is true."""
        end = time.monotonic() + seconds
        while not (value := self.run(expression)):
            assert time.monotonic() < end, f"{expression} stayed {value!r}: {self.run('document.body.innerText')}"
            time.sleep(0.1)
        return value

    def run(self, expression: str) -> Any:
        """Return the value of a JavaScript expression on the page."""
        done = self._ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def visible_text(self) -> str:
        """Return the texts that have a box on the page, without the page's own scripts running."""
        tree = self._ask("DOMSnapshot.captureSnapshot", computedStyles=[])
        layout = tree["documents"][0]["layout"]
        return " ".join(tree["strings"][index] for index in layout["text"] if index >= 0)

    def picture(self) -> bytes:
        """Return what one sees, as PNG."""
        return base64.b64decode(self._ask("Page.captureScreenshot")["data"])

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            row = self._receive()
            if row.get("id") == self._last:
                assert "error" not in row, row
                return row["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._read, 1 << 20)
            assert part, "the browser has ended"
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        row: dict[str, Any] = json.loads(line)
        match row.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Runtime.exceptionThrown" | "Log.entryAdded":
                self.complaints.append(json.dumps(row["params"]))
            case "Runtime.consoleAPICalled" if row["params"]["type"] in ("error", "warning", "assert"):
                self.complaints.append(json.dumps(row["params"]))
            case _:
                pass
        return row

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)
