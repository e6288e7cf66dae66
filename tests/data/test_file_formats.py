"""Every format of a file, with rows of our own: read completely, or refused in one line."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrd_peft.data import load_problems
from lrd_peft.data.file_formats import read_file
from lrd_peft.runtime.errors import UserError

ROWS: list[dict[str, Any]] = [
    {"question": f"Ann has {n} pens and buys 4. How many?", "steps": [f"{n} + 4 = {n + 4}"], "answer": str(n + 4)}
    for n in range(12)
]
ICOT = [f"{row['question']}||<<{row['steps'][0]}>> #### {row['answer']}" for row in ROWS]


def as_csv(rows: list[dict[str, Any]], delimiter: str = ",") -> str:
    head = delimiter.join(("question", "steps", "answer"))
    lines = [
        delimiter.join(('"' + str(row[name]).replace('"', '""') + '"') for name in ("question", "steps", "answer"))
        for row in rows
    ]
    return "\n".join((head, *lines)) + "\n"


TEXTS = {
    "lines.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    "array.json": json.dumps(ROWS),
    "array.jsonl": json.dumps(ROWS),
    "indented.json": json.dumps(ROWS, indent=2),
    "objects.json": "\n".join(json.dumps(row, indent=1) for row in ROWS),
    "columns.json": json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]}),
    "frame.json": json.dumps({name: {str(n): row[name] for n, row in enumerate(ROWS)} for name in ROWS[0]}),
    "below.json": json.dumps({"version": 1, "data": ROWS}),
    "bom.json": "\ufeff" + json.dumps(ROWS),
    "comma.csv": as_csv(ROWS),
    "semicolon.csv": as_csv(ROWS, ";"),
    "tabs.tsv": as_csv(ROWS, "\t"),
    "icot.txt": "\n".join(ICOT) + "\n",
}


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("name", TEXTS)
def test_a_file_reads_completely(name: str, compressed: bool, tmp_path: Path) -> None:
    path = tmp_path / (f"{name}.gz" if compressed else name)
    content = TEXTS[name].encode()
    path.write_bytes(gzip.compress(content, mtime=0) if compressed else content)
    problems = load_problems(path, split="all")
    assert [(p.question, list(p.steps), p.answer) for p in problems] == [
        (row["question"], row["steps"], row["answer"]) for row in ROWS
    ]
    assert (problems.num_rows, problems.dropped, problems.unused_columns) == (12, {}, {})
    assert len(load_problems(path, split="train")) == 10


def test_tables_of_datasets_read_completely(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    table = Dataset.from_list(ROWS)
    table.to_parquet(str(tmp_path / "rows.parquet"))
    table.save_to_disk(str(tmp_path / "saved"))
    DatasetDict({"train": table.select(range(9)), "test": table.select(range(9, 12))}).save_to_disk(
        str(tmp_path / "both")
    )
    (tmp_path / "hub" / "data").mkdir(parents=True)
    for shard in range(2):
        name = f"train-{shard:05d}-of-00002.parquet"
        table.select(range(6 * shard, 6 * shard + 6)).to_parquet(str(tmp_path / "hub" / "data" / name))
    table.select(range(2)).to_parquet(str(tmp_path / "hub" / "data" / "test-00000-of-00001-0123456789abcdef.parquet"))
    questions = [row["question"] for row in ROWS]
    for name in ("rows.parquet", "saved", "saved/data-00000-of-00001.arrow"):
        assert [p.question for p in load_problems(tmp_path / name, split="all")] == questions
    assert len(load_problems(tmp_path / "both", split="test")) == 3
    both = load_problems(tmp_path / "both", split="train")
    assert both.num_rows == 9 == len(both) + sum(both.elsewhere.values())
    train = load_problems(tmp_path / "hub", split="train")
    assert train.num_rows == 12
    assert train.dropped == {"question also in another split": 2}
    assert load_problems(tmp_path / "hub", split="test")[1].steps == ("1 + 4 = 5",)


def test_a_problem_a_file_is_read_in_the_order_of_numbers(tmp_path: Path) -> None:
    for split, numbers in (("train", (1, 2, 10)), ("test", (3,))):
        for subject in ("algebra", "geometry"):
            (tmp_path / split / subject).mkdir(parents=True)
            for number in numbers:
                row = {"problem": f"{subject} {number}?", "level": "Level 1", "type": subject}
                row["solution"] = f"It is $\\boxed{{{number}}}$."
                (tmp_path / split / subject / f"{number}.json").write_text(json.dumps(row, indent=4))
    test = load_problems(tmp_path, split="test")
    assert [p.question for p in test] == ["algebra 3?", "geometry 3?"]
    train = load_problems("math", split="train", data_dir=tmp_path)
    assert train.num_rows == 6 == len(train) + sum(train.elsewhere.values())
    # Folders by turns, files by their numbers.
    order = [f"{subject} {number}?" for number in (1, 2, 10) for subject in ("algebra", "geometry")]
    found = [p.question for p in train]
    assert found == [question for question in order if question in found]


def test_cells_of_a_table_stay_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question,answer,steps\n\"Zip, please?\",007,\"['count', 'on']\"\nNA?,NA,\n")
    rows = load_problems(path, split="all")
    assert [(p.question, p.answer, p.steps) for p in rows] == [
        ("Zip, please?", "007", ("count", "on")),
        ("NA?", "NA", ()),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'[{"question": "Q?", "answer": "1"},\n {"question": }]', r"a\.json, line 2: not JSON: .*column 15"),
        ("a.json", b'[{"question": "Q?", "answer": "1"}, 3]', "row 2: a row must be a JSON object, not a int"),
        ("a.json", b"[" * 100_000, "line 1: not usable JSON"),
        ("a.json", b'{"a": ' * 100_000, "line 1: not usable JSON"),
        ("a.json", b"[{}", "line 1: not JSON"),
        ("a.json", "[{}]".encode("utf-16"), "not UTF-8|not JSON"),
        ("a.json", b'{"question": "Q?", "answer": "1", "answer": "2"}', 'the key "answer" is given twice'),
        ("a.jsonl", b'{"question": "Q?"}\n{"answer": "1", "answer": "2"}\n', 'line 2: the key "answer" is given twice'),
        ("a.csv", b"question,answer\nQ?\n", "line 2: 1 cells, but the header has 2 columns"),
        ("a.csv", b"question,answer,answer\nQ?,1,2\n", 'line 1: two columns are called "answer"'),
        ("a.csv", b'question,answer\n"Q?,1\nR?,2\n', "not valid CSV"),
        ("a.csv", b"question,answer\nQ\xff?,1\n", "not UTF-8"),
        ("a.csv", b"question,answer\n" + b"x" * 200_000 + b",1\n", "not valid CSV: field larger"),
        ("a.txt", b"no bars #### 3\n", r'line 1: a line must be "question\|\|steps'),
        ("a.txt", b"a||b||c #### 3\n", 'with one "\\|\\|"'),
        ("a.tsv", b"a\tb\n", "2 tab-separated cells instead of 3"),
        ("a.jsonl.gz", b"no gzip", "not a complete gzip file"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"question": "Q?", "answer": "1"}\n' * 50, mtime=0)[:-12],
            "not a complete gzip file",
        ),
        ("a.parquet", b"PAR1 no parquet", "cannot read"),
        ("a.arrow", b"no arrow", "cannot read"),
        ("a.xlsx", b"", "has no format that is read; the formats are .jsonl"),
        ("a.parquet.gz", b"", "has no format that is read"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_problems(path, split="all")
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.binary(max_size=60), name=st.sampled_from(["a.json", "a.csv", "a.tsv", "a.txt", "a.jsonl.gz"]))
def test_any_bytes_are_rows_or_one_line(data: bytes, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    try:
        assert all(isinstance(row.fields, dict) for row in read_file(path))
    except UserError as error:
        assert "\n" not in str(error)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    cells=st.lists(
        st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=9), min_size=2, max_size=2
    )
)
def test_a_cell_survives_its_table(cells: list[str], tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows((["question", "answer"], cells))
    rows = [row.fields for row in read_file(path)]
    assert rows == ([dict(zip(("question", "answer"), cells, strict=True))] if any(c.strip() for c in cells) else [])
