"""The contenders of `make bench` compute the same, and its ratios are ratios."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import evaluation, extraction, student, training_step
from benchmarks.figure import draw, speeds
from benchmarks.measure import Settings, alternate, peak_bytes, row
from benchmarks.scaling import exponent
from benchmarks.table import page, table
from benchmarks.work import make
from lrd_peft.store import Store

QUICK = Settings(quick=True, threads=(1,), repeats=3, seconds=0.0)


def test_a_step_equals_both_references_in_loss_and_gradients():
    training_step.check(make("tiny", batch_size=3))


def test_the_references_write_the_same_tokens():
    work = make("tiny", batch_size=3)
    work.model.eval()
    options: dict[str, Any] = {
        "forced": work.model.encoder.marker,
        "max_new_tokens": 6,
        "eos_id": work.model.tokenizer.eos_token_id,
    }
    written = [answer.tokens for answer in evaluation.ours(work, **options)]
    assert sorted(evaluation.spread(work, 3)) == [0, 1, 2]
    assert written == evaluation.theirs(work, [0, 1, 2], **options)
    assert any(written)


def test_extracted_states_are_those_of_the_sequence_run_again(tmp_path):
    work = make("tiny", batch_size=20)  # more than one batch
    work.model.eval()
    store = Store.open(extraction.ours(work, tmp_path / "store"))
    states = extraction.everything(work)
    assert len(states) == extraction.BATCH_SIZE
    for index, wanted in enumerate(states):
        assert (store.states(index) - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_a_students_step_equals_the_bare_loop_and_runs_with_its_teachers_thoughts(tmp_path):
    pair = student.Pair("tiny", tmp_path, num_steps=1)
    trainer = pair.trainer()
    batches = list(trainer.get_train_dataloader())
    bare = student.BareLoop(pair, batches)
    wanted = bare.loss(0).item()
    assert student.step(trainer, batches[0])() == pytest.approx(wanted, rel=1e-4)
    assert student.FieldStyle(bare, whole=False)() == pytest.approx(wanted, rel=1e-4)
    forced = pair.trainer(thoughts_from="teacher")  # the untrained student has its teacher's weights, so its thoughts
    assert student.step(forced, batches[0])() == pytest.approx(wanted, rel=1e-4)


def test_contenders_are_timed_in_turn_forwards_and_backwards():
    order: list[str] = []
    times = alternate(QUICK, lambda: order.append("a"), lambda: order.append("b"))
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert [len(seconds) for seconds in times] == [3, 3]


def test_the_ratio_is_the_median_of_ratios_within_pairs():
    speed = row("s", "w", ours=("a", [1.0, 2.0, 4.0]), other=("b", [3.0, 4.0, 20.0]), scale=2.0)
    assert (speed.ratio, speed.low, speed.high) == (6.0, 4.0, 10.0)
    assert speed.other_seconds == 8.0
    cost = row("s", "w", ours=("a", [1.0, 2.0, 4.0]), other=("b", [2.0, 2.0, 2.0]), is_cost=True)
    assert (cost.ratio, cost.low, cost.high) == (1.0, 0.5, 2.0)


def test_the_peak_counts_what_a_contender_holds_at_once_and_not_what_it_frees():
    held = [torch.zeros(1_000_000)]

    def frees_then_holds() -> None:
        held.clear()
        first = torch.zeros(1_000_000)
        del first
        both = torch.zeros(2_000_000), torch.zeros(500_000)
        del both

    assert peak_bytes(frees_then_holds) == pytest.approx(10e6, rel=0.01)


def test_the_figure_shows_ratios_with_the_most_threads_and_is_the_same_for_the_same_rows(tmp_path):
    one = row("section", "work", ours=("a", [1.0]), other=("b", [6.0]))
    cost = row("section", "work", ours=("a", [1.0]), other=("parts", [1.0]), is_cost=True)
    two = dataclasses.replace(one, threads=one.threads + 1, ratio=7.0)
    assert speeds([one, two, cost]) == [two]
    for name in ("first", "second"):
        draw([one, two, cost], tmp_path / name)
    drawn = (tmp_path / "first").read_bytes()
    assert drawn == (tmp_path / "second").read_bytes() and "7×".encode() in drawn and "6×</text>".encode() not in drawn


def test_every_kept_comparison_is_explained_on_the_page():
    root = Path(__file__).parents[2]
    text = (root / "docs" / "performance.md").read_text(encoding="utf-8")
    explained = text[text.index("What each comparison stands for") : text.index("## Where the difference")]
    for line in json.loads((root / "results" / "bench.json").read_text(encoding="utf-8"))["rows"]:
        assert f"| {line['section']} |" in explained, line


def test_exponents_of_power_laws():
    assert exponent([10, 100, 1000], [0.1, 1.0, 10.0]) == pytest.approx(1.0)
    assert exponent([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx(2.0)


def test_the_page_is_filled_between_its_marks_and_nowhere_else():
    text = (Path(__file__).parents[2] / "docs" / "performance.md").read_text(encoding="utf-8")
    line = row("section", "work", ours=("a", [1.0]), other=("b", [5.0]), target="≥ 5")
    record = {
        "rows": [line.to_dict()],
        "operations": [["aten::mm", 0.5]],
        "environment": {"processor": "P", "python": "3"},
        "cores": 2,
        "load_before": 0.0,
        "load_after": 1.0,
        "clock": "wall",
        "wall_seconds": 60.0,
    }
    filled = page(text, record)
    assert table([line]) in filled and "5×" in filled and "`aten::mm`" in filled
    assert page(filled, record) == filled
    assert _outside(text) == _outside(filled)


def _outside(text: str) -> list[str]:
    """The lines between no marks."""
    inside, kept = False, []
    for line in text.splitlines():
        if line.startswith("<!-- "):
            inside = not line.startswith("<!-- /")
        elif not inside:
            kept.append(line)
    return kept
