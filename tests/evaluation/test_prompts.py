"""Models that are asked as they were trained elsewhere: other texts around question and answer, no forced marker."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrd_peft.config import RunConfig
from lrd_peft.config.methods import METHODS
from lrd_peft.data.problem import Problem
from lrd_peft.evaluation.score import _grade, score
from lrd_peft.model.generation import Generated, answer_batch, decode_batch
from lrd_peft.model.student import StudentModel
from lrd_peft.pipeline.evaluate import _force_marker
from tests import tiny

CODI = {"question_end": "", "answer_marker": "The answer is:"}
PROBLEM = Problem(id="a", question="Ann has 3 pens. She buys 4 more. How many?", steps=("3 + 4 = 7",), answer="7")


def generated(model: StudentModel, text: str) -> Generated:
    tokens = tuple(model.tokenizer(text, add_special_tokens=False)["input_ids"])
    chances = tuple(0.5 for _ in tokens)
    return Generated(tokens, chances, num_tokens=len(tokens), num_thoughts=0, num_passes=1, finished=True)


@pytest.mark.parametrize(
    ("text", "forced", "right"),
    [
        ("3 + 4 = 7\nThe answer is: 7", False, True),
        ("7\nThe answer is: 8", False, False),
        ("7", True, True),
    ],
)
def test_an_answer_is_read_after_the_models_own_marker(text: str, forced: bool, right: bool) -> None:
    model = tiny.student(options=CODI)
    result = _grade(model, PROBLEM, generated(model, text), forced=forced, seconds=0.0)
    assert result.right == right and result.strict


def test_confidence_is_that_of_the_answer_alone() -> None:
    model = tiny.student(options=CODI)
    marker, answer = (len(model.tokenizer(text)["input_ids"]) for text in ("The answer is:", "7"))
    row = generated(model, "3 + 4 = 7\nThe answer is:7")
    result = _grade(model, PROBLEM, row, forced=False, seconds=0.0)
    assert len(row.tokens) > marker + answer and result.confidence == pytest.approx(0.5**answer)


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("force", [True, False, None])
def test_the_marker_is_inserted_where_it_is_asked_for(thinking: bool, force: bool | None) -> None:
    model = tiny.student(options=CODI)
    prompt = [*model.encoder.prompt(PROBLEM.question)]
    assert model.tokenizer.decode(prompt) == PROBLEM.question
    (row,) = answer_batch(model, [PROBLEM.question], thinking=thinking, force_marker=force, max_new_tokens=5)
    ids = model.tokenizer([PROBLEM.question], return_tensors="pt", add_special_tokens=False)
    inserted = thinking if force is None else force
    (expected,) = decode_batch(
        model.lm,
        ids["input_ids"],
        ids["attention_mask"],
        num_thoughts=2 if thinking else 0,
        forced=model.encoder.marker if inserted else (),
        max_new_tokens=5,
        eos_id=1,
    )
    assert row == expected
    [result] = score(model, [PROBLEM], thinking=thinking, force_marker=force, batch_size=1, max_new_tokens=5)
    assert result.num_tokens == row.num_tokens


def test_a_saved_model_keeps_its_prompt(tmp_path: Path) -> None:
    tiny.student(options=CODI).save_pretrained(tmp_path / "model")
    loaded = StudentModel.from_pretrained(tmp_path / "model")
    assert loaded.encoder.prompt("How many?") == tuple(loaded.tokenizer("How many?")["input_ids"])
    (solution,) = loaded.solve(["How many?"], max_new_tokens=3)
    assert solution.text.startswith("The answer is:") and not solution.answer.startswith("The answer")


@pytest.mark.parametrize(
    ("force", "expected"),
    [
        ("thoughts", {"coconut": None, "icot": None, "teacher-cot": None}),
        ("all", {"coconut": True, "icot": True, "direct": True, "teacher-cot": None, "base": None}),
        ("never", {"coconut": False, "icot": False, "teacher-cot": False}),
    ],
)
def test_methods_that_write_steps_are_never_cut_short(force: str, expected: dict[str, bool | None]) -> None:
    config = RunConfig.from_flat(force_marker=force)
    assert {name: _force_marker(config, METHODS[name]) for name in expected} == expected
