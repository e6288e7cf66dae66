"""`lrd ablate`: replace the thoughts of a run's latent models, or of a saved model, and write ablation.json.

Nothing is trained, and records do not change.
"""

from __future__ import annotations

from pathlib import Path

from lrd_peft.config import RunConfig, load_config
from lrd_peft.evaluation.ablation import ablate
from lrd_peft.evaluation.ablation_results import Ablation, Ablations
from lrd_peft.pipeline.latent_models import Subject, look_at_each, look_at_run, write_found
from lrd_peft.pipeline.run_folder import ABLATION, RunPaths
from lrd_peft.pipeline.student_card import update_student_card
from lrd_peft.runtime.errors import UserError

NUM_PROBLEMS = 300

_VERB = "ablate"


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
    found, path = look_at_each(
        target,
        Ablations,
        ABLATION,
        _ablate,
        models=models,
        dataset=dataset,
        num_problems=num_problems,
        verb=_VERB,
        output=output,
    )
    run = RunPaths(Path(target))
    if path == run.root / ABLATION and run.config.is_file():
        update_student_card(load_config(yaml_path=run.config), run)
    return found, path


def ablate_method(config: RunConfig, run: RunPaths) -> Path | None:
    """Replace the thoughts of a finished run's method on `ablate_problems` problems, and write ablation.json."""
    own, num_problems = (config.student.method,), config.evaluation.ablate_problems
    found = look_at_run(_ablate, config, run, models=own, num_problems=num_problems, verb=_VERB)
    path = write_found(Ablations(*found), ABLATION, run.root)
    update_student_card(config, run)
    return path


def _ablate(subject: Subject) -> Ablation:
    return ablate(
        subject.model,
        subject.problems,
        name=subject.name,
        dataset=subject.dataset,
        batch_size=subject.batch_size,
        max_new_tokens=subject.max_new_tokens,
        seed=subject.seed,
    )
