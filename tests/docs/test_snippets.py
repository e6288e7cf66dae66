"""Commands and code in the README, the documentation and the tutorials work as they stand there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lrd_peft.cli.app import COMMANDS, main
from lrd_peft.config import load_config

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PHASES = ("run", "train-teacher", "extract", "distill", "evaluate")
# Commands of the checkout that need more than a parser: their first words.
OTHER_PROGRAMS = ("make", "git", "cd", "pip", "source", "torchrun", "accelerate")


def blocks(language: str) -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for block in re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE):
            yield page, block


def commands() -> Iterator[str]:
    """Return each command of the bash blocks, without its comment, continued lines joined."""
    for _, block in blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for command in line.split("&&"):
                if words := shlex.split(command, comments=True):
                    yield shlex.join(words)


COMMANDS_SHOWN = sorted(set(commands()))
LRD = [command for command in COMMANDS_SHOWN if re.search(r"(^|-m )lrd(_peft)? ", command)]


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """What `lrd COMMAND --help-all`, or `--help` where there is nothing more, says."""
    import contextlib
    import io

    texts = {}
    for name in COMMANDS:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            for flag in ("--help-all", "--help"):
                with contextlib.suppress(SystemExit):
                    main([name, flag])
        texts[name] = printed.getvalue().replace("-", "_")
    return texts


def test_there_are_commands_to_check() -> None:
    assert len(LRD) > 20
    assert [command for command in COMMANDS_SHOWN if command.split()[0] not in ("lrd", *OTHER_PROGRAMS)] == []


@pytest.mark.parametrize("command", LRD)
def test_an_lrd_command_is_accepted(command: str, helps: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(re.split(r"(?:^|-m )lrd(?:_peft)? ", command)[1])
    name, rest = arguments[0], arguments[1:]
    assert name in COMMANDS
    flags = [word.partition("=")[0] for word in rest if word.startswith("--")]
    in_help = helps[name] + (helps["run"] if name == "study" else "")
    assert [flag for flag in flags if flag.replace("-", "_") not in in_help] == []
    if name in PHASES:
        load_config([word for word in rest if word != "--dry_run"])


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    shown = {command.split()[1] for command in COMMANDS_SHOWN if command.startswith("make ")}
    assert shown and shown <= targets


PYTHON = [(page, block) for page, block in blocks("python")]


@pytest.mark.parametrize(("page", "block"), PYTHON, ids=[f"{page.stem}-{n}" for n, (page, _) in enumerate(PYTHON)])
def test_python_compiles(page: Path, block: str) -> None:
    compile(block, str(page), "exec")


# A run folder or a repository of the reader's is needed by these.
RUNNABLE = [(page, block) for page, block in PYTHON if not re.search(r'"(runs|me)/', block)]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("page", "block"), RUNNABLE, ids=[f"{p.stem}-{n}" for n, (p, _) in enumerate(RUNNABLE)])
def test_python_runs(page: Path, block: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, f"{page.name}:\n{done.stderr}"


def test_there_is_code_that_runs() -> None:
    assert len(RUNNABLE) >= 5
