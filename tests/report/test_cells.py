"""How records become cells, and folders studies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lrd_peft.evaluation.records import Record
from lrd_peft.report.cells import against_ours, cells_of, rival_notes, sort_key
from lrd_peft.report.figures.sweeps import alpha_sensitivity, crossed, sweep
from lrd_peft.report.study_records import read_results, read_study_records
from lrd_peft.report.style import method_style
from lrd_peft.report.tables import detail_table, main_table, sweep_table
from lrd_peft.runtime.errors import UserError
from tests.report import made
from tools.record_numbers import study_facts


def small(method: str = "latent-lora", **settings: Any) -> Record:
    return made.record(method, datasets=("gsm-mini",), n=20, **settings)


def test_seeds_come_together_and_a_run_of_its_own_counts_before_what_others_measured() -> None:
    records = [small(seed=0, beside={"base": 0.1, "teacher-cot": 0.5}), small(seed=1), small("base", seed=0, share=0.9)]
    found = {cell.method: cell for cell in cells_of(records)}
    assert list(found) == ["base", "teacher-cot", "latent-lora"]
    assert found["latent-lora"].num_seeds == 2
    own = records[2].metrics["gsm-mini"]["base"]["summary"]["num_right"]
    assert [summary.num_right for summary in found["base"].summaries.values()] == [own]
    assert found["teacher-cot"].costs == {}
    assert found["base"].training_seconds() is None
    # the other order gives the same
    assert [cell.method for cell in cells_of(records[::-1])] == list(found)
    assert [summary.num_right for summary in cells_of(records[::-1])[0].summaries.values()] == [own]


def test_reference_methods_that_runs_disagree_on_are_named() -> None:
    same = [small(seed=0, beside={"base": 0.5}), small("direct", seed=0, beside={"base": 0.5})]
    assert rival_notes(cells_of(same)) == [] and "first run" not in main_table(same).note
    other = small("pause", seed=0, beside={"base": 0.1})
    (note,) = rival_notes(cells_of([*same, other]))
    share = other.metrics["gsm-mini"]["base"]["summary"]["num_right"] / 20
    assert note.startswith("Base on gsm-mini is that of the first run") and f"found {share:.1%}" in note
    assert note in main_table([*same, other]).note and note in detail_table([*same, other]).note
    # A run of the method itself is no rival of those that graded it.
    assert rival_notes(cells_of([*same, other, small("base", seed=0, share=0.9)])) == []


def test_latent_lora_without_alignment_is_a_method_beside_it() -> None:
    records = [small(distill_alpha=0.5), small(distill_alpha=0.0)]
    assert [cell.method for cell in cells_of(records)] == ["latent-lora-alpha0", "latent-lora"]
    along = cells_of(records, by="distill_alpha", own=True)
    assert [(cell.method, cell.value) for cell in along] == [("latent-lora", 0.0), ("latent-lora", 0.5)]


def test_two_records_of_one_cell_are_refused_with_what_differs() -> None:
    with pytest.raises(UserError, match="differ in lora_r"):
        cells_of([small(lora_r=4), small(lora_r=8)])


def test_seeds_with_other_numbers_of_problems_are_refused() -> None:
    records = [small(seed=0), made.record(seed=1, datasets=("gsm-mini",), n=21)]
    with pytest.raises(UserError, match="20 and 21 problems"):
        _ = cells_of(records)[0].accuracy


def test_the_teacher_is_one_cell_whatever_the_student() -> None:
    records = [small(student=student, beside={"teacher-cot": 0.5}) for student in ("teacher:4", "teacher:6")]
    found = cells_of(records, by="student")
    assert [(cell.method, cell.value) for cell in found if cell.method == "teacher-cot"] == [("teacher-cot", None)]
    assert len([cell for cell in found if cell.method == "latent-lora"]) == 2


def test_values_of_a_field_have_an_order() -> None:
    values = [[8, 9], "b", 0.5, [4], 0, None, "a", [1]]
    assert sorted(values, key=sort_key) == [None, 0, 0.5, [1], [4], [8, 9], "a", "b"]


def test_ours_is_tested_against_each_other_method() -> None:
    tests = against_ours(cells_of([small(share=0.9), small("base", share=0.1)]))
    assert set(tests) == {("base", "gsm-mini")}
    assert tests["base", "gsm-mini"].difference > 0


def test_a_folder_of_studies_is_read_with_what_lies_beside_the_records(tmp_path: Path) -> None:
    made.save(tmp_path / "alpha", *(small(distill_alpha=alpha) for alpha in (0.1, 0.5)))
    made.save(
        tmp_path / "methods", small(), small("base"), about={"title": "All methods", "axes": [{"field": "method"}]}
    )
    made.save(tmp_path / "later" / "records", small(lora_r=4), small(lora_r=8))
    (tmp_path / "methods" / "answers.json").write_text(json.dumps(made.answers()))
    (tmp_path / "methods" / "similarity.json").write_text(json.dumps(made.similarity_row()))
    (tmp_path / "machine.json").write_text('{"speed": 3}')
    (tmp_path / "empty").mkdir()
    studies = read_results(tmp_path)
    assert {name: study.axis for name, study in studies.items()} == {
        "alpha": "distill_alpha",
        "later": "lora_r",
        "methods": None,
    }
    methods = studies["methods"]
    assert methods.answers is not None
    problems = methods.answers.problems
    assert (methods.title, len(problems), problems[5].student_answer) == ("All methods", 13, None)
    assert methods.similarity is not None
    assert read_results(tmp_path / "alpha" / "000-latent-lora-seed0.json")["methods"].num_seeds == 1


def test_a_study_of_several_fields_varies_along_their_combinations(tmp_path: Path) -> None:
    records = [small(distill_alpha=alpha, lora_r=rank) for rank in (8, 16) for alpha in (0.5, 0.1)]
    about = {"axes": [{"field": "method"}, {"field": "lora_r"}, {"field": "distill_alpha"}]}
    study = read_study_records(made.save(tmp_path / "both", *records, about=about))
    axis = study.axis
    assert isinstance(axis, tuple) and axis == ("lora_r", "distill_alpha")
    found = cells_of(study.records, by=axis, own=True)
    assert [cell.value for cell in found] == [(8, 0.1), (8, 0.5), (16, 0.1), (16, 0.5)]
    table = sweep_table(study.records, axis)
    assert table.header[0] == "LoRA rank r / distillation weight α"
    assert [row[0] for row in table.rows] == ["8 / 0.1", "8 / 0.5", "16 / 0.1", "16 / 0.5"]
    shown = {text.get_text() for text in sweep(study.records, axis).axes[0].get_xticklabels()}
    assert shown == {row[0] for row in table.rows}
    assert study_facts(study)["accuracy"]["gsm-mini"]["latent-lora@16 / 0.1"]["num_seeds"] == 1


def test_single_cells_beside_the_axes_are_values_of_their_own(tmp_path: Path) -> None:
    records = [small(distill_alpha=0.1), small(distill_alpha=0.5), small(distill_alpha=0.5, lora_r=4)]
    named = [{"distill_alpha": 0.1}, {"distill_alpha": 0.5}, {"lora_r": 4}]
    about = {"axes": [{"field": "distill_alpha"}], "cells": [{"cell": str(v), "values": v} for v in named]}
    study = read_study_records(made.save(tmp_path / "also", *records, about=about))
    assert study.axis == ("distill_alpha", "lora_r")
    rank = records[0].config["lora_r"]
    assert [cell.value for cell in cells_of(study.records, by=study.axis, own=True)] == [
        (0.1, rank),
        (0.5, 4),
        (0.5, rank),
    ]


def test_a_method_has_no_value_of_a_field_that_it_has_no_use_for(tmp_path: Path) -> None:
    axis = ("num_student_problems", "distill_alpha")
    records = [
        small(num_student_problems=count, distill_alpha=alpha, share=share)
        for count in (100, 500)
        for alpha, share in ((0, 0.3), (0.9, 0.6))
    ]
    records.append(small("distill-lora", num_student_problems=500, distill_alpha=0.5))
    study = read_study_records(
        made.save(tmp_path / "few", *records, about={"axes": [{"field": field} for field in axis]})
    )
    written = [cell.value for cell in cells_of(study.records, by=axis, own=True) if cell.method == "distill-lora"]
    assert written == [(500, None)]
    tests = study_facts(study)["against_first"]["gsm-mini"]
    # Each weight is tested against the first one with as many problems, not against the very first.
    assert set(tests) == {"latent-lora@100 / 0.9", "latent-lora@500 / 0.9"}
    facts = study_facts(study)["accuracy"]["gsm-mini"]
    gain = facts["latent-lora@500 / 0.9"]["mean"] - facts["latent-lora@500 / 0"]["mean"]
    assert tests["latent-lora@500 / 0.9"]["difference"] == pytest.approx(gain)
    panel = crossed(study.records, axis).axes[0]
    _, names = panel.get_legend_handles_labels()
    ours = "Latent + LoRA (ours), distillation weight α"
    assert sorted(names) == sorted([f"{ours} 0", f"{ours} 0.9", "Distill + LoRA"])
    assert [text.get_text() for text in panel.get_xticklabels()] == ["100", "500"]
    colours = {line.get_color() for line in panel.lines if line.get_linestyle() != "None"}
    assert {method_style(name).color for name in ("latent-lora", "latent-lora-alpha0", "distill-lora")} <= colours


def test_a_grid_with_a_method_that_has_no_use_for_a_field_has_it_once(tmp_path: Path) -> None:
    records = [small(method, distill_alpha=alpha) for method in ("distill-lora", "latent-lora") for alpha in (0, 0.9)]
    about = {"axes": [{"field": "distill_alpha"}, {"field": "method"}]}
    study = read_study_records(made.save(tmp_path / "alpha", *records, about=about))
    assert study.axis == "distill_alpha"
    shown = [row[:2] for row in sweep_table(study.records, study.axis).rows]
    assert shown == [
        ("none", "Distill + LoRA"),
        ("0", "Latent + LoRA (ours)"),
        ("0.9", "Latent + LoRA (ours)"),
    ]
    assert len(alpha_sensitivity(study.records).axes[0].containers) == 1
    with pytest.raises(UserError, match="they differ in learning_rate, distill_alpha"):
        cells_of([small("distill-lora", distill_alpha=0), small("distill-lora", distill_alpha=0.9, learning_rate=1.0)])


def test_damaged_and_missing_results_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`lrd report runs/demo`"):
        read_results(tmp_path / "none")
    with pytest.raises(UserError, match="no record in"):
        read_results(tmp_path)
    with pytest.raises(UserError, match="no record in"):
        read_study_records(tmp_path)
    made.save(tmp_path / "methods", small())
    (tmp_path / "methods" / "answers.json").write_text('{"source": "", "problems": [{"dataset": "x"}]}')
    with pytest.raises(UserError, match=r"answers\.json: problems.0.question: is missing.*remove it or write it again"):
        read_results(tmp_path)
    (tmp_path / "methods" / "answers.json").write_text("[]")
    with pytest.raises(UserError, match=r"should be an object, not \[\]"):
        read_results(tmp_path)
    (tmp_path / "methods" / "answers.json").write_text("[")
    with pytest.raises(UserError, match="damaged"):
        read_results(tmp_path)
    (tmp_path / "methods" / "answers.json").unlink()
    (tmp_path / "methods" / "half.json").write_text('{"schema')
    with pytest.raises(UserError, match="damaged"):
        read_results(tmp_path)


def test_a_record_from_before_a_field_has_the_value_that_did_the_same(tmp_path: Path) -> None:
    older, newer = small(seed=0), small(seed=1)
    del older.config["align_to"]
    assert read_study_records(made.save(tmp_path / "same", older, newer)).axis is None
    records = (small(align_to="steps"), older)
    study = read_study_records(made.save(tmp_path / "alignment", *records))
    assert study.axis == "align_to"
    assert sorted(cell.value for cell in cells_of(study.records, by="align_to", own=True)) == ["steps", "thoughts"]
