"""The tables' texts, the verdict and the command that makes a run again."""

from __future__ import annotations

import csv
import io
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from lrd_peft.config import parse_request
from lrd_peft.evaluation.records import read_record
from lrd_peft.evaluation.study_description import Trial, TunedCell
from lrd_peft.report.estimates import Estimate, PairedTest
from lrd_peft.report.provenance import commands, environment_lines, run_command
from lrd_peft.report.reference import LABEL
from lrd_peft.report.run_summary import grading_notes, render, render_dataset, run_verdict
from lrd_peft.report.study_records import StudyRecords
from lrd_peft.report.tables import (
    Table,
    cost_table,
    detail_table,
    main_table,
    p_values,
    run_table,
    sweep_table,
    tuning_table,
    value_label,
    with_interval,
)
from lrd_peft.report.verdict import headline, verdict
from tests.report import made

ODD = Table(("a|b", "α_1"), (("50% & <1", "{x}"),))


def test_three_ways_to_write_a_table() -> None:
    assert ODD.markdown() == "| a\\|b | α_1 |\n| --- | --- |\n| 50% & <1 | {x} |\n"
    assert list(csv.reader(io.StringIO(ODD.csv()))) == [["a|b", "α_1"], ["50% & <1", "{x}"]]
    assert "a|b & $\\alpha$\\_1 \\\\" in ODD.latex()
    assert "50\\% \\& $<$1 & \\{x\\} \\\\" in ODD.latex()


@pytest.mark.parametrize(
    ("value", "text"),
    [([8, 9, 10, 11, 12], "8–12"), ([4], "4"), ([2, 8], "2, 8"), (0.1, "0.1"), (None, "none"), ("all", "all")],
)
def test_values_of_a_field(value: object, text: str) -> None:
    assert value_label(value) == text


def test_numbers_with_their_uncertainty() -> None:
    assert with_interval(Estimate(0.612, 0.57, 0.6523, 3)) == "61.2% [57.0, 65.2]"
    assert p_values(None) == ""
    assert p_values(PairedTest(0.1, 0.0321, None, 1, 500)) == "0.032"
    assert p_values(PairedTest(0.1, 0.00001, 0.5, 5, 500)) == "<0.0001 / 0.5"


def test_the_table_of_what_was_chosen_has_a_column_for_each_combination() -> None:
    tried = (
        Trial({"learning_rate": 0.001}, 0.5, "a"),
        Trial({"learning_rate": 0.01}, 0.625, "b"),
    )
    table = tuning_table(
        [
            TunedCell("method=pause", {"learning_rate": 0.01}, tried),
            TunedCell("method=direct", {"learning_rate": 0.001}, tried[:1]),
        ]
    )
    assert table.markdown().splitlines()[2:] == [
        "| pause | 50.0% | **62.5%** |",
        "| direct | **50.0%** |  |",
    ]
    assert table.header[0] == "cell" and table.header[2].endswith(" 0.01")


def test_the_main_table_of_the_demo(root: Path) -> None:
    record = read_record(root / "results" / "tiny.json")
    table = main_table([record])
    rows = {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}
    assert list(rows) == ["Base", "Teacher, CoT", "Teacher, latent", "Latent + LoRA (ours)"]
    share = record.metrics["gsm-mini"]["base"]["summary"]["accuracy"]
    assert rows["Base"]["gsm-mini"].startswith(f"{share:.1%} [")
    assert [rows[name]["type"] for name in rows] == ["text", "text", "latent", "latent"]
    best = max(row["gsm-mini"] for row in rows.values())
    assert table.rows[next(r for r, c in table.best if c == 2)][2] == best
    assert f"| **{best}** |" in table.markdown() and f"\\textbf{{{best.replace('%', chr(92) + '%')}}}" in table.latex()
    assert best in table.csv() and "**" not in table.csv()
    details = detail_table([record])
    rows = {row[0]: dict(zip(details.header, row, strict=True)) for row in details.rows}
    assert rows["Base"]["p, gsm-mini"] == "<0.0001"
    assert rows["Latent + LoRA (ours)"]["trained"] == f"{record.costs.trainable_parameters:,}"
    assert rows["Base"]["trained"] == ""
    assert "2000 held-out problems" in table.note


def test_claims_stand_in_the_table_only_when_asked_for() -> None:
    records = [made.record()]
    assert LABEL not in main_table(records).markdown()
    claimed = [row for row in main_table(records, reference=True).rows if row[0].startswith(LABEL)]
    assert len(claimed) == 5
    assert "GSM8K 43.7%" in claimed[-1][0]
    assert not any(any(row[1:]) for row in claimed)


def test_a_sweep_has_a_row_a_value_and_a_run_a_row_a_method() -> None:
    records = [made.record(lora_r=rank, seed=seed) for rank in (8, 2) for seed in (0, 1)]
    table = sweep_table(records, "lora_r")
    assert [(row[0], row[-1]) for row in table.rows] == [("2", "2"), ("8", "2")]
    assert [row[:2] for row in run_table(made.record(beside={"base": 0.5})).rows][:2] == [
        ("gsm-mini", "`base`"),
        ("gsm-mini", "`latent-lora`"),
    ]


def test_the_verdict_says_above_only_where_both_tests_do() -> None:
    strong = [made.record(share=0.75, seed=s) for s in range(3)] + [
        made.record("base", share=0.05, seed=s) for s in range(3)
    ]
    assert "above Base (" in verdict(strong)[0]
    ours = [made.record(seed=s) for s in range(3)]
    entries = [{name: {"teacher-cot": part["latent-lora"]} for name, part in each.metrics.items()} for each in ours]
    same = [*ours, *(replace(each, method="teacher-cot", metrics=m) for each, m in zip(ours, entries, strict=True))]
    assert "not significantly different from Teacher, CoT (" in verdict(same)[0]
    worse = [made.record(share=0.05), made.record("base", share=0.8)]
    assert "below Base (" in verdict(worse)[0]
    assert verdict([made.record("base")]) == []


def test_costs_are_means_over_seeds() -> None:
    records = [made.record(seed=0), made.record(seed=1)]
    row = dict(zip(cost_table(records).header, cost_table(records).rows[0], strict=True))
    seconds = [record.costs.wall_seconds["student"] for record in records]
    assert row["student"] == f"{sum(seconds) / 2:,.0f} s"
    assert row["evaluation"] == "12 s"


def test_environments_that_differ_all_stand_there(root: Path) -> None:
    lines = dict(environment_lines([made.record(), read_record(root / "results" / "demo.json")]))
    assert lines["packages torch"] == "2.13.0; 2.13.0+cpu"
    assert "num_threads" not in lines  # None in both


def test_the_command_of_a_run_gives_its_configuration_again(root: Path) -> None:
    config = read_record(root / "results" / "tiny.json").config
    command = shlex.split(run_command(config))
    assert command[:2] == ["lrd", "run"]
    again = parse_request(command[2:], prog="lrd run", description="").config.flat()
    assert {name: again[name] for name in config} == config


def test_a_study_says_its_own_command() -> None:
    record = made.record()
    assert commands(StudyRecords("rank", "Rank", (record, record))) == ["lrd study rank"]
    assert commands(StudyRecords("rank-quick", "Rank", (record, record))) == ["lrd study rank --quick"]
    assert commands(StudyRecords("rank", "Rank", (record,), command="make it")) == ["make it"]
    assert commands(StudyRecords("demo", "Demo", (record,))) == [run_command(record.config)]


def test_the_headline_compares_with_the_most_similar_text_method() -> None:
    records = [made.record(share=0.3), made.record("distill-lora", share=0.6), made.record("teacher-cot", share=0.9)]
    sentence = headline(records)
    assert sentence.startswith("Latent + LoRA (ours) needs 6.0 model passes per problem, Distill + LoRA 24.0;")
    ours, other = (each.metrics["gsm-mini"][each.method]["summary"]["accuracy"] for each in records[:2])
    assert f"\u2212{100 * (other - ours):.1f} points on gsm-mini" in sentence
    assert headline([made.record()]) == ""


def test_timeouts_and_two_versions_of_the_rules_are_said_and_nothing_else_is() -> None:
    record = made.record(beside={"base": 0.5})
    assert grading_notes([record]) == []
    assert "Note" not in main_table([record]).note
    metrics = {name: {m: dict(entry) for m, entry in entries.items()} for name, entries in record.metrics.items()}
    summary = metrics["gsm-mini"]["base"]["summary"]
    metrics["gsm-mini"]["base"]["summary"] = {**summary, "num_timeouts": 3}
    late = replace(record, metrics=metrics, answers_version=record.answers_version + 1)
    assert "3 comparisons of answers reached the limit" in render(late)
    note = main_table([record, replace(late, seed=1)]).note
    assert "3 comparisons" in note and "graded by versions 1 and 2" in note


def test_what_a_run_prints_fits_a_terminal_and_says_what_the_methods_are() -> None:
    record = made.record(beside={"base": 0.5, "teacher-cot": 0.9}, n=120)
    text = render(record)
    assert max(map(len, text.splitlines())) <= 120
    assert text.count("student, LoRA, thoughts") == text.count("teacher, written steps") == 1
    first = render_dataset(record, record.datasets[0])
    assert text.startswith(first) and first.startswith(f"{record.datasets[0]} (n = 120 held-out problems")
    assert first.count("(McNemar, exact)") == 2


@pytest.mark.parametrize(
    ("base", "words"), [(0.1, "above base"), (0.99, "below base"), (0.6, "not distinguishable from")]
)
def test_the_verdict_names_only_differences_that_the_paired_test_shows(base: float, words: str) -> None:
    record = made.record(beside={"base": base}, n=120, share=0.6)
    sentence = " ".join(run_verdict(record, record.datasets[0]).split())
    assert words in sentence and sentence.startswith(f"{record.datasets[0]}: {record.method} answers ")
    assert run_verdict(made.record(), record.datasets[0]) == ""
