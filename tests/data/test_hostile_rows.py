"""Rows that mean harm, or nothing: a data set or one line, and what is read comes out as it was."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_peft.data import load_problems
from lrd_peft.runtime.errors import UserError

GOOD = {"question": "How many?", "steps": ["1 + 1 = 2"], "answer": "2"}
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
KEYS = ("question", "steps", "answer", "options", "subject", "id", "num_steps", "problem", "solution", "rationale")
ROWS = st.dictionaries(st.sampled_from([*KEYS, "correct", "level", ""]), ANY, max_size=5)


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.tuples(st.booleans(), ROWS).map(lambda pair: {**(GOOD if pair[0] else {}), **pair[1]})))
def test_any_rows_are_a_data_set_or_one_line(
    rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    try:
        loaded = load_problems(path, split="all")
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 3000
    else:
        assert loaded.num_rows == len(rows) == len(loaded) + sum(loaded.dropped.values())
        for problem in loaded:
            assert problem.question and problem.answer
            json.dumps(problem.to_row()).encode()


@pytest.mark.parametrize(
    "line",
    ["[" * 100_000, '{"question":' * 50_000, '{"question": ' + "9" * 100_000 + "}", '{"a":1,' * 50_000, "\x00" * 1000],
    ids=["brackets", "objects", "number", "keys", "nulls"],
)
def test_a_hostile_line_is_named_soon(line: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    began = time.process_time()
    with pytest.raises(UserError, match=r"rows\.jsonl, line 2"):
        load_problems(path, split="all")
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "a\u202eb\u0000c & \x1b[2J"]
)
def test_markup_in_a_question_is_text(text: str, tmp_path: Path) -> None:
    """It is kept as it is: what shows it has to escape it."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({**GOOD, "question": text}))
    [problem] = load_problems(path, split="all")
    assert problem.question == text
