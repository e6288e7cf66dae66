"""Figure 6: the losses over a training. Knows the curves of records."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from lrd_peft.records import Record
from lrd_peft.report.cells import NothingToDraw, method_name
from lrd_peft.report.estimates import Estimate, mean_estimate
from lrd_peft.report.figures.canvas import legend_below, panels, styled
from lrd_peft.report.style import METHODS, in_order, method_style

LOSSES = {
    "task": "task loss (nats a token)",
    "distill": "distillation loss",
    "step_loss": "loss of the written steps",
    "loss": "total loss",
}


@styled
def training_curves(records: Sequence[Record]) -> Figure:
    """Draw each of the student's losses that was logged against the optimizer step, a line a method.

    Mean over seeds; the band is Student's 95% t interval over seeds, and there is none for a single seed.

    Raises:
        NothingToDraw: if no record holds a student's training log.
    """
    lines = {
        (method, loss): points
        for method in in_order(map(method_name, records))
        for loss in LOSSES
        if (points := _points([r for r in records if method_name(r) == method], loss))
    }
    if not lines:
        raise NothingToDraw("no record holds the training log of a student")
    shown = [loss for loss in LOSSES if any(loss == name for _, name in lines)]
    figure, axes = panels(len(shown), width=2.9, share_y=False)
    for panel, loss in zip(axes, shown, strict=True):
        for (method, name), points in lines.items():
            if name != loss:
                continue
            style, steps, values = method_style(method), list(points), list(points.values())
            # one marker in ten steps or so, not at the same steps for all
            every = max(1, len(steps) // 8)
            panel.plot(
                steps,
                [value.mean for value in values],
                **style.look,
                label=style.label,
                linewidth=1.2,
                markersize=3.5,
                markevery=(list(METHODS).index(method) % every if method in METHODS else 0, every),
            )
            if any(value.num_seeds > 1 for value in values):
                low, high = [value.low for value in values], [value.high for value in values]
                panel.fill_between(steps, low, high, color=style.colour, alpha=0.15, linewidth=0)
        panel.set_title(LOSSES[loss])
        panel.set_xlabel("optimizer step")
        means = [value.mean for (_, name), points in lines.items() if name == loss for value in points.values()]
        panel.set_ylim(bottom=0, top=_top(means))
    # The panel with the most lines names them all.
    legend_below(figure, max(axes, key=lambda panel: len(panel.get_legend_handles_labels()[1])), columns=4)
    return figure


def _points(records: Sequence[Record], loss: str) -> dict[float, Estimate]:
    """Return step -> mean over the seeds that logged it."""
    found: dict[float, list[float]] = {}
    for record in records:
        for row in record.curves:
            value = row.get(loss)
            if row.get("phase", "student") == "student" and "step" in row and value is not None:
                found.setdefault(row["step"], []).append(value)
    most = max(map(len, found.values()), default=0)
    # A step that only some seeds logged would make the mean jump.
    return {step: mean_estimate(found[step]) for step in sorted(found) if len(found[step]) == most}


def _top(values: Sequence[float]) -> float:
    """Return an upper limit that a few high first steps do not set."""
    ranked = sorted(value for value in values if math.isfinite(value))
    return 1.1 * max(ranked[int(0.98 * (len(ranked) - 1))], ranked[-1] / 4)
