"""Phase 4: methods answer held-out problems and are graded, one file a method and data set. Knows no training."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lrd_peft.checksums import read_sealed, write_sealed
from lrd_peft.config import RunConfig
from lrd_peft.evaluation.metrics import ProblemResult, summarise
from lrd_peft.evaluation.score import score, written_limit
from lrd_peft.methods import METHODS, REFERENCES
from lrd_peft.model.models import StudentModel, TeacherModel
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.processes import device_of, is_main, on_main
from lrd_peft.records import pack_outcomes, write_json_atomic
from lrd_peft.run_folder import RunFolder
from lrd_peft.run_inputs import held_out, some_training_problems, start_student, thinking_options, trust

Loader = Callable[[RunConfig, RunFolder], ThinkingModel]


def _untrained(method: str) -> Loader:
    return lambda config, run: start_student(config, run, thinking_options(config), method=method)


def _saved_teacher(name: str) -> Loader:
    return lambda config, run: TeacherModel.load(run.teacher / name, **trust(config))


def _trained(config: RunConfig, run: RunFolder) -> ThinkingModel:
    return StudentModel.from_run(run.root, **trust(config))


# How the model of a method that trains no student is had; that of all the others is the run's student.
LOADERS: dict[str, Loader] = {
    "base": _untrained("base"),
    "base-latent": _untrained("base-latent"),
    "teacher-cot": _saved_teacher("cot"),
    "teacher-latent": _saved_teacher("latent"),
}
assert set(LOADERS) == set(REFERENCES)


def _lacks(method: str, config: RunConfig, run: RunFolder) -> str:
    """Return what a run has not of the model of a method; "" if it has all."""
    row = METHODS[method]
    needs = row.needs
    if needs == "nothing" and config.student_weights == "trained":
        needs = f"teacher/{row.begins_with}"
    return "" if method not in REFERENCES or needs == "nothing" or (run.root / needs).is_dir() else needs


def evaluate(config: RunConfig, run: RunFolder) -> None:
    """Grade every method on every data set that is not graded yet, and write evaluation.json."""
    began = time.perf_counter()
    for phase in config.needed_phases[:-1]:
        run.require(phase, config)
    made_from = run.inputs("evaluation", config)
    table: dict[str, dict[str, Any]] = {}
    for method in config.graded_methods:
        if lacking := _lacks(method, config, run):
            print(f"evaluation: {method} is left out, this run has no {lacking}")
            continue
        model: ThinkingModel | None = None
        thinking = METHODS[method].thinks
        for dataset in config.evaluated_datasets:
            path = run.evaluation / f"{method}--{_file_name(dataset)}.json"
            graded = on_main(_read, path, config, made_from)
            if graded is None:
                if model is None:
                    model = LOADERS.get(method, _trained)(config, run).eval()
                    model.to(device_of(config.device))
                graded = _grade(config, model, dataset, thinking=thinking, label=f"{method} on {dataset}")
                if is_main():
                    path.parent.mkdir(exist_ok=True)
                    write_sealed(path, {**graded, "made_from": made_from})
            else:
                print(f"evaluation: {method} on {dataset} is graded, skipped")
            table.setdefault(dataset, {})[method] = entry(graded)
    if is_main():
        write_json_atomic(run.root / "evaluation.json", table)
    run.finish("evaluation", config, {"wall_seconds": round(time.perf_counter() - began, 3)})


def entry(graded: dict[str, Any]) -> dict[str, Any]:
    """Return the summary and outcomes of graded problems."""
    results = [ProblemResult.from_dict(row) for row in graded["results"]]
    return {
        "summary": summarise(results).to_dict(),
        "outcomes": pack_outcomes({result.problem_id: result.right for result in results}),
        "total_parameters": graded["total_parameters"],
    }


def _grade(config: RunConfig, model: ThinkingModel, dataset: str, *, thinking: bool, label: str) -> dict[str, Any]:
    problems = held_out(config, dataset, split=config.eval_split, limit=config.num_eval_problems)
    known = some_training_problems(config)
    results = score(
        model,
        problems,
        thinking=thinking,
        batch_size=config.eval_batch_size,
        max_new_tokens=config.max_new_tokens or written_limit(model, known, thinking=thinking),
        label=label,
    )
    return {
        "fingerprint": config.fingerprint("evaluation"),
        "total_parameters": model.num_parameters(),
        "results": [result.to_dict() for result in results],
    }


def _read(path: Path, config: RunConfig, made_from: dict[str, str]) -> dict[str, Any] | None:
    """Return what was graded before, if it is undamaged and was for this configuration and these models."""
    graded = read_sealed(path)
    if graded is None:
        if path.is_file():
            print(f"evaluation: {path.name} is damaged, graded again")
        return None
    same = graded.get("fingerprint") == config.fingerprint("evaluation") and graded.get("made_from") == made_from
    return graded if same else None


def _file_name(dataset: str) -> str:
    return dataset.replace("/", "_").replace("\\", "_")
