"""Phase 4: methods answer held-out problems and are graded, one file a method and data set. Knows no training."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from lrd_peft.config import RunConfig
from lrd_peft.config.methods import METHODS, Method
from lrd_peft.evaluation.answers import VERSION
from lrd_peft.evaluation.metrics import ProblemResult, summarize
from lrd_peft.evaluation.outcomes import pack_outcomes
from lrd_peft.evaluation.score import score, written_limit
from lrd_peft.model.student import StudentModel
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.pipeline.from_config import held_out, some_training_problems, start_student, thinking_options, trust
from lrd_peft.pipeline.ledger import PhaseLedger, PhaseNote
from lrd_peft.pipeline.run_folder import RunPaths
from lrd_peft.pipeline.student_card import update_student_card
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.json_files import FileModel, read_json, read_sealed, write_json_atomic, write_sealed
from lrd_peft.runtime.processes import device_of, is_main, on_main

logger = logging.getLogger(__name__)


def load_method(name: str, config: RunConfig, run: RunPaths) -> ThinkingModel:
    """Load the model that answers for a method: the run's student, its teacher, or the untrained student."""
    method = METHODS[name]
    if method.trains_student:
        return StudentModel.from_pretrained(run.root, **trust(config))
    if method.needs is not None:
        return TeacherModel.from_pretrained(run.root / method.needs, **trust(config))
    options = thinking_options(config)
    if not method.thinks:
        options = replace(options, empty_markers=False)
    return start_student(config, run, options, method=name)


def missing_model(name: str, config: RunConfig, run: RunPaths) -> str:
    """Return the folder that a reference method lacks in a run; "" if its model is complete."""
    method = METHODS[name]
    if method.trains_student:
        return ""
    needs = method.needs
    if needs is None and config.model.student_weights == "trained":
        needs = f"teacher/{method.begins_with}"
    return "" if needs is None or (run.root / needs).is_dir() else needs


def evaluate(config: RunConfig, run: RunPaths) -> PhaseNote:
    """Grade every method on every data set that is not graded yet, and write evaluation.json."""
    began = time.perf_counter()
    made_from = PhaseLedger(run, config).inputs("evaluation")
    table: dict[str, dict[str, Any]] = {}
    for method in config.graded_methods:
        if lacking := missing_model(method, config, run):
            logger.info(f"evaluation: {method} skipped: this run has no {lacking}")
            continue
        model: ThinkingModel | None = None
        thinking = METHODS[method].thinks
        for dataset in config.evaluated_datasets:
            path = run.evaluation / f"{method}--{_file_name(dataset)}.json"
            graded = on_main(_read, path, config, made_from)
            if graded is None:
                if model is None:
                    model = load_method(method, config, run).eval()
                    model.to(device_of(config.run.device))
                graded = _grade(
                    config,
                    model,
                    dataset,
                    made_from=made_from,
                    thinking=thinking,
                    force_marker=_force_marker(config, METHODS[method]),
                    label=f"{method} on {dataset}",
                )
                if is_main():
                    path.parent.mkdir(exist_ok=True)
                    write_sealed(path, graded)
            else:
                logger.info(f"evaluation: {method} on {dataset} already graded, skipped")
            table.setdefault(dataset, {})[method] = entry(graded)
    if is_main():
        write_json_atomic(run.table, table)
        update_student_card(config, run)
    return PhaseNote(wall_seconds=round(time.perf_counter() - began, 3))


def read_table(run: RunPaths) -> dict[str, dict[str, Any]]:
    """Return the summaries and outcomes in evaluation.json, by data set and method."""
    return read_json(run.table)


class GradedProblems(FileModel):
    """Contents of evaluation/METHOD--DATASET.json.

    Attributes:
        fingerprint: of the configuration fields that affect the evaluation.
        made_from: digest of each folder that the graded models come from.
        total_parameters: numbers of the model.
        results: one per problem.
        answers_version: of the rules that graded them.
    """

    fingerprint: str
    made_from: dict[str, str]
    total_parameters: int
    results: tuple[ProblemResult, ...]
    answers_version: int = 1


def entry(graded: GradedProblems) -> dict[str, Any]:
    """Return the summary and outcomes of graded problems."""
    return {
        "summary": summarize(graded.results).to_json(),
        "outcomes": pack_outcomes({result.problem_id: result.right for result in graded.results}),
        "total_parameters": graded.total_parameters,
    }


def _grade(
    config: RunConfig,
    model: ThinkingModel,
    dataset: str,
    *,
    made_from: dict[str, str],
    thinking: bool,
    force_marker: bool | None,
    label: str,
) -> GradedProblems:
    problems = held_out(config, dataset, split=config.evaluation.eval_split, limit=config.evaluation.num_eval_problems)
    logger.info(f"evaluation: {problems.report()}")
    known = some_training_problems(config)
    results = score(
        model,
        problems,
        thinking=thinking,
        batch_size=config.evaluation.eval_batch_size,
        max_new_tokens=config.evaluation.max_new_tokens
        or written_limit(model, known, thinking=thinking and force_marker is not False),
        label=label,
        force_marker=force_marker,
    )
    return GradedProblems(
        fingerprint=config.fingerprint("evaluation"),
        made_from=made_from,
        total_parameters=model.num_parameters(),
        results=tuple(results),
        answers_version=VERSION,
    )


def _force_marker(config: RunConfig, method: Method) -> bool | None:
    """Return whether a method's model is made to answer at once; None: after thoughts only."""
    match config.evaluation.force_marker:
        case "never":
            return False
        case "all":
            return None if method.writes_steps else True
        case _:
            return None


def _read(path: Path, config: RunConfig, made_from: dict[str, str]) -> GradedProblems | None:
    """Return what was graded before, if it is undamaged and belongs to this configuration and these models."""
    body = read_sealed(path)
    try:
        graded = None if body is None else GradedProblems.from_json(body)
    except UserError:
        graded = None
    if graded is None:
        if path.is_file():
            logger.info(f"evaluation: {path.name} is damaged, grading again")
        return None
    if graded.answers_version != VERSION:
        logger.info(
            f"evaluation: {path.name} was graded by version {graded.answers_version} of the rules, grading again"
        )
        return None
    same = graded.fingerprint == config.fingerprint("evaluation") and graded.made_from == made_from
    return graded if same else None


def _file_name(dataset: str) -> str:
    return dataset.replace("/", "_").replace("\\", "_")
