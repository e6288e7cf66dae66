"""Tables about the thoughts of a study's cells, from files of hand-made numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lrd_peft.evaluation.ablation_results import Ablated, Ablation, Ablations
from lrd_peft.evaluation.metrics import Accuracy
from lrd_peft.report.page import render_page
from lrd_peft.report.study_records import read_results
from lrd_peft.report.thought_tables import ablation_summary, probe_summary
from tests.report import made


def _ablated(name: str, right: int, p_value: float) -> Ablated:
    whole = Accuracy.of([True] * 8 + [False] * 2)
    accuracy = Accuracy.of([True] * right + [False] * (10 - right))
    return Ablated(name, name, 2, accuracy, whole, p_value=p_value, num_changed=3, divergence=0.5)


def _found(*, own: int, none: int, p_value: float) -> dict[str, Any]:
    whole = Accuracy.of([True] * own + [False] * (10 - own))
    rows = (_ablated("none", none, p_value), _ablated("filler", 5, 0.01))
    return Ablations("made", (Ablation("latent-lora", "gsm-mini", 2, whole, rows),)).to_json()


def _study(folder: Path) -> Path:
    (folder / "study" / "thoughts").mkdir(parents=True)
    for seed in (0, 1):
        record = made.record(seed=seed)
        (folder / "study" / f"cell--seed{seed}.json").write_text(json.dumps(record.to_json()))
    files = {
        "method=latent-lora--seed0.ablation": _found(own=8, none=4, p_value=0.01),
        "method=latent-lora--seed1.ablation": _found(own=9, none=5, p_value=0.2),
        "method=latent-lora--seed0.probe": made.probes(),
    }
    for name, found in files.items():
        (folder / "study" / "thoughts" / f"{name}.json").write_text(json.dumps(found))
    return folder


def test_means_over_seeds_and_a_star_where_every_seed_differs(tmp_path: Path) -> None:
    study = read_results(_study(tmp_path))["study"]
    table = ablation_summary(study.looks)
    assert table.rows == (("latent-lora", "gsm-mini", "85.0%", "45.0%", "", "50.0%*", "", "", "2"),)
    assert "on 10 held-out problems" in table.note
    # made.probes(): 0.2 + 0.1 * layer + 0.1 * position, best at layer 4 and position 2; the question is position 0.
    assert probe_summary(study.looks).rows == (
        ("latent-lora", "gsm-mini", "step 1", "80.0%", "60.0%", "8.0%", "11.0%", "1"),
    )


def test_the_page_shows_them(tmp_path: Path) -> None:
    studies = read_results(_study(tmp_path))
    page = render_page(studies["study"], chart=None, studies=studies, figures=[], skipped=[])
    assert page.count("45.0%") == 1 and 'id="thoughts"' in page and 'id="probes"' in page
