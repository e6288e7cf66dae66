"""The model card of a run's student: what the configuration says about it, and its measured accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrd_peft.config import RunConfig
from lrd_peft.evaluation.ablation_results import Ablations
from lrd_peft.model.card import MeasuredAccuracy, make_card
from lrd_peft.model.serialization import SavedModel, read_description, rewrite_card
from lrd_peft.pipeline.run_folder import ABLATION, RunPaths
from lrd_peft.runtime.json_files import read_json, read_optional


def student_card(
    config: RunConfig,
    saved: SavedModel,
    *,
    name: str | Path,
    evaluation: Mapping[str, Mapping[str, Any]] | None = None,
    ablations: Ablations | None = None,
) -> str:
    """Write the model card of a student.

    Args:
        config: Configuration of the run.
        saved: Description of the student.
        name: Folder of the student, or the hub id that it gets.
        evaluation: Contents of `evaluation.json`, once there are any.
        ablations: Contents of `ablation.json`, once there are any.

    Returns:
        Markdown.
    """
    accuracy = []
    for dataset, methods in (evaluation or {}).items():
        if config.student.method in methods:
            summary = methods[config.student.method]["summary"]
            low, high = summary["interval"]
            accuracy.append(MeasuredAccuracy(dataset, summary["num_right"], summary["n"], low, high))
    # A card is shared: it names the run folder and the student's folder in it, not where they lie on this machine.
    shown = Path(*name.parts[-2:]) if isinstance(name, Path) and name.is_absolute() else name
    verdicts = [each.verdict() for each in ablations.found if each.model == config.student.method] if ablations else []
    return make_card(
        saved,
        name=shown.as_posix() if isinstance(shown, Path) else shown,
        details=_details(config),
        dataset=config.data.dataset,
        accuracy=accuracy,
        verdicts=verdicts,
    )


def update_student_card(config: RunConfig, run: RunPaths) -> None:
    """Put what was measured into the card of a run's student. Does nothing if the run kept no student."""
    if run.student.is_dir():
        rewrite_card(run.student, card_of_run(config, run, name=run.student))


def card_of_run(config: RunConfig, run: RunPaths, *, name: str | Path) -> str:
    """Return the card of a run's student with its measured accuracy and what an ablation said.

    Args:
        config: Configuration of the run.
        run: Its folder.
        name: Folder of the student, or the hub id that it gets.
    """
    evaluation = read_json(run.table) if run.table.is_file() else None
    ablations = read_optional(run.root / ABLATION, Ablations)
    return student_card(config, read_description(run.student), name=name, evaluation=evaluation, ablations=ablations)


def _details(config: RunConfig) -> dict[str, object]:
    method, distill = config.method, config.distill
    details: dict[str, object] = {"method": f"{config.student.method} ({method.title})"}
    if method.paper:
        details["paper"] = method.paper
    if method.needs is not None:
        details["teacher"] = f"`{config.model.teacher}`"
    limit = config.student.num_student_problems
    details["training data"] = config.data.dataset + (
        "" if limit is None else f", the first {limit} problems of each set"
    )
    if method.adapts_student:
        adapter = config.adapter
        details["LoRA"] = f"r={adapter.lora_r}, alpha={adapter.lora_alpha}, {adapter.lora_targets}"
    details["seed"] = config.run.seed
    if config.decodes_student_steps:
        details["weight of the step loss, by an auxiliary decoder"] = distill.step_loss_weight
    if method.objective == "latent":
        details["weight of the distillation loss"] = distill.distill_alpha
        details["distilled layers of the teacher"] = ", ".join(map(str, distill.layers))
        if distill.alpha_schedule != "constant":
            details["schedule of this weight"] = distill.alpha_schedule
        if isinstance(shares := distill.student_curriculum, tuple):
            details["shares of the stages in which thoughts replace steps"] = ", ".join(f"{x:g}" for x in shares)
        elif shares > 0:
            details["share of training in which thoughts replace steps"] = shares
        if distill.step_loss_weight > 0:
            details["weight of the step loss"] = distill.step_loss_weight
    return details
