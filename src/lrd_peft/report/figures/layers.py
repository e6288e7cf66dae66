"""Figure 9: how alike the layers of teacher and student are, as heat maps."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from lrd_peft.report.cells import NothingToDraw
from lrd_peft.report.figures.canvas import styled
from lrd_peft.report.similarity import Matrix, Similarity


@styled
def layer_similarity(similarity: Similarity | None) -> Figure:
    """Draw linear CKA and, where the widths agree, the mean cosine: teacher layers upwards, student layers sideways.

    One measurement over positions, no interval. Cells without a value are hatched.

    Raises:
        NothingToDraw: if there is no similarity.
    """
    if similarity is None:
        raise NothingToDraw("there is no similarity.json beside the records")
    maps: list[tuple[str, Matrix, float]] = [("linear CKA", similarity.cka, 0.0)]
    if any(value is not None for line in similarity.cosine for value in line):
        maps.append(("cosine", similarity.cosine, -1.0))
    rows, columns = len(similarity.teacher_layers), len(similarity.student_layers)
    figure = Figure(figsize=(len(maps) * (1.4 + 0.34 * columns), 1.3 + 0.26 * rows), layout="constrained")
    grid = figure.subplots(1, len(maps), squeeze=False)
    for panel, (title, matrix, low) in zip(grid[0], maps, strict=True):
        values = np.array([[np.nan if v is None else v for v in line] for line in matrix], dtype=float)
        panel.set_facecolor("#EEEEEE")
        panel.patch.set_hatch("///")
        # cividis reads the same for every colour vision; a signed cosine needs a middle
        colours = "cividis" if low == 0 else "PuOr_r"
        image = panel.imshow(values, vmin=low, vmax=1.0, cmap=colours, origin="lower", aspect="auto")
        for row in range(rows):
            for column in range(columns):
                value = values[row, column]
                if np.isfinite(value) and columns <= 16:
                    dark = value < 0.5 if low == 0 else abs(value) > 0.6
                    text = f"{value:.2f}".replace("0.", ".", 1)
                    colour = "white" if dark else "black"
                    panel.text(column, row, text, ha="center", va="center", fontsize=5.5, color=colour)
        panel.set_xticks(range(columns), [str(layer) for layer in similarity.student_layers])
        panel.set_yticks(range(rows), [str(layer) for layer in similarity.teacher_layers])
        panel.set_xlabel("student layer")
        panel.set_ylabel("teacher layer")
        panel.set_title(title)
        panel.grid(visible=False)
        figure.colorbar(image, ax=panel, fraction=0.05)
    return figure
