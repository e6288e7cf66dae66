"""Figure 9: how alike the layers of teacher and student are, as heat maps."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lrd_peft.evaluation.similarity import Matrix, Similarity
from lrd_peft.report.cells import NothingToDraw
from lrd_peft.report.figures.canvas import styled

# Up to here the numbers fit into their cells.
_MOST_COLUMNS = 16


@styled
def layer_similarity(similarity: Similarity | None) -> Figure:
    """Draw linear CKA (above) and, where it exists, the mean cosine (below): teacher layers upwards, student sideways.

    Before the training on the left, where that was measured, and after it. One measurement over positions, no
    interval. Cells without a value are hatched; layers of which no cosine exists are left out of its map.

    Raises:
        NothingToDraw: if there is no similarity.
    """
    if similarity is None:
        raise NothingToDraw("there is no similarity.json beside the records (`lrd inspect RUN` makes it)")
    kinds = [
        ("linear CKA", _values(similarity.cka_untrained), _values(similarity.cka), "cividis", 0.0),
        # cividis reads the same for every colour vision; a signed cosine needs a middle
        ("mean cosine", _values(similarity.cosine_untrained), _values(similarity.cosine), "PuOr_r", -1.0),
    ]
    kept = [np.isfinite(trained).any(axis=1) for _, _, trained, _, _ in kinds]
    num_columns = 1 if similarity.cka_untrained is None else 2
    heights = [0.24 * rows.sum() for rows in kept if rows.any()]
    figure = Figure(
        figsize=(
            1.2 + num_columns * (0.9 + 0.36 * len(similarity.student_layers)),
            sum(heights) + 0.8 * len(heights) + 0.3,
        ),
        layout="constrained",
    )
    grid = figure.subplots(len(heights), num_columns, squeeze=False, height_ratios=heights)
    for (title, untrained, trained, colours, low), rows, panels in zip(kinds, kept, grid, strict=False):
        scale = Normalize(low, 1.0)
        columns = np.isfinite(trained).any(axis=0)
        for panel, values, when in zip(panels[::-1], (trained, untrained), ("after", "before"), strict=False):
            if np.isfinite(values).any():
                _heat_map(panel, values[np.ix_(rows, columns)], colours=colours, scale=scale)
                panel.set_xticks(range(columns.sum()), np.array(similarity.student_layers)[columns].astype(str))
                panel.set_yticks(range(rows.sum()), np.array(similarity.teacher_layers)[rows].astype(str))
                panel.set_title(f"{title}, {when} training" if num_columns == 2 else title)
            else:  # the widths differ, and what maps one to the other comes with the training
                panel.set_axis_off()
        figure.colorbar(ScalarMappable(scale, colours), ax=panels, fraction=0.05)
    figure.suptitle(f"{similarity.source}: {similarity.num_positions} positions", fontsize=7)
    return figure


def _values(matrix: Matrix | None) -> NDArray[np.float64]:
    """Return a matrix with NaN where there is no value; [0, 0] if it was not measured."""
    return np.array([[np.nan if v is None else v for v in line] for line in matrix or ()], dtype=float, ndmin=2)


def _heat_map(panel: Axes, values: NDArray[np.float64], *, colours: str, scale: Normalize) -> None:
    panel.patch.set(facecolor="#F4F4F4", edgecolor="#CCCCCC", hatch="///", linewidth=0)
    panel.imshow(values, norm=scale, cmap=colours, origin="lower", aspect="auto")
    if values.shape[1] <= _MOST_COLUMNS:
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                dark = value < 0.5 if scale.vmin == 0 else abs(value) > 0.6
                text = f"{value:.2f}".replace("0.", ".", 1)
                colour = "white" if dark else "black"
                panel.text(column, row, text, ha="center", va="center", fontsize=5.5, color=colour)
    panel.set_xlabel("student layer")
    panel.set_ylabel("teacher layer")
    panel.grid(visible=False)
