"""What is written is what is read: states, rows, statistics, sizes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from lrd_peft.config.choices import Positions
from lrd_peft.runtime.errors import UserError
from lrd_peft.store import Store, StoreSpec, StoreWriter, estimate_bytes, require_space
from tests.store import made


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
def test_states_and_rows_come_back_exactly(tmp_path: Path, dtype: str, ragged: bool) -> None:
    spec = made.spec(dtype=dtype)
    store = Store.open(made.make(tmp_path, of=spec, ragged=ragged), expect=spec)
    assert len(store) == 11
    for index in range(11):
        expected = made.states(index, of=spec, ragged=ragged)
        assert store.states(index).dtype == expected.dtype
        assert store.states(index).is_contiguous()
        assert torch.equal(store.states(index), expected)
        assert store.row(index) == made.row(index)
    assert store.verify() == []


def test_a_record_is_that_of_the_data_format(tmp_path: Path) -> None:
    record = Store.open(made.make(tmp_path))[5]
    assert list(record) == ["id", "question", "steps", "answer", "hidden_states"]
    assert record["steps"] == ["Ann: 5 + 0 = 5", "Ann: 5 + 1 = 6"]
    assert list(record["hidden_states"]) == ["layer_2", "layer_5"]
    assert torch.equal(record["hidden_states"]["layer_5"], made.states(5)[1])


def test_states_are_views_of_one_mapping(tmp_path: Path) -> None:
    store = Store.open(made.make(tmp_path))
    first, second = store.batch([2, 3])
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
    assert second.data_ptr() - first.data_ptr() == 2 * 3 * 8 * 2
    first.zero_()  # a private mapping: the file stays as it is
    assert torch.equal(Store.open(tmp_path).states(2), made.states(2))


def test_float32_states_are_rounded_to_the_store(tmp_path: Path) -> None:
    spec = made.spec(num_problems=1)
    with StoreWriter.open(tmp_path, spec) as writer:
        writer.add(0, torch.full((2, 1, 8), 1.001), made.row(0))
        writer.finish()
    assert Store.open(tmp_path).mean == {2: 1.0, 5: 1.0}  # of what is stored, not of what came


def test_shards_are_plain_safetensors(tmp_path: Path) -> None:
    made.make(tmp_path)
    tensors = load_file(made.shard(tmp_path, 0))
    assert tensors["states"].shape == (2 * 3 * 2, 8)
    assert tensors["offsets"].tolist() == [0, 3, 6]
    assert torch.equal(tensors["states"][6:].view(2, 3, 8), made.states(1))


def hand_worked(folder: Path, *, positions: Positions, num_positions: int) -> Store:
    """Two problems of 2 layers and 2 hidden units, in two shards."""
    spec = StoreSpec(
        fingerprints={},
        teacher_name="",
        layers=(0, 1),
        num_thoughts=num_positions,
        hidden_size=2,
        num_blocks=1,
        num_problems=2,
        positions=positions,
        dtype="float32",
    )
    values = torch.tensor([[[[1.0, 3.0]], [[10.0, 10.0]]], [[[5.0, 7.0]], [[10.0, 10.0]]]])
    with StoreWriter.open(folder, spec, shard_bytes=1) as writer:
        for index in range(2):
            sink = torch.full((2, num_positions - 1, 2), 1000.0)
            writer.add(index, torch.cat([sink, values[index]], dim=1), {})
        writer.finish()
    return Store.open(folder)


def test_mean_and_variance_worked_by_hand(tmp_path: Path) -> None:
    store = hand_worked(tmp_path, positions="thoughts", num_positions=1)
    # layer 0 holds 1 3 5 7: mean 16 / 4, mean square 84 / 4, variance 21 - 16
    assert store.shard_ranges == [(0, 1), (1, 2)]
    assert store.mean == {0: 4.0, 1: 10.0}
    assert store.variance == {0: 5.0, 1: 0.0}


def test_the_first_token_never_enters_the_statistics(tmp_path: Path) -> None:
    store = hand_worked(tmp_path, positions="all", num_positions=2)
    assert store.states(0)[0].tolist() == [[1000.0, 1000.0], [1.0, 3.0]]
    assert store.mean == {0: 4.0, 1: 10.0}
    assert store.variance == {0: 5.0, 1: 0.0}


def test_statistics_equal_those_of_all_states_together(tmp_path: Path) -> None:
    store = Store.open(made.make(tmp_path, ragged=True))
    together = torch.cat([store.states(index).double() for index in range(11)], dim=1)
    for place, layer in enumerate(store.spec.layers):
        assert store.mean[layer] == pytest.approx(float(together[place].mean()), rel=1e-12)
        assert store.variance[layer] == pytest.approx(float(together[place].var(correction=0)), rel=1e-12)


def test_bytes_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    spec = made.spec(hidden_size=512, num_problems=2, dtype="float32")
    values = torch.randn(2, 200, 512, generator=torch.Generator().manual_seed(1))
    found = []
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        try:
            with StoreWriter.open(tmp_path / str(num_threads), spec) as writer:
                for index in range(2):
                    writer.add(index, values, made.row(index))
                writer.finish()
        finally:
            torch.set_num_threads(1)
        found.append(made.contents(tmp_path / str(num_threads)))
    assert found[0] == found[1]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_shapes_come_back(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    layers = tuple(sorted(data.draw(st.sets(st.integers(0, 40), min_size=1, max_size=4))))
    lengths = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=9))
    spec = made.spec(
        layers=layers,
        num_blocks=40,
        hidden_size=data.draw(st.integers(1, 9)),
        num_problems=len(lengths),
        num_thoughts=data.draw(st.integers(0, 5)),
        positions=data.draw(st.sampled_from(["thoughts", "thoughts+answer", "all"])),
        dtype=data.draw(st.sampled_from(["bfloat16", "float16", "float32"])),
    )
    texts = data.draw(st.lists(st.text(), min_size=len(lengths), max_size=len(lengths)))
    dtype = getattr(torch, spec.dtype)
    values = [torch.randn(len(layers), length, spec.hidden_size).to(dtype) for length in lengths]
    folder = tmp_path_factory.mktemp("store")
    with StoreWriter.open(folder, spec, shard_bytes=data.draw(st.integers(1, 1000))) as writer:
        for index, (value, text) in enumerate(zip(values, texts, strict=True)):
            writer.add(index, value, {"question": text})
        assert writer.finish() == folder / "manifest.json"
        assert writer.done == len(lengths)
    store = Store.open(folder, expect=spec)
    order = data.draw(st.permutations(range(len(lengths))))
    assert all(torch.equal(store.states(index), values[index]) for index in order)
    assert [store.row(index)["question"] for index in range(len(store))] == texts
    assert store.num_positions == sum(lengths)


def test_a_worker_process_opens_the_store_itself(tmp_path: Path) -> None:
    store = pickle.loads(pickle.dumps(Store.open(made.make(tmp_path))))
    assert torch.equal(store.states(7), made.states(7))


@pytest.mark.parametrize("index", [-1, 11])
def test_there_is_no_problem_outside_the_store(tmp_path: Path, index: int) -> None:
    with pytest.raises(IndexError, match=f"problem {index} of a store of 11"):
        Store.open(made.make(tmp_path)).states(index)


def test_disk_use_is_within_two_percent_of_the_tensors_and_as_estimated(tmp_path: Path) -> None:
    spec = made.spec(hidden_size=2048, layers=(2, 3, 4, 5, 6), num_thoughts=6, num_problems=40)
    made.make(tmp_path, of=spec, shard_bytes=1 << 21)
    tensors = 40 * 5 * 7 * 2048 * 2
    used = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert tensors < used <= 1.02 * tensors
    assert estimate_bytes(spec, 40 * 7) == tensors + 40 * 528
    assert used <= 1.01 * estimate_bytes(spec, 40 * 7)


def test_a_disk_that_is_too_small_is_refused(tmp_path: Path) -> None:
    require_space(tmp_path / "not" / "there", 1)
    with pytest.raises(UserError, match=r"needs 1000000\.00 GB, .* GB free: make room"):
        require_space(tmp_path / "not" / "there", 10**15)
    assert not (tmp_path / "not").exists()
