"""A run on a file of its own columns is evaluated on other data sets, and its record and report carry each of them."""

from __future__ import annotations

import json
from pathlib import Path

from tests.pipeline.small_run import FLAGS, finish, lrd


def test_each_evaluated_set_is_in_the_log_the_record_and_the_report(tmp_path: Path) -> None:
    files = {
        "mine.json": [
            {
                "query": f"Ann has {n} pens and buys 4. How many?",
                "response": f"{n}+4 = {n + 4}\n#### {n + 4}",
                "tip": "Add.",
            }
            for n in range(40)
        ],
        "data/svamp/test.json": [
            {"Body": f"Al has {n} figs.", "Question": "How many?", "Equation": f"( {n}.0 )", "Answer": float(n)}
            for n in range(6)
        ],
        "data/gsm-hard.json": [{"input": f"{n} and 4?", "code": "...", "target": n + 4.0} for n in range(5)],
        "data/prosqa_test.json": [
            {"question": f"Is Tom {n} a lempus or a rompus?", "steps": ["So."], "answer": "Tom is a lempus."}
            for n in range(4)
        ],
    }
    for name, rows in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(rows))
    output = finish(
        lrd(
            *("run", "--method", "direct", *FLAGS, "--dataset", "mine.json"),
            *("--output_dir", "run", "--data_dir", "data"),
            *("--columns", "question=query,answer=response"),
            *("--eval_datasets", "mine.json", "svamp", "gsm-hard", "prosqa", "--methods", "direct"),
            cwd=tmp_path,
        )
    )
    assert "svamp test: 6 problems from 6 rows read; 0 dropped" in output
    assert "columns not used: tip" in output
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    counts = {name: found["direct"]["outcomes"]["n"] for name, found in record["metrics"].items()}
    assert counts == {"mine.json": 4, "svamp": 6, "gsm-hard": 5, "prosqa": 4}
    assert record["config"]["columns"] == ["question=query", "answer=response"]
    finish(lrd("report", "run", cwd=tmp_path))
    table = (tmp_path / "run" / "report" / "table1_main_results.md").read_text("utf-8")
    assert all(name in table for name in ("svamp", "gsm-hard", "prosqa"))
