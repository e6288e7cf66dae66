"""`lrd parallel`: answer with thoughts that are refined together instead of one after another, and write parallel.json.

Nothing is trained, and records do not change.
"""

from __future__ import annotations

from pathlib import Path

from lrd_peft.evaluation.parallel_results import ParallelFound, ParallelThoughts
from lrd_peft.evaluation.parallel_thoughts import refine
from lrd_peft.pipeline.latent_models import Subject, look_at_each
from lrd_peft.pipeline.run_folder import PARALLEL
from lrd_peft.runtime.errors import UserError

NUM_PROBLEMS = 300
NUM_FITTED = 1000


def refine_run(
    target: str,
    *,
    models: tuple[str, ...] = (),
    dataset: str | None = None,
    num_problems: int = NUM_PROBLEMS,
    output: Path | None = None,
) -> tuple[ParallelFound, Path | None]:
    """Answer with trained models whose thoughts are refined in parallel.

    Args:
        target: Run folder, or a saved thinking model: its folder, hub id or embedded name.
        models: Methods of the run to look at (empty: each latent one that the run has a model of).
        dataset: Data set (None: those that the run was evaluated on). A saved model needs one.
        num_problems: Held-out problems of each set.
        output: Folder for parallel.json (None: the run folder; a saved model writes none).

    Returns:
        What was found, and the file that was written.

    Raises:
        UserError: If there is no model with sequential thoughts, or a name is unknown.
    """
    if num_problems < 1:
        raise UserError(f"--num_problems is {num_problems}; it must be at least 1")
    return look_at_each(
        target,
        ParallelFound,
        PARALLEL,
        _refine,
        models=models,
        dataset=dataset,
        num_problems=num_problems,
        num_training=NUM_FITTED,
        verb="refine",
        output=output,
    )


def _refine(subject: Subject) -> ParallelThoughts:
    return refine(
        subject.model,
        subject.problems,
        training=subject.training,
        name=subject.name,
        dataset=subject.dataset,
        batch_size=subject.batch_size,
        max_new_tokens=subject.max_new_tokens,
    )
