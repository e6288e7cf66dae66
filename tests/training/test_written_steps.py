"""Alignment to written steps: what is stored is what transformers computes there, and nothing else counts."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lrd_peft.data.collate import collate
from lrd_peft.data.problem import Problem
from lrd_peft.model.student import StudentModel
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.runtime.errors import UserError
from lrd_peft.store import Store, StoreWriter
from lrd_peft.training.curriculum import items, thinking_rows
from lrd_peft.training.objectives import LatentObjective
from lrd_peft.training.trainer import LRDPEFTTrainer
from tests import tiny
from tests.training.small import LAYERS, assert_close, make_store, make_written_store, student, trainer, weights

SGD = {"optim": "sgd", "learning_rate": 0.1}
ALL_LAYERS = (0, 1, 2, 3)


def counting(number: int, num_steps: int) -> Problem:
    return Problem(
        id=f"made/{number}",
        question=f"Ann has {number} pens. " + "She buys 1 more. " * num_steps + "How many pens does Ann have now?",
        steps=tuple(f"Ann: {number + n} + 1 = {number + n + 1}" for n in range(num_steps)),
        answer=str(number + num_steps),
    )


# No steps, fewer than slots, as many, more; questions and steps of several lengths.
MIXED = [counting(n, num_steps) for n, num_steps in enumerate((3, 0, 1, 6, 2, 4, 0, 3))] + tiny.problems(4)
STEPLESS = [counting(n, 0) for n in range(4)]


@torch.no_grad()
def plain_states(teacher: TeacherModel, problem: Problem) -> tuple[list[int], list[Tensor]]:
    """Return the tokens of the written sequence and transformers' hidden states over them: one [T, H] a layer."""

    def ids(text: str) -> list[int]:
        return list(teacher.tokenizer(text, add_special_tokens=False)["input_ids"])

    parts = [problem.question_text + "\n", *(step + "\n" for step in problem.steps), "### ", problem.answer]
    tokens = [token for part in parts for token in ids(part)]
    states = teacher.lm(torch.tensor([tokens]), output_hidden_states=True).hidden_states
    return tokens, [state[0] for state in states]


def ends_of(teacher: TeacherModel, tokens: list[int], problem: Problem) -> list[int]:
    """Return where each step's newline stands; the first newlines are the question's."""
    newlines = [i for i, token in enumerate(tokens) if "\n" in teacher.tokenizer.decode([token])]
    return newlines[problem.question_text.count("\n") + 1 :]


@pytest.mark.parametrize("positions", ["thoughts+answer", "thoughts"])
@pytest.mark.parametrize(("num_thoughts", "each"), [(4, 1), (6, 2)])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_stored_state_is_that_of_transformers_at_the_end_of_the_step(
    family: str, num_thoughts: int, each: int, positions: str, tmp_path: Path
) -> None:
    teacher = tiny.teacher(family, seed=4)
    options: dict[str, Any] = {"num_thoughts": num_thoughts, "thoughts_per_step": each, "positions": positions}
    orders = {"as_given": MIXED, "reversed": MIXED[::-1], "one": MIXED}
    sizes = {"as_given": 5, "reversed": 3, "one": 1}
    for name, problems in orders.items():
        store = make_written_store(
            teacher, problems, tmp_path / name, layers=ALL_LAYERS, batch_size=sizes[name], **options
        )
        for index, problem in enumerate(problems):
            tokens, expected = plain_states(teacher, problem)
            ends = ends_of(teacher, tokens, problem)
            assert len(ends) == len(problem.steps)
            marker = len(tokens) - len(teacher.tokenizer(problem.answer, add_special_tokens=False)["input_ids"]) - 1
            stored = store.states(index)
            assert stored.shape[1] == num_thoughts + (positions == "thoughts+answer")
            where = {each * (j + 1) - 1: end for j, end in enumerate(ends) if each * (j + 1) <= num_thoughts}
            if positions == "thoughts+answer":
                where[num_thoughts] = marker
            for slot in range(stored.shape[1]):
                for layer in ALL_LAYERS:
                    theirs = expected[layer][where[slot]] if slot in where else torch.zeros(16)
                    torch.testing.assert_close(stored[layer, slot], theirs, rtol=0, atol=2e-5)


def test_the_last_stored_layer_may_lie_below_the_last_block(tmp_path: Path) -> None:
    few = make_written_store(tiny.teacher(seed=4), MIXED, tmp_path / "few", layers=(1, 2))
    every = make_written_store(tiny.teacher(seed=4), MIXED, tmp_path / "all", layers=ALL_LAYERS)
    for index in range(len(MIXED)):
        torch.testing.assert_close(few.states(index), every.states(index)[1:3], rtol=0, atol=1e-6)


def aligned(folder: Path, own: StudentModel, store: Store, data: Sequence[Problem], **changes: Any) -> LRDPEFTTrainer:
    """Return what trains a student on a store of written steps."""
    return trainer(folder, student_model=own, store=store, train_dataset=data, align_to="steps", **changes)


def with_filler(store: Store, folder: Path, *, value: float) -> Store:
    """Return the same store with something else where there is no end of a step."""
    mask = store.target_mask(with_answer=store.spec.positions == "thoughts+answer")
    with StoreWriter.open(folder, store.spec) as writer:
        for index in range(len(store)):
            states = store.states(index).clone()
            states[:, ~mask[index]] = value
            writer.add(index, states, store.row(index))
        writer.finish()
    return Store.open(folder)


@pytest.mark.parametrize("asked", ["thoughts+answer", "thoughts"])
@pytest.mark.parametrize("each", [1, 2])
def test_filler_has_no_influence(each: int, asked: str, tmp_path: Path) -> None:
    store = make_written_store(tiny.teacher(seed=4), MIXED, tmp_path / "store", num_thoughts=4, thoughts_per_step=each)
    results = []
    for value in (0.0, 1e6):
        used = with_filler(store, tmp_path / f"{value}", value=value)
        assert used.variance == store.variance
        own = student(num_thoughts=4)
        run = aligned(tmp_path, own, used, MIXED, positions=asked, arguments=SGD)
        run.train()
        results.append((run.curve(), weights(own)))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(value, results[1][1][name]) for name, value in results[0][1].items())


def test_the_loss_is_the_mean_over_the_ends_of_steps_and_the_answer(tmp_path: Path) -> None:
    """The formula of docs/methods.md, problem by problem, without the trainer's batches and masks."""
    data, teacher = MIXED[:8], tiny.teacher(seed=4)
    store = make_written_store(teacher, data, tmp_path / "store", num_thoughts=4, thoughts_per_step=2)
    own = student(num_thoughts=4)
    run = aligned(tmp_path, own, store, data, arguments={**SGD, "per_device_train_batch_size": 8})
    targets: dict[int, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in LAYERS}
    encoded = items(own.encoder.encode_many(data))
    for problem, row in zip(data, thinking_rows(encoded, num_thoughts=4, model=own), strict=True):
        tokens, expected = plain_states(teacher, problem)
        with torch.no_grad():
            thought = own(**collate([row], pad_id=0), layer_map={layer: layer for layer in LAYERS})
        ends = ends_of(teacher, tokens, problem)[:2]
        answer = len(tokens) - len(teacher.tokenizer(problem.answer, add_special_tokens=False)["input_ids"]) - 1
        for slot, place in [*zip((1, 3), ends, strict=False), (4, answer)]:
            for layer in LAYERS:
                targets[layer].append((thought.states[layer][0, slot], expected[layer][place]))
    per_layer = []
    for pairs in targets.values():
        ours, theirs = (torch.stack(states) for states in zip(*pairs, strict=True))
        per_layer.append(((ours - theirs).square().mean() / theirs.var(unbiased=False)).item())
    assert len(targets[1]) == sum(min(2, len(problem.steps)) + 1 for problem in data)
    run.train()
    assert run.curve()[0]["distill"] == pytest.approx(sum(per_layer) / 3, rel=1e-4)


@pytest.mark.parametrize("positions", ["thoughts+answer", "thoughts"])
def test_accumulated_batches_equal_one_large_batch(positions: str, tmp_path: Path) -> None:
    data = MIXED[:8]
    store = make_written_store(tiny.teacher(seed=4), data, tmp_path / "store", num_thoughts=2)
    after = []
    for parts in (1, 8):
        own = student()
        arguments = {**SGD, "per_device_train_batch_size": 8 // parts, "gradient_accumulation_steps": parts}
        run = aligned(tmp_path, own, store, data, positions=positions, arguments=arguments)
        run.train()
        after.append((weights(own), run.curve()[0]["distill"]))
    assert_close(after[0][0], after[1][0])
    assert after[0][1] == pytest.approx(after[1][1], rel=1e-4)


def test_slots_alone_are_scaled_by_their_own_variance(tmp_path: Path) -> None:
    teacher = tiny.teacher(seed=4)
    results = []
    for positions in ("thoughts", "thoughts+answer"):
        store = make_written_store(teacher, MIXED, tmp_path / positions, positions=positions)
        own = student()
        run = aligned(tmp_path, own, store, MIXED, positions="thoughts")
        run.prepare()
        assert isinstance(run.objective, LatentObjective) and run.objective.variance is not None
        assert all(value > 0 for value in run.objective.variance.values())
        results.append(run.objective.variance)
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_an_optimizer_step_without_a_written_step_learns_the_task_alone(tmp_path: Path) -> None:
    data = [*STEPLESS, counting(5, 2)]
    store = make_written_store(tiny.teacher(seed=4), data, tmp_path / "store")
    own = student()
    run = aligned(tmp_path, own, store, data, positions="thoughts", arguments={"per_device_train_batch_size": 1})
    run.train()
    distilled = [row["distill"] for row in run.curve()]
    assert sorted(value == 0 for value in distilled) == [False, True, True, True, True]
    assert all(bool(value.isfinite().all()) for value in weights(own).values())


def test_wrong_pairs_are_refused(tmp_path: Path) -> None:
    data, teacher = tiny.problems(8), tiny.teacher()
    written = make_written_store(teacher, data, tmp_path / "written", layers=ALL_LAYERS)
    thought = make_store(teacher, data, tmp_path / "thought")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"store": written}, 'the store is made for align_to "steps", the trainer wants "thoughts"'),
        (
            {"store": thought, "align_to": "steps"},
            'the store is made for align_to "thoughts", the trainer wants "steps"',
        ),
        ({"teacher_model": teacher, "align_to": "steps"}, "no online teacher"),
        (
            {"store": written, "align_to": "steps", "thoughts_from": "teacher"},
            'thoughts_from is "teacher": .* no thoughts',
        ),
        ({"store": written, "align_to": "steps", "positions": "all"}, 'but positions is "all"'),
        ({"store": written, "align_to": "words"}, 'align_to is "words"; it must be one of thoughts, steps'),
    ]
    for options, message in cases:
        with pytest.raises(UserError, match=message):
            trainer(tmp_path / "run", train_dataset=data, **options)


def test_a_half_written_store_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    teacher = tiny.teacher(seed=4)
    whole = make_written_store(teacher, MIXED, tmp_path / "whole")
    shutil.copytree(whole.folder, tmp_path / "broken")
    next((tmp_path / "broken").glob("*.safetensors")).unlink()
    again = make_written_store(teacher, MIXED, tmp_path / "broken")
    assert again.verify() == []
    for path in whole.folder.iterdir():
        assert (again.folder / path.name).read_bytes() == path.read_bytes(), path.name
