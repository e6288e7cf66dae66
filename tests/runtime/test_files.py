"""A folder that appears whole or not at all, also when the process is killed anywhere in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lrd_peft.runtime.files import atomic_folder

SOURCE = Path(__file__).parents[2] / "src"

# Replaces a folder and dies at the n-th operation on the file system, as kill -9 would have it.
KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from lrd_peft.runtime.files import atomic_folder

folder, left = Path(sys.argv[1]), int(sys.argv[2])

def counted(function):
    def call(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call

os.rename, os.fsync, os.mkdir, os.rmdir, os.unlink = map(counted, (os.rename, os.fsync, os.mkdir, os.rmdir, os.unlink))
with atomic_folder(folder) as temporary:
    for name in ("a", "b"):
        (temporary / name).write_text("new")
print("whole")
"""


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


def write(folder: Path, text: str) -> None:
    with atomic_folder(folder) as temporary:
        for name in ("a", "b"):
            (temporary / name).write_text(text)


def siblings(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.parent.iterdir())


def test_it_appears_at_the_end_with_its_parents(tmp_path: Path):
    folder = tmp_path / "deep" / "er"
    with atomic_folder(folder) as temporary:
        (temporary / "a").write_text("1")
        assert not folder.exists()
    assert contents(folder) == {"a": "1"}
    assert siblings(folder) == ["er"]


def test_it_takes_the_place_of_the_old_one(tmp_path: Path):
    folder = tmp_path / "f"
    write(folder, "old")
    (folder / "more").write_text("old")
    write(folder, "new")
    assert contents(folder) == {"a": "new", "b": "new"}
    assert siblings(folder) == ["f"]


def test_an_error_leaves_the_old_one(tmp_path: Path):
    folder = tmp_path / "f"
    write(folder, "old")
    with pytest.raises(RuntimeError), atomic_folder(folder) as temporary:
        (temporary / "a").write_text("half")
        raise RuntimeError
    assert contents(folder) == {"a": "old", "b": "old"}
    write(folder, "new")
    assert contents(folder) == {"a": "new", "b": "new"}
    assert siblings(folder) == ["f"]


@pytest.mark.parametrize("before", [False, True], ids=["first", "again"])
def test_killed_anywhere_it_is_the_old_one_or_the_new_one(before: bool, tmp_path: Path):
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    old, new = {"a": "old", "b": "old"}, {"a": "new", "b": "new"}
    seen: list[str] = []
    for moment in range(40):
        folder = tmp_path / str(moment) / "f"
        folder.parent.mkdir()
        if before:
            write(folder, "old")
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(folder), str(moment)], capture_output=True, env=environment
        )
        left = contents(folder) if folder.exists() else None
        if left is None and before:
            # Between the two renames; the next writer finds the new one whole beside its name.
            assert contents(folder.with_name("f.tmp")) == new and contents(folder.with_name("f.old")) == old
        else:
            assert left in ((old, new) if before else (None, new))
        seen.append("none" if left is None else left["a"])
        write(folder, "newer")
        assert contents(folder) == {"a": "newer", "b": "newer"}
        assert siblings(folder) == ["f"]
        if done.stdout == b"whole\n":
            break
    else:
        pytest.fail("it never ended by itself")
    assert seen.index("new") > 3, "deaths before and after the swap were both seen"
    assert seen.count("none") == (1 if before else seen.index("new"))


def test_a_swap_that_was_cut_in_two_is_ended_first(tmp_path: Path):
    folder = tmp_path / "f"
    write(folder.with_name("f.tmp"), "new")
    write(folder.with_name("f.old"), "old")
    with pytest.raises(RuntimeError), atomic_folder(folder):
        raise RuntimeError
    assert contents(folder) == {"a": "new", "b": "new"}
