"""The order of the problems: a permutation, new in each epoch, a function of seed and epoch, little padding."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_peft.training.sampling import LengthBucketSampler, UpdateSampler


def order(lengths: list[int], *, batch_size: int, seed: int = 0, epoch: int = 0) -> list[int]:
    sampler = LengthBucketSampler(lengths, batch_size=batch_size, seed=seed)
    sampler.set_epoch(epoch)
    assert len(sampler) == len(lengths)
    return list(sampler)


@given(
    lengths=st.lists(st.integers(1, 500), max_size=300),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 50),
)
@settings(max_examples=80, deadline=None)
def test_every_problem_once_and_the_same_again(lengths: list[int], batch_size: int, seed: int, epoch: int):
    first = order(lengths, batch_size=batch_size, seed=seed, epoch=epoch)
    assert sorted(first) == list(range(len(lengths)))
    assert first == order(lengths, batch_size=batch_size, seed=seed, epoch=epoch)


def test_epochs_and_seeds_have_orders_of_their_own():
    lengths = [10] * 64
    orders = [order(lengths, batch_size=4, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(one) for one in orders}) == 4


def test_batches_hold_neighbours_in_length_in_no_order_of_length():
    lengths = [(7 * i) % 128 for i in range(128)]  # 0 to 127, each once; all in one window
    shuffled = order(lengths, batch_size=4)
    batches = [[lengths[i] for i in shuffled[start : start + 4]] for start in range(0, 128, 4)]
    assert all(max(batch) - min(batch) == 3 for batch in batches)
    firsts = [min(batch) for batch in batches]
    assert firsts != sorted(firsts)


def test_a_short_batch_comes_last():
    # Two windows of 64; were the short batch among the others, the loader would cut across all that follow.
    lengths = [i // 2 for i in range(129)]
    shuffled = order(lengths, batch_size=2)
    batches = [[lengths[i] for i in shuffled[start : start + 2]] for start in range(0, 129, 2)]
    assert [len(batch) for batch in batches] == [2] * 64 + [1]


def test_batches_of_an_epoch_are_cut_anew_in_the_next():
    lengths = list(range(640))
    members = [
        {frozenset(one[i : i + 4]) for i in range(0, 640, 4)}
        for one in (order(lengths, batch_size=4, epoch=epoch) for epoch in (0, 1))
    ]
    assert len(members[0] & members[1]) < 20


def test_each_problem_knows_its_optimizer_step_in_every_epoch():
    bucket = LengthBucketSampler(list(range(10)), batch_size=4, seed=0)
    sampler = UpdateSampler(bucket, problems_per_update=4)
    for epoch, steps in ((0, [0] * 4 + [1] * 4 + [2] * 2), (2, [6] * 4 + [7] * 4 + [8] * 2)):
        sampler.set_epoch(epoch)
        assert list(sampler) == list(zip(order(list(range(10)), batch_size=4, epoch=epoch), steps, strict=True))
    assert len(sampler) == 10
