"""A record keeps a long training's curve small, and every grading of it."""

from __future__ import annotations

from typing import Any

from lrd_peft.pipeline.runner import thin


def test_a_long_curve_is_thinned_but_keeps_every_grading():
    curve: list[dict[str, Any]] = []
    for step in range(1, 1001):
        curve.append({"step": step, "loss": 1.0})
        if step % 100 == 0:
            curve.append({"step": step, "eval_loss": 1.0, "eval_accuracy": 0.5})
    found = thin(curve, most=50)
    assert [row["step"] for row in found if "eval_loss" in row] == list(range(100, 1001, 100))
    losses = [row["step"] for row in found if "loss" in row]
    assert len(losses) == 50 and losses[0] == 1 and losses[-1] == 1000
    assert found == sorted(found, key=lambda row: row["step"])
    assert thin(curve[:40], most=50) == curve[:40]
