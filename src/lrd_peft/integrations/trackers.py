"""What a finished run found, in the tracker that its trainings went to: accuracies, ablation, figures, the report."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lrd_peft.config import RunConfig
from lrd_peft.evaluation.ablation_results import Ablations
from lrd_peft.evaluation.records import Record, read_record
from lrd_peft.pipeline.run_folder import ABLATION, RunPaths
from lrd_peft.runtime.json_files import read_optional

logger = logging.getLogger(__name__)

RESULTS = "results"
"""Name of the entry, beside those of the trainings."""


def track_results(config: RunConfig, report: Path) -> None:
    """Log a finished run's results. A tracker that fails costs a warning, not the run.

    Args:
        config: Configuration of the run; its `report_to` names the tracker.
        report: Folder that `lrd report` wrote.
    """
    run = RunPaths(Path(config.run.output_dir))
    values = dict(_values(read_record(run.record), run.root))
    name = config.run.run_name or run.root.name
    try:
        match config.run.report_to:
            case "wandb":
                _to_wandb(name, values, report)
            case "tensorboard":
                _to_tensorboard(run.root, values, report)
            case "trackio":
                _to_trackio(name, values, report)
            case _:
                return
    except Exception as error:  # each tracker raises kinds of its own, network errors among them
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        logger.warning("%s did not take the results: %s", config.run.report_to, reason)


def _values(record: Record, root: Path) -> Iterator[tuple[str, float]]:
    for dataset, methods in record.metrics.items():
        for method, entry in methods.items():
            summary = entry["summary"]
            place = f"{dataset}/{method}"
            yield f"{place}/accuracy", summary["num_right"] / summary["n"]
            yield f"{place}/interval_low", summary["interval"][0]
            yield f"{place}/interval_high", summary["interval"][1]
            yield f"{place}/passes", summary["mean_passes"]
    ablations = read_optional(root / ABLATION, Ablations)
    for found in ablations.found if ablations else ():
        for row in found.rows:
            yield f"ablation/{found.dataset}/{found.model}/{row.name}", row.accuracy.accuracy


def _figures(report: Path) -> list[Path]:
    return sorted(report.glob("*.png"))


def _to_wandb(name: str, values: dict[str, float], report: Path) -> None:
    import wandb

    if wandb.run is not None:  # of the last training
        wandb.finish()
    group = os.environ.get("WANDB_RUN_GROUP", name)
    project = os.environ.get("WANDB_PROJECT", "lrd-peft")
    with wandb.init(project=project, group=group, name=f"{name}/{RESULTS}", job_type=RESULTS) as run:
        run.summary.update(values)
        run.log({f"figures/{each.stem}": wandb.Image(str(each)) for each in _figures(report)})
        artifact = wandb.Artifact(f"{name}-report".replace("/", "-"), type="report")
        artifact.add_dir(str(report))
        run.log_artifact(artifact)


def _to_tensorboard(root: Path, values: dict[str, float], report: Path) -> None:
    import matplotlib.image
    from torch.utils.tensorboard.writer import SummaryWriter

    writer = SummaryWriter(str(root / "tensorboard" / RESULTS))
    for name, value in values.items():
        writer.add_scalar(name, value, 0)
    for each in _figures(report):
        writer.add_image(f"figures/{each.stem}", matplotlib.image.imread(each)[..., :3], 0, dataformats="HWC")
    for each in sorted(report.glob("*.md")):
        writer.add_text(each.stem, each.read_text("utf-8"), 0)
    writer.close()


def _to_trackio(name: str, values: dict[str, float], report: Path) -> None:
    import trackio

    # The same names as transformers' callback reads.
    project = os.environ.get("TRACKIO_PROJECT", "huggingface")
    space = os.environ.get("TRACKIO_SPACE_ID")
    figures: dict[str, Any] = {f"figures/{each.stem}": trackio.Image(str(each)) for each in _figures(report)}
    trackio.init(project=project, name=f"{name}/{RESULTS}", group=name, space_id=space)
    trackio.log({**values, **figures})
    trackio.finish()
