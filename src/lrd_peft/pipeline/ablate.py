"""`lrd ablate`: replace the thoughts of a run's latent models, or of a saved model, and write ablation.json.

Nothing is trained, and records do not change.
"""

from __future__ import annotations

from pathlib import Path

from lrd_peft.config import RunConfig, load_config
from lrd_peft.data import load_problems
from lrd_peft.evaluation.ablation import ablate
from lrd_peft.evaluation.ablation_results import Ablation, Ablations
from lrd_peft.evaluation.score import written_limit
from lrd_peft.pipeline.evaluate import load_method
from lrd_peft.pipeline.from_config import HELD_OUT_SEED, held_out, some_training_problems
from lrd_peft.pipeline.latent_models import chosen_methods, look_at, saved_model, write_found
from lrd_peft.pipeline.run_folder import ABLATION, RunPaths
from lrd_peft.pipeline.student_card import update_student_card
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.processes import device_of

NUM_PROBLEMS = 300

Found = tuple[str, tuple[Ablation, ...]]


def ablate_run(
    target: str,
    *,
    models: tuple[str, ...] = (),
    dataset: str | None = None,
    num_problems: int = NUM_PROBLEMS,
    output: Path | None = None,
) -> tuple[Ablations, Path | None]:
    """Replace the thoughts of trained models and see what their answers lose.

    Args:
        target: Run folder, or a saved thinking model: its folder, hub id or embedded name.
        models: Methods of the run to look at (empty: each latent one that the run has a model of).
        dataset: Data set (None: those that the run was evaluated on). A saved model needs one.
        num_problems: Held-out problems of each set.
        output: Folder for ablation.json (None: the run folder; a saved model writes none).

    Returns:
        What was found, and the file that was written.

    Raises:
        UserError: If there is no model that thinks, or a name is unknown.
    """
    if num_problems < 2:
        raise UserError(f"--num_problems is {num_problems}; an ablation needs at least 2")
    found, path = look_at(
        target,
        Ablations,
        ABLATION,
        of_run=lambda config, run: _of_run(config, run, models, dataset, num_problems),
        of_saved_model=lambda: _of_saved_model(target, models, dataset, num_problems),
        output=output,
    )
    run = RunPaths(Path(target))
    if path == run.root / ABLATION and run.config.is_file():
        update_student_card(load_config(yaml_path=run.config), run)
    return found, path


def ablate_method(config: RunConfig, run: RunPaths) -> Path | None:
    """Replace the thoughts of a finished run's method on `ablate_problems` problems, and write ablation.json."""
    found = Ablations(*_of_run(config, run, (config.student.method,), None, config.evaluation.ablate_problems))
    path = write_found(found, ABLATION, run.root)
    update_student_card(config, run)
    return path


def _of_saved_model(target: str, models: tuple[str, ...], dataset: str | None, num_problems: int) -> Found:
    model, dataset = saved_model(target, models=models, dataset=dataset)
    if not model.is_saved:
        raise UserError(
            f"{target} is a plain language model that has not learned to think; name a run, or a model that it saved"
        )
    problems = load_problems(dataset, split="test", limit=num_problems, seed=HELD_OUT_SEED).problems
    limit = written_limit(model, problems, thinking=True)
    found = ablate(model, problems, name=Path(target).name, dataset=dataset, max_new_tokens=limit)
    return f"{Path(target).name}, {len(problems)} test problems of {dataset}", (found,)


def _of_run(config: RunConfig, run: RunPaths, models: tuple[str, ...], dataset: str | None, num_problems: int) -> Found:
    names = chosen_methods(config, run, models, verb="ablate")
    datasets = config.evaluated_datasets if dataset is None else (dataset,)
    split, limit = config.evaluation.eval_split, config.evaluation.num_eval_problems
    found = []
    for name in names:
        model = load_method(name, config, run).eval().to(device_of(config.run.device))
        max_new_tokens = config.evaluation.max_new_tokens or written_limit(
            model, some_training_problems(config), thinking=True
        )
        for each in datasets:
            problems = held_out(config, each, split=split, limit=min(num_problems, limit or num_problems)).problems
            found.append(
                ablate(
                    model,
                    problems,
                    name=name,
                    dataset=each,
                    batch_size=config.evaluation.eval_batch_size,
                    max_new_tokens=max_new_tokens,
                    seed=config.run.seed,
                )
            )
    source = f"{', '.join(names)}, seed {config.run.seed}, {split} problems of {', '.join(datasets)}"
    return source, tuple(found)
