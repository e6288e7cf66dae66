"""`python -m tools.house_map`: the maps follow the contracts and the docstrings, and a stale one is found."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tools.house_map import layers, main, rooms, summary, tree, update


@pytest.fixture
def checkout(root: Path, tmp_path: Path) -> Path:
    for name in ("README.md", "CONTRIBUTING.md", "pyproject.toml"):
        shutil.copy(root / name, tmp_path / name)
    for name in ("src/lrd_peft", "tools", "benchmarks"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("assets", "__pycache__"))
    return tmp_path


def test_the_committed_maps_are_up_to_date(root: Path) -> None:
    assert update(root, write=False) == []


def test_every_room_is_on_both_maps(root: Path) -> None:
    assert {"cli/", "training/", "lora.py", "runtime/"} <= set(rooms(root))
    for room in rooms(root):
        assert room in tree(root)
        assert room in layers(root)
    assert max(map(len, (tree(root) + layers(root)).split("\n"))) <= 120


def test_a_changed_docstring_makes_the_maps_stale(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "src" / "lrd_peft" / "lora.py").write_text('"""Adapters of another kind. More."""\n', "utf-8")
    monkeypatch.chdir(checkout)
    assert main(["check"]) == 1
    assert "README.md" in capsys.readouterr().err
    assert main(["update"]) == 0
    assert main(["check"]) == 0
    for name in ("README.md", "CONTRIBUTING.md"):
        assert "lora.py" in (checkout / name).read_text("utf-8")
        assert "Adapters of another kind\n" in (checkout / name).read_text("utf-8")


def test_a_summary_is_the_first_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text('"""Reads a.yaml files\nand more. Not this.\n\nNor this."""\n', "utf-8")
    assert summary(tmp_path / "a.py") == "Reads a.yaml files and more"
