"""A writer that was stopped, or whose files were damaged, ends with the bytes of an undisturbed one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lrd_peft.runtime.errors import UserError
from lrd_peft.store import Store, StoreWriter
from tests.store import made
from tests.store.killed_writer import SPEC as KILLED_SPEC


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_kill_9_at_random_moments_leaves_no_trace(tmp_path: Path, root: Path, seed: int) -> None:
    undisturbed = made.make(tmp_path / "undisturbed", of=KILLED_SPEC)
    command = [sys.executable, "-m", "tests.store.killed_writer", str(tmp_path / "killed"), "12", str(seed)]
    path = os.pathsep.join([str(root), str(root / "src")])
    done = subprocess.run(
        command, cwd=root, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    codes, lines = zip(*(map(int, line.split()) for line in done.stdout.splitlines()), strict=True)
    assert codes == (-9,) * 12 + (0,)
    assert list(lines) == sorted(lines)  # nothing finished was ever lost
    assert len(set(lines)) > 3  # and the kills came at different moments
    assert made.contents(tmp_path / "killed") == made.contents(undisturbed)


def stopped(folder: Path, *, after: int) -> None:
    """A writer that ends without finishing after so many problems."""
    with StoreWriter.open(folder, made.SPEC, shard_bytes=made.TWO_PROBLEMS) as writer:
        for index in range(after):
            writer.add(index, made.states(index), made.row(index))


@pytest.mark.parametrize(("after", "done"), [(0, 0), (1, 0), (2, 2), (7, 6), (10, 10), (11, 11)])
def test_a_stopped_writer_goes_on_after_its_last_full_shard(tmp_path: Path, after: int, done: int) -> None:
    stopped(tmp_path / "a", after=after)
    with StoreWriter.open(tmp_path / "a", made.SPEC, shard_bytes=10**9) as writer:  # keeps the shards it has
        assert writer.done == done
        assert writer.missing == ([(done, 11)] if done < 11 else [])
        assert made.fill(writer) == 11 - done
        writer.finish()
    assert made.contents(tmp_path / "a") == made.contents(made.make(tmp_path / "b"))


def test_a_finished_store_that_is_written_again_stays_as_it_is(tmp_path: Path) -> None:
    made.make(tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with StoreWriter.open(tmp_path, made.SPEC) as writer:
        assert (writer.done, writer.missing, writer.damages) == (11, [], [])
        writer.finish()
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def flip(path: Path, *, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def cut(path: Path, *, to: int) -> None:
    path.write_bytes(path.read_bytes()[:to])


def damage_line(folder: Path, number: int) -> None:
    lines = (folder / "journal.jsonl").read_bytes().split(b"\n")
    lines[number] = lines[number].replace(b'"count":', b'"count" :')
    lines[number] = lines[number].replace(b'"layers":[2', b'"layers":[3')
    (folder / "journal.jsonl").write_bytes(b"\n".join(lines))
    (folder / "manifest.json").unlink(missing_ok=True)  # it would make up for the journal


DAMAGES: dict[str, tuple[Callable[[Path], object], list[tuple[int, int]], str]] = {
    "a flipped byte": (
        lambda folder: flip(made.shard(folder, 1), at=-5),
        [(2, 4)],
        "000002.safetensors is damaged",
    ),
    "a flipped byte of a row": (
        lambda folder: flip(made.shard(folder, 2, ".jsonl"), at=9),
        [(4, 6)],
        "000004.jsonl",
    ),
    "a truncated shard": (lambda folder: cut(made.shard(folder, 0), to=99), [(0, 2)], "has 99 bytes, not"),
    "an empty shard": (lambda folder: cut(made.shard(folder, 5), to=0), [(10, 11)], "has 0 bytes, not"),
    "a deleted shard": (
        lambda folder: made.shard(folder, 3).unlink(),
        [(6, 8)],
        "000006.safetensors cannot be read",
    ),
    "deleted rows": (lambda folder: made.shard(folder, 3, ".jsonl").unlink(), [(6, 8)], "cannot be read"),
    "two in a row": (
        lambda folder: (made.shard(folder, 1).unlink(), cut(made.shard(folder, 1), to=7)),
        [(2, 6)],
        "has 7 bytes",
    ),
    "a damaged journal line": (
        lambda folder: damage_line(folder, 2),
        [(2, 4)],
        "journal.jsonl: line 3 is damaged",
    ),
    "a damaged journal header": (
        lambda folder: damage_line(folder, 0),
        [],
        "journal.jsonl: line 1 is damaged",
    ),
    "a torn last line": (
        lambda folder: ((folder / "manifest.json").unlink(), cut(folder / "journal.jsonl", to=-30)),
        [(10, 11)],
        "ends in a torn line",
    ),
    "a lost journal": (lambda folder: (folder / "journal.jsonl").unlink(), [], ""),
    "a lost manifest": (lambda folder: (folder / "manifest.json").unlink(), [], ""),
    "a damaged manifest": (lambda folder: flip(folder / "manifest.json", at=40), [], ""),
    "all lost but the shards": (
        lambda folder: [(folder / name).unlink() for name in ("manifest.json", "journal.jsonl")],
        [(0, 11)],
        "",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_only_what_is_damaged_is_rebuilt(tmp_path: Path, name: str) -> None:
    damage, missing, message = DAMAGES[name]
    good = made.contents(made.make(tmp_path))
    damage(tmp_path)
    inodes = {path.name: path.stat().st_ino for path in tmp_path.glob("shard-*")}
    with StoreWriter.open(tmp_path, made.SPEC, shard_bytes=made.TWO_PROBLEMS) as writer:
        assert writer.missing == missing
        assert message in "; ".join(writer.damages)
        assert bool(writer.damages) == bool(message)
        assert not (missing and (tmp_path / "manifest.json").exists())
        made.fill(writer)
        writer.finish()
    assert made.contents(tmp_path) == good
    rebuilt = {path.name for path in tmp_path.glob("shard-*") if path.stat().st_ino != inodes.get(path.name)}
    assert len(rebuilt) <= 2 * sum((stop - first + 1) // 2 for first, stop in missing)


def test_leftovers_of_a_crash_do_not_stay(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "shard-000000002.safetensors").write_bytes(b"renamed, but no journal line yet")
    (tmp_path / "a" / "shard-000000002.jsonl.tmp").write_bytes(b"half")
    assert made.contents(made.make(tmp_path / "a")) == made.contents(made.make(tmp_path / "b"))


def test_several_processes_write_the_bytes_of_one(tmp_path: Path) -> None:
    alone = made.contents(made.make(tmp_path / "alone"))
    shared = tmp_path / "shared"
    stopped(shared, after=5)  # begun alone, gone on by three
    writers = [StoreWriter.open(shared, made.SPEC, shard_bytes=made.TWO_PROBLEMS, part=(rank, 3)) for rank in range(3)]
    # six shards, two for each process; the first two are there
    assert [writer.missing for writer in writers] == [[], [(4, 8)], [(8, 11)]]
    for writer in reversed(writers):
        made.fill(writer)
        writer.finish()
    assert made.contents(shared) == alone


def test_another_number_of_processes_may_go_on(tmp_path: Path) -> None:
    alone = made.contents(made.make(tmp_path / "alone"))
    shared = tmp_path / "shared"
    for rank in range(2):
        with StoreWriter.open(shared, made.SPEC, shard_bytes=made.TWO_PROBLEMS, part=(rank, 2)) as writer:
            for index in range(6 * rank, 6 * rank + 2):
                writer.add(index, made.states(index), made.row(index))
    writers = [StoreWriter.open(shared, made.SPEC, part=(rank, 3)) for rank in range(3)]
    assert [writer.missing for writer in writers] == [[(2, 4)], [(4, 6)], [(8, 11)]]
    for writer in writers:
        writer.close()
    made.make(shared)
    assert made.contents(shared) == alone


def test_rank_0_does_not_finish_what_another_has_not_written(tmp_path: Path) -> None:
    with StoreWriter.open(tmp_path, made.SPEC, shard_bytes=made.TWO_PROBLEMS, part=(0, 2)) as writer:
        made.fill(writer)
        with pytest.raises(UserError, match="not complete: problem 6 is missing"):
            writer.finish()
    assert not (tmp_path / "manifest.json").exists()


def test_a_second_writer_is_refused_while_the_first_writes(tmp_path: Path) -> None:
    with StoreWriter.open(tmp_path, made.SPEC), pytest.raises(UserError, match="another process is writing"):
        StoreWriter.open(tmp_path, made.SPEC)
    StoreWriter.open(tmp_path, made.SPEC).close()


def test_verify_names_each_damage(tmp_path: Path) -> None:
    store = Store.open(made.make(tmp_path))
    flip(made.shard(tmp_path, 4), at=-1)
    made.shard(tmp_path, 0, ".jsonl").unlink()
    cut(tmp_path / "journal.jsonl", to=-1)
    found = store.verify()
    assert [line.split(":")[0] for line in found[:2]] == ["problems 0..1", "problems 8..9"]
    assert "cannot be read" in found[0]
    assert "is damaged: checksum" in found[1]
    assert "torn line" in found[2]
    assert torch.equal(store.states(3), made.states(3))  # the rest can still be read
