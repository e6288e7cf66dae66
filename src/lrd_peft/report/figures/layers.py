"""Figure 9: how alike the layers of teacher and student are, as heat maps."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from lrd_peft.evaluation.similarity import Matrix, Similarity
from lrd_peft.report.cells import NothingToDraw
from lrd_peft.report.figures.canvas import styled

# Up to here the numbers fit into their cells.
_MOST_COLUMNS = 16


@styled
def layer_similarity(similarity: Similarity | None) -> Figure:
    """Draw linear CKA (above) and, where it exists, the mean cosine (below): teacher layers upwards, student sideways.

    Before the training on the left, where that was measured, and after it. One measurement over positions, no
    interval. Cells without a value are hatched.

    Raises:
        NothingToDraw: if there is no similarity.
    """
    if similarity is None:
        raise NothingToDraw("there is no similarity.json beside the records (`lrd inspect RUN` makes it)")
    found = (
        ("linear CKA", similarity.cka_untrained, similarity.cka, "cividis", 0.0),
        # cividis reads the same for every colour vision; a signed cosine needs a middle
        ("mean cosine", similarity.cosine_untrained, similarity.cosine, "PuOr_r", -1.0),
    )
    kinds = [kind for kind in found if _has_values(kind[2])]
    num_columns = 2 if similarity.cka_untrained is not None else 1
    num_teacher, num_student = len(similarity.teacher_layers), len(similarity.student_layers)
    figure = Figure(
        figsize=(1.0 + num_columns * (0.9 + 0.36 * num_student), len(kinds) * (0.9 + 0.24 * num_teacher) + 0.3),
        layout="constrained",
    )
    grid = figure.subplots(len(kinds), num_columns, squeeze=False)
    for (title, untrained, trained, colours, low), panels in zip(kinds, grid, strict=True):
        scale, image = Normalize(low, 1.0), None
        for panel, matrix, when in zip(panels[::-1], (trained, untrained), ("after", "before"), strict=False):
            if _has_values(matrix):
                image = _heat_map(panel, similarity, matrix, colours=colours, scale=scale)
                panel.set_title(f"{title}, {when} training" if num_columns == 2 else title)
            else:
                panel.set_axis_off()
        figure.colorbar(image, ax=panels, fraction=0.05)
    figure.suptitle(f"{similarity.source}: {similarity.num_positions} positions", fontsize=7)
    return figure


def _has_values(matrix: Matrix | None) -> bool:
    return matrix is not None and any(value is not None for line in matrix for value in line)


def _heat_map(
    panel: Axes, similarity: Similarity, matrix: Matrix | None, *, colours: str, scale: Normalize
) -> AxesImage:
    assert matrix is not None
    values = np.array([[np.nan if v is None else v for v in line] for line in matrix], dtype=float)
    panel.set_facecolor("#EEEEEE")
    panel.patch.set_hatch("///")
    image = panel.imshow(values, norm=scale, cmap=colours, origin="lower", aspect="auto")
    if values.shape[1] <= _MOST_COLUMNS:
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                dark = value < 0.5 if scale.vmin == 0 else abs(value) > 0.6
                text = f"{value:.2f}".replace("0.", ".", 1)
                colour = "white" if dark else "black"
                panel.text(column, row, text, ha="center", va="center", fontsize=5.5, color=colour)
    panel.set_xticks(range(values.shape[1]), [str(layer) for layer in similarity.student_layers])
    panel.set_yticks(range(values.shape[0]), [str(layer) for layer in similarity.teacher_layers])
    panel.set_xlabel("student layer")
    panel.set_ylabel("teacher layer")
    panel.grid(visible=False)
    return image
