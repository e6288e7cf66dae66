"""Makes the embedded models that think, each by an ordinary run with the settings below.

python -m tools.latent_models tiny-latent-teacher    phase 1 on tiny-teacher
python -m tools.latent_models tiny-latent-student    the demo's student, its adapter merged into its blocks
python -m tools.latent_models tiny-graph-teacher     phase 1 on tiny-graph-writer, which tools.pretrain makes first
python -m tools.latent_models tiny-graph-student     the student of the recipe graph, likewise

Weights are float16. Beside the model's folder lies NAME.jsonl: losses and validation accuracy as the run recorded them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from peft import PeftModel

from lrd_peft.cli.app import main as lrd
from lrd_peft.config import RunConfig
from lrd_peft.data import load_problems
from lrd_peft.evaluation.metrics import wilson
from lrd_peft.evaluation.score import score
from lrd_peft.model.card import MeasuredAccuracy, make_card
from lrd_peft.model.serialization import rewrite_card
from lrd_peft.model.student import StudentModel
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.runtime.errors import UserError

_NUM_MEASURED = 1000

# Flags of the run that makes each model.
RECIPES: dict[str, dict[str, Any]] = {
    "tiny-latent-teacher": {
        "teacher": "tiny-teacher",
        "student": "teacher:4",
        "dataset": "gsm-mini",
        "num_train_problems": 40_000,
        "num_validation_problems": 300,
        "thoughts_per_step": 1,
        "max_stage": 4,
        "epochs_stage0": 0,
        "epochs_per_stage": 0.15,
        "epochs_last_stage": 5,
        "teacher_learning_rate": 1e-3,
        "teacher_batch_size": 64,
        "lr_scheduler": "cosine",
        "num_threads": 1,
    },
    "tiny-latent-student": {"config": "demo", "teacher_learning_rate": 3e-4, "num_threads": 1},
    "tiny-graph-teacher": {
        "teacher": "runs/pretrain/tiny-graph-writer",
        "student": "teacher:2",
        "dataset": "graph-mini",
        "num_train_problems": 120_000,
        "num_validation_problems": 400,
        "thoughts_per_step": 1,
        # Paths have up to four edges: the first thought is the root, each further one is an edge further.
        "max_stage": 5,
        # The third thought takes most of the updates. Without batches of earlier stages the fourth forgets them all.
        "epochs_of_stages": (0, 0.2, 0.3, 1.2, 1.0, 1.5),
        "uniform_prob": 0.3,
        "teacher_learning_rate": 1.2e-3,
        "teacher_batch_size": 128,
        "lr_scheduler": "cosine",
        "num_threads": 1,
    },
    "tiny-graph-student": {"config": "graph", "num_train_problems": 60_000, "max_steps": 1000, "num_threads": 1},
}
# Student -> the model whose blocks it has.
_STUDENTS = {"tiny-latent-student": "tiny-latent-teacher", "tiny-graph-student": "tiny-graph-teacher"}


def make(name: str, *, run: Path, output_dir: Path, settings: Sequence[str] = ()) -> Path:
    """Train an embedded model that thinks, and write it as it ships.

    Args:
        name: One of `RECIPES`.
        run: Run folder. What is finished there is not done again.
        output_dir: Folder of the model.
        settings: Further flags of `lrd run`, for a quick try.

    Returns:
        The folder of the model.

    Raises:
        UserError: If a phase fails.
    """
    flags = []
    for key, value in RECIPES[name].items():
        flags += [f"--{key}", *map(str, value if isinstance(value, tuple) else (value,))]
    flags += ["--output_dir", str(run), *settings]
    phases = ("train-teacher", "extract", "distill") if name in _STUDENTS else ("train-teacher",)
    for phase in phases:
        if status := lrd([phase, *flags]):
            raise UserError(f"lrd {phase} ended with status {status}; run the same command again to resume")
    return write(name, run=run, output_dir=output_dir)


def write(name: str, *, run: Path, output_dir: Path) -> Path:
    """Write an embedded model that thinks as it ships, from a finished run.

    Args:
        name: One of `RECIPES`.
        run: Run folder.
        output_dir: Folder of the model.

    Returns:
        The folder of the model.
    """
    kind: type[ThinkingModel] = StudentModel if name in _STUDENTS else TeacherModel
    model = kind.from_pretrained(run)
    facts = {key: value for key, value in model.facts.items() if key != "history"}
    log = _training_log(model.facts, run)
    if isinstance(model.lm, PeftModel):
        whole: Any = model.lm.merge_and_unload()
        merged = StudentModel(whole, tokenizer=model.tokenizer, options=model.options)
        merged.name, model = _STUDENTS[name], merged
    model.lm.half()
    model.save_pretrained(output_dir, facts=facts)
    shipped = kind.from_pretrained(output_dir)
    data = RunConfig.from_flat(yaml.safe_load((run / "config.yaml").read_text())).data
    accuracy = [_measured(shipped, part) for part in data.joined_names]
    command = f"`python -m tools.latent_models {name}` in the repository"
    details = {"training data": data.dataset, "reproduced by": command}
    card = make_card(shipped.describe(facts), name=name, details=details, dataset=data.dataset, accuracy=accuracy)
    rewrite_card(output_dir, card)
    log_file = output_dir.parent / f"{name}.jsonl"
    log_file.write_text("".join(json.dumps(row) + "\n" for row in log), encoding="utf-8")
    return output_dir


def _training_log(facts: Mapping[str, Any], run: Path) -> list[dict[str, Any]]:
    """Return losses and validation accuracies, in the order of training."""
    rows: list[dict[str, Any]] = []
    for stage in facts.get("history", ()):
        rows += [{"stage": stage["stage"], **_short(row)} for row in stage["curve"]]
        rows.append({name: stage[name] for name in ("stage", "num_right", "num_validation", "wall_seconds")})
    if not rows:
        done = json.loads((run / "student.done.json").read_text())
        rows = [_short(row) for row in done["note"]["curve"]]
    return rows


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: float(f"{row[name]:.5g}") for name in ("step", "epoch", "loss", "learning_rate") if name in row}


def _measured(model: ThinkingModel, dataset: str) -> MeasuredAccuracy:
    problems = load_problems(dataset, split="test", limit=_NUM_MEASURED)
    results = score(model, problems, thinking=True, batch_size=64, max_new_tokens=16, label=dataset)
    right = sum(result.right for result in results)
    return MeasuredAccuracy(dataset, right, len(results), *wilson(right, len(results)))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.latent_models", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--run", type=Path, help="run folder (default: runs/NAME)")
    parser.add_argument("--output_dir", type=Path, help="folder of the model (default: runs/latent_models/NAME)")
    found, settings = parser.parse_known_args()
    folder = found.output_dir or Path("runs", "latent_models", found.name)
    print(make(found.name, run=found.run or Path("runs", found.name), output_dir=folder, settings=settings))


if __name__ == "__main__":
    main()
