"""The policies of the house as tests: sizes, imports, start-up time, recipes, no traces of a machine."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 400
MAX_HELP_SECONDS = 0.5
TORCH_FREE = (
    "config",
    "report",
    "runtime.checksums",
    "runtime.environment",
    "runtime.errors",
    "runtime.files",
    "runtime.interrupt",
    "runtime.json_files",
    "runtime.logs",
    "runtime.processes",
    "runtime.progress",
    "cli",
    "evaluation.answers",
    "evaluation.decoded_thoughts",
    "evaluation.metrics",
    "evaluation.outcomes",
    "evaluation.records",
    "evaluation.similarity",
    "evaluation.study_description",
)
HEAVY = ("torch", "transformers", "peft", "accelerate", "datasets")

CODE = [p for folder in ("src", "tests") for p in sorted((ROOT / folder).rglob("*.py"))]
CONFIGS = sorted((ROOT / "src" / "lrd_peft" / "recipes").glob("*.y*ml"))  # those below are studies


def environment() -> dict[str, str]:
    """Return this process's environment with the checkout importable and nothing measured."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("COV_", "COVERAGE_"))}
    return env | {"PYTHONPATH": str(ROOT / "src")}


def test_no_file_is_longer_than_the_limit() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text("utf-8").splitlines()) for p in CODE}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def test_every_module_says_what_it_is() -> None:
    texts = {str(p.relative_to(ROOT)): p.read_text("utf-8") for p in CODE}
    silent = [name for name, text in texts.items() if text and not re.match(r'r?"""', text)]
    assert silent == []


def test_import_contracts_hold() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as main; main()",
            "--no-cache",
        ],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def torch_free_modules() -> list[str]:
    """Return the names of all modules in the rooms that never load torch."""
    package = ROOT / "src" / "lrd_peft"
    names = []
    for room in TORCH_FREE:
        place = package.joinpath(*room.split("."))
        paths = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
        for path in (p for p in paths if p.exists()):
            parts = path.relative_to(package.parent).with_suffix("").parts
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


@pytest.mark.parametrize("module", torch_free_modules())
def test_room_loads_without_torch(module: str) -> None:
    code = f"import sys, {module}; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_help_is_quick() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", "from lrd_peft.cli.app import main; main()", "--help"],
            env=environment(),
            capture_output=True,
            timeout=60,
            check=True,
        )
        return time.perf_counter() - start

    # The minimum: what the command costs, not what else the machine is doing.
    assert min(seconds() for _ in range(7)) < MAX_HELP_SECONDS


@pytest.mark.parametrize("command", [["--help"], ["run", "--help"], ["evaluate", "--help"]], ids=" ".join)
def test_main_in_a_checkout_shows_the_help(command: list[str], tmp_path: Path) -> None:
    env = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *command],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if command[0] != "evaluate":
        assert re.search(r"--lora[_-]r\b", done.stdout)


def texts() -> Iterator[tuple[str, str]]:
    """Yield every text file of the checkout that belongs to the project, by name."""
    folders = ("src", "tests", "tools", "benchmarks", "docs", "notebooks", ".ci")
    paths = [p for folder in folders for p in (ROOT / folder).rglob("*") if "__pycache__" not in p.parts]
    paths += [p for p in ROOT.iterdir() if p.suffix in {".py", ".md", ".toml", ".txt", ".yaml"} or p.name == "Makefile"]
    for path in sorted(p for p in paths if p.is_file()):
        try:
            yield str(path.relative_to(ROOT)), path.read_text("utf-8")
        except UnicodeDecodeError:
            continue  # weights, pictures


def test_no_file_names_a_path_of_somebody_s_machine() -> None:
    machine = re.compile(r"(?<![\w.~$}/:-])/(?:home|root|work|Users|tmp|opt|mnt|content)/\w+")
    here = re.compile(re.escape(str(ROOT)))  # tests may make up paths
    found = {name: sorted(set((here if name.startswith("tests") else machine).findall(text))) for name, text in texts()}
    assert {name: paths for name, paths in found.items() if paths} == {}


def test_nothing_is_left_to_do() -> None:
    mark = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|X" r"XX)\b")
    assert [name for name, text in texts() if mark.search(text)] == []


@pytest.mark.skipif(not CONFIGS, reason="no recipes yet")
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_loads(path: Path) -> None:
    from lrd_peft.config import load_config

    load_config(yaml_path=path)


def test_committed_problems_are_those_of_our_own_generators() -> None:
    from lrd_peft.data.generators import SETS

    for path in (ROOT / "results").rglob("answers.json"):
        found = {problem["dataset"] for problem in json.loads(path.read_text("utf-8"))["problems"]}
        assert found <= set(SETS), f"{path} holds rows of {', '.join(found - set(SETS))}"


# What writes to a terminal: the command line, the log's handlers, progress, and a child process that replies on a pipe.
MAY_PRINT = {"runtime/logs.py", "runtime/progress.py", "runtime/interrupt.py", "evaluation/math_equality.py"}


def test_only_the_command_line_prints() -> None:
    package = ROOT / "src" / "lrd_peft"
    printing = set()
    for path in package.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
        if any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls):
            printing.add(path.relative_to(package).as_posix())
    assert {name for name in printing if not name.startswith("cli/")} <= MAY_PRINT


def test_every_public_name_has_one_home() -> None:
    homes: dict[str, set[str]] = {}
    for path in sorted((ROOT / "src" / "lrd_peft").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, set()).add(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}


def test_the_package_has_few_entries_at_its_top() -> None:
    entries = [path.name for path in (ROOT / "src" / "lrd_peft").iterdir() if not path.name.startswith("__")]
    entries.remove("py.typed")  # a marker for type checkers
    assert len(entries) <= 15, sorted(entries)


def test_no_two_modules_share_a_name() -> None:
    package = ROOT / "src" / "lrd_peft"
    homes: dict[str, list[str]] = {}
    for path in sorted(package.rglob("*.py")):
        name = path.parent.name if path.stem.startswith("__") else path.stem
        if path.parent != package or not path.stem.startswith("__"):
            homes.setdefault(name, []).append(str(path.relative_to(package)))
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}
