"""Padding, masks and labels of batches, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from lrd_peft.data.collate import IGNORED, ReplacedStep, Row, collate, left_pad, split_rows

ROWS = [
    Row(index=4, question=(5, 6, 7), num_thoughts=2, suffix=(8, 9), answer_start=1),
    Row(index=9, question=(1,), num_thoughts=2, suffix=(2, 3, 4, 1), answer_start=3),
]


def test_questions_end_and_suffixes_begin_at_the_slots():
    batch = collate(ROWS, pad_id=0)
    assert batch["question_ids"].tolist() == [[5, 6, 7], [0, 0, 1]]
    assert batch["question_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch["suffix_ids"].tolist() == [[8, 9, 0, 0], [2, 3, 4, 1]]
    assert batch["labels"].tolist() == [[8, 9, IGNORED, IGNORED], [2, 3, 4, 1]]
    assert batch["answer_start"].tolist() == [1, 3]
    assert batch["index"].tolist() == [4, 9]
    assert batch["num_thoughts"] == 2


def test_a_pad_token_that_is_the_end_of_text_keeps_its_label():
    batch = collate([ROWS[0], ROWS[1]], pad_id=1)
    assert batch["labels"].tolist()[1] == [2, 3, 4, 1]
    assert batch["question_mask"].tolist()[1] == [0, 0, 1]


def test_an_empty_suffix_and_a_batch_of_one():
    batch = collate([Row(index=0, question=(1, 2), num_thoughts=0, suffix=(), answer_start=0)], pad_id=0)
    assert batch["suffix_ids"].shape == batch["labels"].shape == (1, 0)
    assert batch["suffix_ids"].dtype == batch["labels"].dtype == batch["question_ids"].dtype


def test_an_empty_sequence_is_all_padding():
    ids, mask = left_pad([(), (3,)], pad_id=7)
    assert (ids.tolist(), mask.tolist()) == ([[7], [3]], [[0], [1]])


def test_rows_with_numbers_of_thoughts_of_their_own_are_split_by_them():
    other = Row(index=0, question=(1,), num_thoughts=3, suffix=(1,), answer_start=0, steps=(ReplacedStep(2, (7, 8)),))
    batch: Any = collate([other, *ROWS, replace(other, steps=(ReplacedStep(0, (6,)),))], pad_id=0)
    assert (batch["num_thoughts"], batch["row_thoughts"].tolist()) == (3, [3, 2, 2, 3])
    tensors = {"index": batch["index"], "suffix_ids": batch["suffix_ids"]}
    steps = {name: batch[name] for name in ("step_labels", "step_places")}
    first, second = split_rows(batch["row_thoughts"], tensors, **steps)
    assert (first["num_thoughts"], second["num_thoughts"]) == (2, 3)
    assert (first["index"].tolist(), second["index"].tolist()) == ([4, 9], [0, 0])
    assert "step_labels" not in first and second["step_labels"].tolist() == [[7, 8], [6, IGNORED]]
    assert second["step_places"].tolist() == [[0, 2], [1, 0]]
    assert "row_thoughts" not in collate(ROWS, pad_id=0)


def test_the_length_of_a_row_counts_its_slots():
    assert ROWS[1].length == 1 + 2 + 4


def test_replaced_steps_of_all_rows_stand_below_each_other():
    plain = collate(ROWS, pad_id=0)
    assert not {"step_labels", "step_places"} & set(plain)
    steps = (ReplacedStep(0, (11,)), ReplacedStep(1, (12, 13, 14)))
    batch: Any = collate([ROWS[0], replace(ROWS[1], steps=steps)], pad_id=0)
    assert batch["step_labels"].tolist() == [[11, IGNORED, IGNORED], [12, 13, 14]]
    assert batch["step_places"].tolist() == [[1, 0], [1, 1]]
    assert all(torch.equal(batch[name], plain[name]) for name in plain if name != "num_thoughts")
