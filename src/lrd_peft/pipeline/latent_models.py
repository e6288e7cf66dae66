"""What commands that look into trained models share: which models of a run think, their rows, the file written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from lrd_peft.config import RunConfig, load_config
from lrd_peft.config.methods import METHODS
from lrd_peft.data import Problem, load_problems
from lrd_peft.data.collate import Row
from lrd_peft.evaluation.score import written_limit
from lrd_peft.model.inspection import context_length
from lrd_peft.model.loop import unwrap
from lrd_peft.model.student import StudentModel
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.pipeline.evaluate import load_method, missing_model
from lrd_peft.pipeline.from_config import HELD_OUT_SEED, NUM_LENGTH_PROBLEMS, held_out, quiet_libraries, train_split
from lrd_peft.pipeline.run_folder import RunPaths
from lrd_peft.runtime.errors import UserError, nearest
from lrd_peft.runtime.json_files import FileData, write_json_atomic
from lrd_peft.runtime.processes import device_of
from lrd_peft.training.curriculum import items, thinking_rows

# Problems per batch of a model that is not part of a run.
_BATCH_SIZE = 64

_Found = TypeVar("_Found", bound=FileData)


def look_at(
    target: str,
    kind: type[_Found],
    file: str,
    *,
    of_run: Callable[[RunConfig, RunPaths], tuple[Any, ...]],
    of_saved_model: Callable[[], tuple[Any, ...]],
    output: Path | None,
) -> tuple[_Found, Path | None]:
    """Look at the models of a run, or at a saved model, and write what was found.

    Args:
        target: Run folder, or a saved thinking model: its folder, hub id or embedded name.
        kind: What the findings are kept in.
        file: Name of the file of findings.
        of_run: Returns the findings for a run.
        of_saved_model: Returns them for the saved model.
        output: Folder of the file (None: the run folder; a saved model writes none).

    Returns:
        What was found, and the file that was written.
    """
    quiet_libraries()
    root = Path(target)
    if (root / "config.yaml").is_file():
        found = kind(*of_run(load_config(yaml_path=root / "config.yaml"), RunPaths(root)))
        return found, write_found(found, file, output or root)
    found = kind(*of_saved_model())
    return found, write_found(found, file, output)


def saved_model(target: str, *, models: Sequence[str], dataset: str | None) -> tuple[StudentModel, str]:
    """Load a model that is not part of a run, and return it with the data set to look at.

    Args:
        target: Its folder, hub id or embedded name.
        models: Methods that were asked for, which a model on its own does not have.
        dataset: Data set that was asked for.

    Raises:
        UserError: If methods were asked for, or no data set.
    """
    if models:
        raise UserError(f"--models is for run folders; {target} is one model")
    if dataset is None:
        raise UserError(f"{target} is a model, not a run: name the problems with --dataset, such as --dataset gsm-mini")
    return StudentModel.from_pretrained(target), dataset


def chosen_methods(config: RunConfig, run: RunPaths, models: Sequence[str], *, verb: str) -> tuple[str, ...]:
    """Return the methods of a run to look at, and set its number of threads.

    Args:
        config: Configuration of the run.
        run: Its folder.
        models: Methods that were asked for (empty: each that thinks and has its model).
        verb: What is done to them, for the message.

    Raises:
        UserError: If one has no model in the run or does not think, or there is none.
    """
    if config.run.num_threads is not None:
        torch.set_num_threads(config.run.num_threads)
    available = tuple(_thinking(config, run))
    for name in models:
        if name not in available:
            known, hint = ", ".join(available) or "none", nearest(name, available)
            raise UserError(f'{run.root} has no model "{name}" that thinks; it has {known}.{hint}')
    if not available:
        raise UserError(
            f"{run.root} has no finished model that thinks; finish it with `lrd run`, or {verb} a run of another method"
        )
    return tuple(models) or available


def _thinking(config: RunConfig, run: RunPaths) -> Iterator[str]:
    for name in dict.fromkeys(("teacher-latent", config.student.method)):
        method = METHODS[name]
        lacking = not run.student.is_dir() if method.trains_student else missing_model(name, config, run)
        if method.thinks and config.has_thoughts and not lacking:
            yield name


@dataclass(frozen=True, slots=True)
class Subject:
    """A model that thinks, and the held-out problems that it is looked at with.

    Attributes:
        name: Method, or name of the model.
        model: The model, in evaluation mode.
        dataset: Name of the data set.
        problems: Held-out problems.
        training: Some training problems.
        batch_size: Problems per batch.
        max_new_tokens: Maximum number of tokens per answer.
        seed: Seed of draws.
    """

    name: str
    model: ThinkingModel
    dataset: str
    problems: Sequence[Problem]
    training: Sequence[Problem]
    batch_size: int
    max_new_tokens: int
    seed: int = 0


Look = Callable[[Subject], Any]
"""What is done to each model that thinks; returns what was found."""


def look_at_each(
    target: str,
    kind: type[_Found],
    file: str,
    look: Look,
    *,
    models: Sequence[str],
    dataset: str | None,
    num_problems: int,
    num_training: int = 0,
    verb: str,
    output: Path | None,
) -> tuple[_Found, Path | None]:
    """Look at each model of a run that thinks on each of its data sets, or at a saved model, and write what was found.

    Args:
        target: Run folder, or a saved thinking model: its folder, hub id or embedded name.
        kind: What the findings are kept in.
        file: Name of the file of findings.
        look: What is done.
        models: Methods of the run to look at (empty: each latent one that the run has a model of).
        dataset: Data set (None: those that the run was evaluated on). A saved model needs one.
        num_problems: Held-out problems of each set.
        num_training: Training problems of each set that the look needs; those of a run are never fewer than tell the
            length of answers.
        verb: What is done to the models, for the message of an error.
        output: Folder of the file (None: the run folder; a saved model writes none).

    Returns:
        What was found, and the file that was written.
    """
    return look_at(
        target,
        kind,
        file,
        of_run=lambda config, run: look_at_run(
            look,
            config,
            run,
            models=models,
            dataset=dataset,
            num_problems=num_problems,
            num_training=num_training,
            verb=verb,
        ),
        of_saved_model=lambda: _look_at_saved_model(
            look, target, models=models, dataset=dataset, num_problems=num_problems, num_training=num_training
        ),
        output=output,
    )


def look_at_run(
    look: Look,
    config: RunConfig,
    run: RunPaths,
    *,
    models: Sequence[str] = (),
    dataset: str | None = None,
    num_problems: int,
    num_training: int = 0,
    verb: str,
) -> tuple[str, tuple[Any, ...]]:
    """Look at models of a run on its data sets; the arguments are those of `look_at_each`.

    Returns:
        A text that names the models and the problems, and what was found for each model and data set.
    """
    names = chosen_methods(config, run, models, verb=verb)
    datasets = config.evaluated_datasets if dataset is None else (dataset,)
    options = config.evaluation
    split, limit = options.eval_split, min(num_problems, options.num_eval_problems or num_problems)
    wanted = max(num_training, NUM_LENGTH_PROBLEMS)
    training = train_split(config, limit=min(wanted, config.data.num_train_problems or wanted))
    found = []
    for name in names:
        model = load_method(name, config, run).eval().to(device_of(config.run.device))
        max_new_tokens = options.max_new_tokens or written_limit(model, training, thinking=True)
        for each in datasets:
            problems = held_out(config, each, split=split, limit=limit).problems
            size, seed = options.eval_batch_size, config.run.seed
            found.append(look(Subject(name, model, each, problems, training, size, max_new_tokens, seed)))
    return f"{', '.join(names)}, seed {config.run.seed}, {split} problems of {', '.join(datasets)}", tuple(found)


def _look_at_saved_model(
    look: Look, target: str, *, models: Sequence[str], dataset: str | None, num_problems: int, num_training: int
) -> tuple[str, tuple[Any, ...]]:
    model, dataset = saved_model(target, models=models, dataset=dataset)
    if not model.is_saved:
        raise UserError(
            f"{target} is a plain language model that has not learned to think; name a run, or a model that it saved"
        )
    problems = load_problems(dataset, split="test", limit=num_problems, seed=HELD_OUT_SEED).problems
    training = load_problems(dataset, split="train", limit=num_training).problems if num_training else ()
    limit = written_limit(model, problems, thinking=True)
    subject = Subject(Path(target).name, model, dataset, problems, training, _BATCH_SIZE, limit)
    return f"{subject.name}, {len(problems)} test problems of {dataset}", (look(subject),)


def rows_before_answers(model: ThinkingModel, problems: Sequence[Problem], *, num_thoughts: int) -> list[Row]:
    """Return question, thoughts and marker of each problem that fits into the model's context, without the answer.

    Args:
        model: Model that thinks.
        problems: Problems; the rows hold their indices.
        num_thoughts: Thoughts of each row.
    """
    context, rows = context_length(unwrap(model.lm).config), []
    for row in thinking_rows(items(model.encoder.encode_many(problems)), num_thoughts=num_thoughts, model=model):
        row = replace(row, suffix=row.suffix[: row.answer_start])
        if context is None or row.length <= context:
            rows.append(row)
    return rows


def write_found(found: FileData, name: str, folder: Path | None) -> Path | None:
    """Write results as JSON into a folder, created if needed, and return the file; None without a folder."""
    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    write_json_atomic(folder / name, found.to_json())
    return folder / name
