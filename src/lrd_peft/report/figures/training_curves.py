"""Figure 6: the losses of the students during training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrd_peft.evaluation.records import Record
from lrd_peft.report.cells import NothingToDraw, method_name
from lrd_peft.report.estimates import Estimate, mean_estimate
from lrd_peft.report.figures.canvas import finding, legend_below, styled
from lrd_peft.report.style import METHOD_STYLES, OURS, in_order, method_style

LOSS_LABELS = {
    "task": "task loss (nats per token)",
    "distill": "distillation loss",
    "step_loss": "step loss",
    "loss": "total loss",
}


@styled
def training_curves(records: Sequence[Record]) -> Figure:
    """Draw each logged loss of the student against the update, one line per method.

    The task loss has a panel for text methods and one for latent methods. Mean over seeds; the band is Student's 95% t
    interval over seeds, absent for a single seed.

    Raises:
        NothingToDraw: if no record holds a student's training log.
    """
    lines = {
        (method, loss): points
        for method in in_order(map(method_name, records))
        for loss in LOSS_LABELS
        if (points := _points([r for r in records if method_name(r) == method], loss))
    }
    if not lines:
        raise NothingToDraw("no record holds the training log of a student")
    shown = [
        (loss, kind)
        for loss in LOSS_LABELS
        for kind in ("text", "latent")
        if any(loss == name and kind == _kind_of(method) for method, name in lines)
    ]
    num_columns = 2 if len(shown) > 3 else len(shown)
    num_rows = math.ceil(len(shown) / num_columns)
    figure = Figure(figsize=(max(4.6, 3.6 * num_columns), 1.2 + 2.1 * num_rows), layout="constrained")
    axes = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
    for panel, (loss, kind) in zip(axes, shown, strict=False):
        own = {method: points for (method, name), points in lines.items() if name == loss and _kind_of(method) == kind}
        for method, points in own.items():
            _line(panel, method, points)
        panel.set_title(f"{LOSS_LABELS[loss]}, {kind} methods")
        panel.set_xlabel("update")
        panel.set_ylim(bottom=0, top=_top([value.mean for points in own.values() for value in points.values()]))
    for panel in axes[len(shown) :]:
        panel.set_axis_off()
    legend_below(figure, *axes[: len(shown)], columns=4)
    finding(figure, _loss_finding({method: points for (method, name), points in lines.items() if name == "task"}))
    return figure


def _line(panel: Axes, method: str, points: Mapping[float, Estimate]) -> None:
    style, updates, values = method_style(method), list(points), list(points.values())
    # About eight markers per line, at other updates for each method.
    every = max(1, len(updates) // 8)
    first = list(METHOD_STYLES).index(method) % every if method in METHOD_STYLES else 0
    panel.plot(
        updates,
        [value.mean for value in values],
        **style.look,
        label=style.label,
        linewidth=1.2,
        markersize=5,
        markevery=(first, every),
    )
    if any(value.num_seeds > 1 for value in values):
        low, high = [value.low for value in values], [value.high for value in values]
        panel.fill_between(updates, low, high, color=style.color, alpha=0.15, linewidth=0)


def _kind_of(method: str) -> str:
    return "latent" if method_style(method).latent else "text"


def _loss_finding(task: Mapping[str, Mapping[float, Estimate]]) -> str:
    """Return the last task loss of latent-lora and of the same student without the alignment, or of all methods."""
    last = {method: list(points.values())[-1].mean for method, points in task.items()}
    compared = [name for name in (OURS, "latent-lora-alpha0", "latent-full") if name in last] or list(last)
    parts = [f"{method_style(name).label} {last[name]:.2f}" for name in compared]
    return f"Task loss at the end of training: {', '.join(parts)}" if parts else "Losses of the students"


def _points(records: Sequence[Record], loss: str) -> dict[float, Estimate]:
    """Return update -> mean over the seeds that logged it."""
    found: dict[float, list[float]] = {}
    for record in records:
        for row in record.curves:
            value = row.get(loss)
            if row.get("phase", "student") == "student" and "step" in row and value is not None:
                found.setdefault(row["step"], []).append(value)
    most = max(map(len, found.values()), default=0)
    # An update that only some seeds logged would make the mean jump.
    return {step: mean_estimate(found[step]) for step in sorted(found) if len(found[step]) == most}


def _top(values: Sequence[float]) -> float:
    """Return an upper limit that ignores a few high first updates."""
    ranked = sorted(value for value in values if math.isfinite(value))
    return 1.1 * max(ranked[int(0.98 * (len(ranked) - 1))], ranked[-1] / 4)
