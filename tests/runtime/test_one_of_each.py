"""Files are replaced, flushed and locked in one module only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "lrd_peft"
FILES = PACKAGE / "runtime" / "files.py"


def called(path: Path) -> set[str]:
    """Return the names of functions and methods that a module calls, with `os.` where it stands before them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            prefix = "os." if isinstance(owner, ast.Name) and owner.id == "os" else ""
            found.add(prefix + node.func.attr)
    return found


@pytest.mark.parametrize("name", ["os.fsync", "os.replace", "os.rename", "rename"])
def test_only_one_module_replaces_and_flushes_files(name: str) -> None:
    places = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if name in called(path)}
    assert places <= {"runtime/files.py"}


def test_the_module_that_does_is_found_by_this_test() -> None:
    assert {"os.fsync", "os.replace", "rename"} <= called(FILES)


@pytest.mark.parametrize("name", ["fcntl", "filelock"])
def test_only_one_module_locks(name: str) -> None:
    places = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if name in [each.partition(".")[0] for each in names]:
                places.add(str(path.relative_to(PACKAGE)))
    assert places == ({"runtime/files.py"} if name == "filelock" else set())
