"""Figure 9: similarity of the layers of teacher and student, as heat maps."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lrd_peft.evaluation.similarity import Similarity
from lrd_peft.report.cells import NothingToDraw
from lrd_peft.report.figures.canvas import HEAT_COLORS, finding, heat_map, heat_values, styled

# Up to this many columns, numbers fit into their cells.
_MOST_COLUMNS = 16


@styled
def layer_similarity(similarity: Similarity | None) -> Figure:
    """Draw linear CKA (above) and, if it exists, the mean cosine (below): teacher layers upward, student sideways.

    Before training on the left, if measured, and after training on the right. One measurement over positions, without
    interval. Each kind has the color range of its own values. Cells without a value are hatched; layers without any
    cosine are left out of its map.

    Raises:
        NothingToDraw: if there is no similarity.
    """
    if similarity is None:
        raise NothingToDraw("there is no similarity.json beside the records (`lrd inspect RUN` makes it)")
    kinds = [
        ("linear CKA", heat_values(similarity.cka_untrained), heat_values(similarity.cka)),
        ("mean cosine", heat_values(similarity.cosine_untrained), heat_values(similarity.cosine)),
    ]
    kept = [np.isfinite(trained).any(axis=1) for _, _, trained in kinds]
    num_columns = 1 if similarity.cka_untrained is None else 2
    heights = [0.21 * rows.sum() for rows in kept if rows.any()]
    figure = Figure(
        figsize=(
            1.2 + num_columns * (0.9 + 0.42 * len(similarity.student_layers)),
            sum(heights) + 0.8 * len(heights) + 0.3,
        ),
        layout="constrained",
    )
    grid = figure.subplots(len(heights), num_columns, squeeze=False, height_ratios=heights)
    for (title, untrained, trained), rows, panels in zip(kinds, kept, grid, strict=False):
        known = np.concatenate([trained.ravel(), untrained.ravel()])
        scale = Normalize(float(np.nanmin(known)), float(np.nanmax(known)))
        columns = np.isfinite(trained).any(axis=0)
        for panel, values, when in zip(panels[::-1], (trained, untrained), ("after", "before"), strict=False):
            if np.isfinite(values).any():
                _numbered_map(panel, values[np.ix_(rows, columns)], scale=scale)
                panel.set_xticks(range(columns.sum()), np.array(similarity.student_layers)[columns].astype(str))
                panel.set_yticks(range(rows.sum()), np.array(similarity.teacher_layers)[rows].astype(str))
                panel.set_title(f"{title}, {when} training" if num_columns == 2 else title)
            else:  # widths differ, and the projectors exist only after training
                panel.set_axis_off()
        figure.colorbar(ScalarMappable(scale, HEAT_COLORS), ax=panels, fraction=0.05)
    figure.supxlabel(f"{similarity.source}: {similarity.num_positions} positions", fontsize=8)
    finding(figure, _layer_finding(kinds[0][1], kinds[0][2], similarity))
    return figure


def _layer_finding(before: NDArray[np.float64], after: NDArray[np.float64], similarity: Similarity) -> str:
    """Return the pair of layers that training brings together the most, or the most similar pair."""
    gain = after - before if before.shape == after.shape else None
    values = after if gain is None else gain
    row, column = np.unravel_index(np.nanargmax(values), values.shape)
    pair = f"student layer {similarity.student_layers[column]} and teacher layer {similarity.teacher_layers[row]}"
    if gain is None:
        return f"The most similar pair is {pair}: CKA {after[row, column]:.2f}"
    change = f"CKA {before[row, column]:.2f} to {after[row, column]:.2f}"
    return f"Training brings {pair} together the most: {change}"


def _numbered_map(panel: Axes, values: NDArray[np.float64], *, scale: Normalize) -> None:
    heat_map(panel, values, scale=scale)
    if values.shape[1] <= _MOST_COLUMNS:
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                dark = scale(value) < 0.5
                text = f"{value:.2f}".replace("0.", ".", 1)
                color = "white" if dark else "black"
                panel.text(column, row, text, ha="center", va="center", fontsize=6.5, color=color)
    panel.set_xlabel("student layer")
    panel.set_ylabel("teacher layer")
