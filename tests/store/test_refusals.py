"""What a store refuses, and that it says why: wrong pairs, bad numbers, bad files, full disks."""

from __future__ import annotations

import json
import re
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.json_files import seal, unseal
from lrd_peft.store import Store, StoreWriter
from lrd_peft.store.format import JournalHeader
from tests.store import made

OTHERS: list[tuple[dict[str, Any], str]] = [
    (
        {"fingerprints": {**made.SPEC.fingerprints, "teacher": "zz"}},
        "teacher: the store has 'aaaa', asked for 'zz'",
    ),
    (
        {"fingerprints": {**made.SPEC.fingerprints, "data": "zz"}},
        "data: the store has 'cccc', asked for 'zz'",
    ),
    (
        {"fingerprints": {"teacher": "aaaa", "data": "cccc"}},
        "tokenizer: the store has 'bbbb', asked for None",
    ),
    ({"num_blocks": 7}, "num_blocks: the store has 6, asked for 7"),
    ({"layers": (2, 6)}, "layers: the store has [2, 5], asked for [2, 6]"),
    ({"num_thoughts": 3}, "num_thoughts: the store has 2, asked for 3"),
    ({"hidden_size": 16}, "hidden_size: the store has 8, asked for 16"),
    ({"num_problems": 12}, "num_problems: the store has 11, asked for 12"),
    ({"positions": "all"}, "positions: the store has 'thoughts+answer', asked for 'all'"),
    ({"dtype": "float32"}, "dtype: the store has 'bfloat16', asked for 'float32'"),
    ({"index_convention": "0 = first block"}, "asked for '0 = first block'"),
]


@pytest.mark.parametrize(("changes", "message"), OTHERS, ids=lambda value: next(iter(value), ""))
def test_another_store_than_asked_for_names_both_values(tmp_path: Path, changes: Any, message: str) -> None:
    made.make(tmp_path)
    with pytest.raises(UserError, match=re.escape(message)):
        Store.open(tmp_path, expect=made.spec(**changes))
    before = made.contents(tmp_path)
    with pytest.raises(UserError, match=re.escape(message)):
        StoreWriter.open(tmp_path, made.spec(**changes))
    assert made.contents(tmp_path) == before
    StoreWriter.open(tmp_path, made.SPEC).close()  # the refused writer let go of the folder


def test_the_same_teacher_in_another_place_is_the_same(tmp_path: Path) -> None:
    made.make(tmp_path)
    assert Store.open(tmp_path, expect=made.spec(teacher_name="elsewhere")).spec.teacher_name == "tiny-teacher"
    with pytest.raises(UserError, match=r"teacher of the store: 'tiny-teacher'; asked for: 'elsewhere'"):
        Store.open(tmp_path, expect=made.spec(teacher_name="elsewhere", fingerprints={"teacher": "zz"}))


def test_a_damaged_header_does_not_let_another_store_in(tmp_path: Path) -> None:
    made.make(tmp_path)
    (tmp_path / "manifest.json").unlink()
    text = (tmp_path / "journal.jsonl").read_bytes()
    (tmp_path / "journal.jsonl").write_bytes(b"x" + text)
    with pytest.raises(UserError, match="first line of the journal is damaged"):
        StoreWriter.open(tmp_path, made.spec(layers=(1, 2)))


def test_an_unfinished_store_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist: run the extract phase again"):
        Store.open(tmp_path / "none")
    StoreWriter.open(tmp_path, made.SPEC).close()
    with pytest.raises(UserError, match=r"is not finished \(it has no manifest\): run the extract phase again"):
        Store.open(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ()}, "at least one"),
        ({"layers": (5, 2)}, "rising"),
        ({"layers": (2, 2)}, "each once"),
        ({"layers": (-1,)}, "none below 0"),
        ({"layers": (2, 7)}, "layer 7 is out of range: the teacher has 6 blocks"),
        ({"dtype": "float23"}, 'dtype is "float23"; it must be one of float32, bfloat16, float16'),
        ({"positions": "thought"}, 'Did you mean "thoughts"?'),
        ({"num_problems": 0}, "num_problems is 0: a store needs at least 1"),
        ({"hidden_size": 0}, "hidden_size is 0"),
    ],
)
def test_a_wrong_specification_says_what_is_right(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        made.spec(**changes)


def test_a_specification_comes_back_from_json() -> None:
    header = JournalHeader(spec=made.SPEC, problems_per_shard=2)
    assert JournalHeader.from_json(json.loads(json.dumps(header.to_json()))).spec == made.SPEC


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("positions", ["thoughts+answer", "all"])
def test_what_is_not_finite_names_problem_and_layer(tmp_path: Path, value: float, positions: str) -> None:
    spec = made.spec(positions=positions)
    bad = made.states(1)
    bad[1, 0, 7] = value
    with StoreWriter.open(tmp_path / "a", spec, shard_bytes=1000) as writer:
        writer.add(0, made.states(0), made.row(0))
        with pytest.raises(UserError, match=r'problem 1 \("made/1"\): NaN or Inf in the states of layer 5; the model'):
            writer.add(1, bad, made.row(1))
        for index in range(1, 11):  # the writer is as it was before
            writer.add(index, made.states(index), made.row(index))
        writer.finish()
    assert made.contents(tmp_path / "a") == made.contents(made.make(tmp_path / "b", of=spec, shard_bytes=1000))


def test_an_overflow_of_float16_says_that_the_store_is_too_narrow(tmp_path: Path) -> None:
    with (
        StoreWriter.open(tmp_path, made.spec(dtype="float16")) as writer,
        pytest.raises(UserError, match=r"layer 2; the model's values are finite, float16 is too narrow"),
    ):
        writer.add(0, torch.full((2, 3, 8), 70000.0), {})


def test_large_finite_values_are_no_overflow(tmp_path: Path) -> None:
    with StoreWriter.open(tmp_path, made.spec(num_problems=1)) as writer:
        writer.add(0, torch.full((2, 3, 8), 2.0**100), {})
        writer.finish()
    store = Store.open(tmp_path)
    assert store.mean == {2: 2.0**100, 5: 2.0**100}
    assert store.variance == {2: 0.0, 5: 0.0}


@pytest.mark.parametrize("shape", [(2, 8), (3, 3, 8), (2, 3, 9)])
def test_states_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with StoreWriter.open(tmp_path, made.SPEC) as writer, pytest.raises(UserError) as error:
        writer.add(0, torch.zeros(shape), {})
    assert f"have shape {list(shape)}, the store holds [2 layers, positions, 8 hidden]" in str(error.value)


def test_problems_come_in_order(tmp_path: Path) -> None:
    with StoreWriter.open(tmp_path, made.SPEC) as writer:
        with pytest.raises(UserError, match="problem 3 cannot be added to the store: problem 0 is next"):
            writer.add(3, made.states(3), made.row(3))
        with pytest.raises(UserError, match="problem 0: its row cannot be written as JSON"):
            writer.add(0, made.states(0), {"answer": {1, 2}})
        made.fill(writer)
        with pytest.raises(UserError, match="no problem is missing"):
            writer.add(11, made.states(0), made.row(0))


def test_a_store_that_is_not_full_is_not_finished(tmp_path: Path) -> None:
    with StoreWriter.open(tmp_path, made.SPEC, shard_bytes=made.TWO_PROBLEMS) as writer:
        for index in range(3):
            writer.add(index, made.states(index), made.row(index))
        with pytest.raises(UserError, match="not complete: problem 2 is missing"):
            writer.finish()


def test_a_write_that_the_system_refuses_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    spec = made.spec(num_problems=40, hidden_size=1024, dtype="float32")
    plan = 4 * 2 * 3 * 1024 * 4  # four problems a shard
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with StoreWriter.open(tmp_path / "a", spec, shard_bytes=plan) as writer:
        for index in range(8):
            writer.add(index, made.states(index, of=spec), made.row(index))
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # a real refusal in the middle of a shard
    try:
        with (
            pytest.raises(UserError, match=r"cannot write .*safetensors: File too large; finished shards are kept"),
            StoreWriter.open(tmp_path / "a", spec) as writer,
        ):
            made.fill(writer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "a").glob("*.tmp"))  # a full disk needs the room
    with StoreWriter.open(tmp_path / "a", spec) as writer:
        assert writer.missing == [(8, 40)]
        made.fill(writer)
        writer.finish()
    assert made.contents(tmp_path / "a") == made.contents(made.make(tmp_path / "b", of=spec, shard_bytes=plan))


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/store"):
        StoreWriter.open(tmp_path / "file" / "store", made.SPEC)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.make(tmp_path_factory.mktemp("whole"))


@settings(max_examples=300, deadline=None)
@given(
    suffix=st.sampled_from([".safetensors", ".jsonl"]),
    changes=st.dictionaries(st.integers(0, 10**6), st.integers(0, 255), min_size=1, max_size=4),
)
def test_a_damaged_shard_is_an_error_or_other_numbers_never_a_crash(
    whole: Path, suffix: str, changes: dict[int, int]
) -> None:
    """The size is right and checksums are not read: every header and offset must be doubted."""
    path = made.shard(whole, 0, suffix)
    good = path.read_bytes()
    damaged = bytearray(good)
    for place, value in changes.items():
        damaged[place % len(damaged)] = value
    path.write_bytes(damaged)
    store = Store.open(whole)
    try:
        for index in (0, 1):
            record = store[index]
            assert all(value.shape[1] == 8 for value in record["hidden_states"].values())
    except UserError as error:
        assert path.stem in str(error)
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100])
def test_a_shard_cut_short_is_named(tmp_path: Path, length: int) -> None:
    path = made.shard(made.make(tmp_path), 0)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=rf"{path.name} is damaged \(it has {length} bytes, not .*extract phase again"):
        Store.open(tmp_path).states(0)
    path.unlink()
    with pytest.raises(UserError, match=f"{path.name} is missing"):
        Store.open(tmp_path).states(1)


@pytest.mark.parametrize("at", [0, 20, 100, -1, -5])
def test_a_damaged_manifest_is_named(tmp_path: Path, at: int) -> None:
    path = made.make(tmp_path) / "manifest.json"
    text = bytearray(path.read_bytes())
    text[at] ^= 1
    path.write_bytes(text)
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        Store.open(tmp_path)


def reseal(folder: Path, **changes: Any) -> None:
    """A manifest whose checksum is right and whose content is not."""
    path = folder / "manifest.json"
    body = unseal(path.read_bytes())
    assert body is not None
    path.write_bytes(seal({**body, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 99}, "store format 99, this version of lrd_peft reads 1"),
        ({"shards": []}, "do not hold each problem once"),
        ({"shards": [{"shard": "../../elsewhere"}]}, "is damaged"),
        ({"shards": 3}, "is damaged"),
        ({"problems_per_shard": 0}, "is damaged"),
        ({"problems_per_shard": 3}, "do not hold each problem once"),
        ({"extra": 1}, "is damaged"),
        ({"layers": {}}, "is damaged"),
        ({"spec": {}}, "is damaged"),
    ],
)
def test_a_manifest_that_says_nonsense_is_refused(tmp_path: Path, changes: Any, message: str) -> None:
    reseal(made.make(tmp_path), **changes)
    with pytest.raises(UserError, match=message):
        Store.open(tmp_path)
