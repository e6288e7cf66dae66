"""Rows at each stage, worked out by hand; batches at drawn stages."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from lrd_peft.config.methods import METHODS, StagePlan
from lrd_peft.data.collate import ReplacedStep, Row, collate, suffix_mask
from lrd_peft.data.encoding import Encoded
from lrd_peft.data.problem import Problem
from lrd_peft.training.curriculum import Item, StageCollator, row_at
from tests import tiny

PROBLEM = Problem(id="p", question="?", steps=(), answer="1")
THREE_STEPS = Encoded(PROBLEM, prompt=(1, 2), steps=((11, 12), (13,), (14, 15)), marker=(30, 31), answer=(40, 2))
ONE_STEP = Encoded(PROBLEM, prompt=(3,), steps=((16, 17, 18),), marker=(30, 31), answer=(41, 42, 2))
MODEL = tiny.student()


@pytest.mark.parametrize(
    ("stage", "last", "num_thoughts", "suffix", "answer_start"),
    [
        (0, False, 0, (11, 12, 13, 14, 15, 30, 31, 40, 2), 7),
        (1, False, 2, (13, 14, 15, 30, 31, 40, 2), 5),
        (2, False, 4, (14, 15, 30, 31, 40, 2), 4),
        (3, False, 6, (30, 31, 40, 2), 2),
        (4, False, 8, (30, 31, 40, 2), 2),
        (2, True, 4, (30, 31, 40, 2), 2),  # the last stage drops the third step too
        (0, True, 0, (11, 12, 13, 14, 15, 30, 31, 40, 2), 7),  # nothing thinks in the steps' place
    ],
)
def test_a_problem_of_three_steps_at_two_thoughts_a_step(stage, last, num_thoughts, suffix, answer_start):
    row = row_at(Item(7, THREE_STEPS), stage=stage, thoughts_per_step=2, model=MODEL, last=last)
    assert row == Row(index=7, question=(1, 2), num_thoughts=num_thoughts, suffix=suffix, answer_start=answer_start)
    assert row.suffix[row.answer_start :] == (40, 2)


@pytest.mark.parametrize(
    ("stage", "suffix"), [(0, (16, 17, 18, 30, 31, 41, 42, 2)), (1, (30, 31, 41, 42, 2)), (3, (30, 31, 41, 42, 2))]
)
def test_a_problem_with_fewer_steps_keeps_the_number_of_thoughts(stage, suffix):
    row = row_at(Item(0, ONE_STEP), stage=stage, thoughts_per_step=1, model=MODEL)
    assert (row.num_thoughts, row.suffix, row.answer_start) == (stage, suffix, len(suffix) - 3)


def test_markers_stand_around_thoughts_only():
    model = tiny.student(options={"markers": True})
    bot, eot = (model.tokenizer.convert_tokens_to_ids(token) for token in ("<bot>", "<eot>"))
    row = row_at(Item(0, THREE_STEPS), stage=2, thoughts_per_step=1, model=model)
    assert (row.question, row.suffix, row.answer_start) == ((1, 2, bot), (eot, 14, 15, 30, 31, 40, 2), 5)
    assert row.suffix[row.answer_start] == 40 and row.num_unlabeled == 1
    batch = collate([row, replace(row, suffix=(eot, 30, 31, 41, 42, 43, 2, 2), answer_start=3)], pad_id=0)
    # <eot> is an input without a label, as in Coconut, CODI and PCCoT.
    assert batch["suffix_ids"].tolist()[0] == [eot, 14, 15, 30, 31, 40, 2, 0]
    assert batch["labels"].tolist()[0] == [-100, 14, 15, 30, 31, 40, 2, -100]
    assert suffix_mask(batch["labels"], batch["answer_start"]).tolist() == [[True] * 7 + [False], [True] * 8]
    written = row_at(Item(0, THREE_STEPS), stage=0, thoughts_per_step=1, model=model)
    assert (written.question, written.suffix[0], written.num_unlabeled) == ((1, 2), 11, 0)


def collator(**changes) -> StageCollator:
    chosen = {"stage": 1, "max_stage": 3, "thoughts_per_step": 2, **changes}
    return StageCollator(MODEL, **chosen)


def test_a_batch_has_its_stage_and_the_last_one_drops_all_steps():
    data = [Item(5, THREE_STEPS), Item(6, ONE_STEP)]
    batch = collator(stage=1)(data)
    assert batch["num_thoughts"] == 2 and batch["index"].tolist() == [5, 6]
    assert batch["suffix_ids"].tolist() == [[13, 14, 15, 30, 31, 40, 2], [30, 31, 41, 42, 2, 0, 0]]
    last = collator(stage=2, max_stage=2)(data)
    assert last["num_thoughts"] == 4
    assert last["suffix_ids"].tolist() == [[30, 31, 40, 2, 0], [30, 31, 41, 42, 2]]
    written = collator(stage=0, max_stage=0)(data)
    assert written["num_thoughts"] == 0 and written["answer_start"].tolist() == [7, 5]


def test_drawn_stages_depend_on_seed_and_step_alone():
    def drawn(seed: int, order: range) -> dict[int, int]:
        make = collator(uniform_prob=0.5, seed=seed)
        return {step: make([replace(Item(step % 7, ONE_STEP), update=step)])["num_thoughts"] for step in order}

    forwards = drawn(0, range(50))
    assert forwards == drawn(0, range(49, -1, -1))
    assert forwards != drawn(1, range(50))


def test_drawn_stages_have_about_their_frequency():
    make = collator(stage=1, max_stage=3, uniform_prob=0.4)
    counts = Counter(make.stage_at(step) for step in range(2000))
    # stage 1: 0.6 + 0.4 / 4; the others 0.4 / 4 each. Four standard deviations of 2000 draws: 0.041 and 0.027.
    assert counts[1] / 2000 == pytest.approx(0.7, abs=0.041)
    for stage in (0, 2, 3):
        assert counts[stage] / 2000 == pytest.approx(0.1, abs=0.027)


def test_without_uniform_prob_every_step_is_at_the_stage():
    make = collator(stage=1)
    assert {make.stage_at(step) for step in range(50)} == {1}


def test_a_rising_stage_is_through_with_the_steps_after_half_the_training():
    make = collator(stage=3, max_stage=3, thoughts_per_step=0, rise_updates=6)
    assert [make.stage_at(step) for step in range(12)] == [0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 3, 3]


def test_a_stage_beyond_the_thoughts_removes_what_is_still_written():
    """Coconut's stages for two replaced steps of three: all written, 1, 2, and all gone."""
    make = collator(max_stage=3, thinking_stages=2)
    expected = [
        (0, [11, 12, 13, 14, 15, 30, 31, 40, 2]),
        (2, [13, 14, 15, 30, 31, 40, 2]),
        (4, [14, 15, 30, 31, 40, 2]),
        (4, [30, 31, 40, 2]),
    ]
    for stage, (num_thoughts, suffix) in enumerate(expected):
        batch = make.fixed(stage)([Item(0, THREE_STEPS, 5)])
        assert (batch["num_thoughts"], batch["suffix_ids"].tolist()) == (num_thoughts, [suffix])
    steps = replace(make, stage=3, with_steps=True).rows([Item(0, THREE_STEPS)])[0].steps
    assert steps == (ReplacedStep(1, (11, 12)), ReplacedStep(3, (13, 14, 15)))


def test_stages_begin_where_they_are_told():
    plan = METHODS["coconut"].stage_plan(max_stage=2, thoughts_per_step=2, stage_epochs=(6, 3, 3, 8))
    assert plan == StagePlan(3, 2, begins=(0.3, 0.45, 0.6), thinking_stages=2) and plan.rises
    make = collator(stage=3, max_stage=3, begins=tuple(share * 20 for share in plan.begins))
    assert [make.stage_at(update) for update in range(20)] == [0] * 6 + [1] * 3 + [2] * 3 + [3] * 8
    assert [make.fixed(2).stage_at(update) for update in (0, 19)] == [2, 2]


def test_empty_markers_stand_in_rows_that_write_all_steps():
    model = tiny.student(options={"markers": True, "empty_markers": True})
    bot, eot = (model.tokenizer.convert_tokens_to_ids(token) for token in ("<bot>", "<eot>"))
    row = row_at(Item(0, ONE_STEP), stage=0, thoughts_per_step=1, model=model)
    assert (row.question, row.suffix) == ((3, bot), (eot, 16, 17, 18, 30, 31, 41, 42, 2))
    assert (row.num_unlabeled, row.answer_start) == (1, 6)


def test_steps_go_without_thoughts_in_their_place():
    model = tiny.student(options={"markers": True})
    make = StageCollator(model, stage=3, max_stage=3, thoughts_per_step=0, rise_updates=3)
    for step, suffix in ((0, [11, 12, 13, 14, 15, 30, 31, 40, 2]), (1, [13, 14, 15, 30, 31, 40, 2])):
        batch = make([Item(0, THREE_STEPS, step)])
        assert batch["num_thoughts"] == 0 and batch["suffix_ids"].tolist() == [suffix]
    last = make([Item(0, THREE_STEPS, 3)])
    assert (last["question_ids"].tolist(), last["suffix_ids"].tolist()) == ([[1, 2]], [[30, 31, 40, 2]])
    assert last["answer_start"].tolist() == [2]


@pytest.mark.parametrize(
    ("encoded", "stage", "thoughts_per_step", "last", "expected"),
    [
        (THREE_STEPS, 0, 2, False, []),
        (THREE_STEPS, 1, 2, False, [(1, (11, 12))]),
        (THREE_STEPS, 2, 2, False, [(1, (11, 12)), (3, (13,))]),
        (THREE_STEPS, 2, 1, True, [(0, (11, 12)), (1, (13, 14, 15))]),  # the last thought has what is left to write
        (THREE_STEPS, 1, 3, True, [(2, (11, 12, 13, 14, 15))]),
        (THREE_STEPS, 3, 1, True, [(0, (11, 12)), (1, (13,)), (2, (14, 15))]),
        (THREE_STEPS, 5, 1, True, [(0, (11, 12)), (1, (13,)), (2, (14, 15))]),
        (ONE_STEP, 3, 2, True, [(1, (16, 17, 18))]),  # the thoughts beyond its steps write nothing
        (replace(ONE_STEP, steps=()), 3, 2, True, []),
        (THREE_STEPS, 3, 0, True, []),  # no thoughts, nothing that could write
    ],
)
def test_each_replaced_step_is_beside_its_last_thought(encoded, stage, thoughts_per_step, last, expected):
    options = {"stage": stage, "thoughts_per_step": thoughts_per_step, "model": MODEL, "last": last}
    row = row_at(Item(0, encoded), **options, with_steps=True)
    assert row.steps == tuple(ReplacedStep(slot, ids) for slot, ids in expected)
    assert replace(row, steps=()) == row_at(Item(0, encoded), **options)
