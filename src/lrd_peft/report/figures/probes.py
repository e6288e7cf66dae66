"""What linear probes and the logit lens read in the hidden states, as heat maps: layers upward, positions sideways."""

from __future__ import annotations

from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lrd_peft.evaluation.probe_results import Probed, Probes
from lrd_peft.report.cells import NothingToDraw
from lrd_peft.report.figures.canvas import HEAT_COLORS, finding, heat_map, heat_values, styled

_KINDS = ("linear probe", "shuffled labels", "logit lens")


@styled
def probe_maps(probes: Probes | None) -> Figure:
    """Draw, for each quantity of the run's own model, the shares of the probe, its control, and the logit lens.

    The last model and its first data set are drawn; the tables have the others. Cells that the lens cannot read are
    hatched.

    Raises:
        NothingToDraw: if there are no probes.
    """
    if probes is None or not probes.found:
        raise NothingToDraw("there is no probe.json beside the records (`lrd probe RUN` makes it)")
    model = probes.found[-1].model
    probed = next(each for each in probes.found if each.model == model)
    return _maps(probed)


def _maps(probed: Probed) -> Figure:
    rows, columns = len(probed.layers), len(probed.positions)
    height, width = 0.35 + 0.16 * rows, 0.7 + 0.42 * columns
    count = len(probed.targets)
    figure = Figure(figsize=(0.6 + width * len(_KINDS), 0.9 + height * count), layout="constrained")
    grid = figure.subplots(count, len(_KINDS), squeeze=False, sharex=True, sharey=True)
    scale = Normalize(0.0, 1.0)
    for target, panels in zip(probed.targets, grid, strict=True):
        for panel, kind, matrix in zip(panels, _KINDS, (target.accuracy, target.shuffled, target.lens), strict=True):
            heat_map(panel, heat_values(matrix), scale=scale)
            panel.set_title(f"{target.name}, {kind} (n = {target.num_test})", fontsize=7.5)
            panel.set_xticks(range(columns), [_short(name) for name in probed.positions], fontsize=6.5)
            panel.set_yticks(range(rows), [str(layer) for layer in probed.layers], fontsize=6.5)
        panels[0].set_ylabel("layer")
    bar = figure.colorbar(ScalarMappable(scale, HEAT_COLORS), ax=grid, fraction=0.03)
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    finding(figure, probed.verdict())
    return figure


def _short(name: str) -> str:
    return name.replace("question", "Q").replace("thought ", "").replace("answer", "A")
