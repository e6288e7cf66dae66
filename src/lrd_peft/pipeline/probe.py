"""`lrd probe`: read intermediate results in the hidden states of a run's latent models, or of a saved model.

Nothing is trained that is kept, and records do not change.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lrd_peft.config import RunConfig
from lrd_peft.data import Problem, load_problems
from lrd_peft.data.collate import collate, to_device
from lrd_peft.data.generators.graph_mini import NODE_WIDTH, candidates, is_graph_set
from lrd_peft.evaluation.probe_results import QUESTION, Probed, Probes
from lrd_peft.evaluation.probing import Target, probe_states
from lrd_peft.model.loop import head_logits
from lrd_peft.model.parts import final_norm
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.pipeline.evaluate import load_method
from lrd_peft.pipeline.from_config import HELD_OUT_SEED, held_out
from lrd_peft.pipeline.latent_models import chosen_methods, look_at, rows_before_answers, saved_model, write_found
from lrd_peft.pipeline.run_folder import PROBES, RunPaths
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.processes import device_of
from lrd_peft.runtime.progress import Progress

NUM_PROBLEMS = 1000
_BATCH = 64
_OPTION = re.compile(r"\s*\([A-E]\)\s*$")

Found = tuple[str, tuple[Probed, ...]]


def probe_run(
    target: str,
    *,
    models: tuple[str, ...] = (),
    dataset: str | None = None,
    num_problems: int = NUM_PROBLEMS,
    output: Path | None = None,
) -> tuple[Probes, Path | None]:
    """Fit probes on the states of trained models.

    Args:
        target: Run folder, or a saved thinking model: its folder, hub id or embedded name.
        models: Methods of the run to look at (empty: each latent one that the run has a model of).
        dataset: Data set (None: those that the run was evaluated on). A saved model needs one.
        num_problems: Held-out problems of each set. Three fifths fit the probes, one fifth is the test.
        output: Folder for probe.json (None: the run folder; a saved model writes none).

    Returns:
        What was found, and the file that was written.

    Raises:
        UserError: If there is no model that thinks, a name is unknown, or the problems are too few.
    """
    return look_at(
        target,
        Probes,
        PROBES,
        of_run=lambda config, run: _of_run(config, run, models, dataset, num_problems),
        of_saved_model=lambda: _of_saved_model(target, models, dataset, num_problems),
        output=output,
    )


def probe_method(config: RunConfig, run: RunPaths) -> Path | None:
    """Fit probes on the states of a finished run's method on `probe_problems` problems, and write probe.json."""
    found = Probes(*_of_run(config, run, (config.student.method,), None, config.evaluation.probe_problems))
    return write_found(found, PROBES, run.root)


def _of_saved_model(target: str, models: tuple[str, ...], dataset: str | None, num_problems: int) -> Found:
    model, dataset = saved_model(target, models=models, dataset=dataset)
    if not model.is_saved:
        raise UserError(f"{target} is a plain model: it has not learned to think, so there is no thought to probe")
    problems = load_problems(dataset, split="test", limit=num_problems, seed=HELD_OUT_SEED).problems
    name = Path(target).name
    found = probe_model(model, problems, name=name, dataset=dataset)
    return f"{name}, {len(problems)} test problems of {dataset}", (found,)


def _of_run(config: RunConfig, run: RunPaths, models: tuple[str, ...], dataset: str | None, num_problems: int) -> Found:
    names = chosen_methods(config, run, models, verb="probe")
    datasets = config.evaluated_datasets if dataset is None else (dataset,)
    split, found = config.evaluation.eval_split, []
    for name in names:
        model = load_method(name, config, run).eval().to(device_of(config.run.device))
        for each in datasets:
            problems = held_out(config, each, split=split, limit=num_problems).problems
            found.append(probe_model(model, problems, name=name, dataset=each, seed=config.run.seed))
    source = f"{', '.join(names)}, seed {config.run.seed}, {split} problems of {', '.join(datasets)}"
    return source, tuple(found)


def probe_model(model: ThinkingModel, problems: Sequence[Problem], *, name: str, dataset: str, seed: int = 0) -> Probed:
    """Fit probes for the result of each step and for the answer, at every layer and slot of a model.

    Args:
        model: A model that thinks, in evaluation mode.
        problems: Problems with steps.
        name: What the model is called in the result.
        dataset: Name of the data set.
        seed: Seed of the split of the problems and of the shuffled labels.

    Raises:
        UserError: If the model has no thoughts, or the problems are too few.
    """
    count = model.options.num_thoughts
    if count == 0:
        raise UserError(f"{name} has no thoughts to probe: it was trained with 0")
    found = states_of(model, problems, label=f"states of {name} on {dataset}")
    values = step_results(found.problems, dataset=dataset)
    choices = [candidates(problem.question) for problem in found.problems] if is_graph_set(dataset) else None
    starts = {value: _starts(model, value) for each in values.values() for value in each if value is not None}
    targets = [
        Target(key, each, _hits(each, found.tops, starts), choices if key == "answer" else None)
        for key, each in values.items()
    ]
    positions = [QUESTION, *(f"thought {number + 1}" for number in range(count)), "answer"]
    return probe_states(found.states, targets, model=name, dataset=dataset, positions=positions, seed=seed)


@dataclass(frozen=True, slots=True)
class StatesOfProblems:
    """Hidden states at a question's last position, at each slot, and where the answer is predicted.

    Attributes:
        problems: Those that fit into the model's context.
        states: Layer -> states, float32 of shape [problem, position, hidden].
        tops: Layer -> the LM head's first choice, int64 of shape [problem, position]. Layers that the head cannot read
            are missing.
    """

    problems: list[Problem]
    states: dict[int, NDArray[np.float32]]
    tops: dict[int, NDArray[np.int64]]


@torch.no_grad()
def states_of(model: ThinkingModel, problems: Sequence[Problem], *, label: str) -> StatesOfProblems:
    """Return what a model that thinks holds before it answers.

    Args:
        model: Model that thinks, in evaluation mode.
        problems: Any number of problems.
        label: Name of the progress bar.
    """
    count = model.options.num_thoughts
    rows = rows_before_answers(model, problems, num_thoughts=count)
    norm = final_norm(model.lm)
    layers = range(model.num_blocks + 1)
    parts: dict[int, list[NDArray[np.float32]]] = {layer: [] for layer in layers}
    firsts: dict[int, list[NDArray[np.int64]]] = {}
    pad: Any = model.tokenizer.pad_token_id
    with Progress(label, total=len(rows), unit="problems") as progress:
        for begin in range(0, len(rows), _BATCH):
            batch = to_device(collate(rows[begin : begin + _BATCH], pad_id=pad), model.device)
            output = model(**batch, layers=layers, positions="all", with_loss=False)
            start = batch["question_ids"].shape[1] - 1
            places = torch.arange(start, start + count + 1, device=model.device).expand(len(batch["answer_start"]), -1)
            last = (start + count + batch["answer_start"])[:, None]
            places = torch.cat([places, last], dim=1)[:, :, None]
            for layer in layers:
                states = output.states[layer]
                states = states.gather(1, places.expand(-1, -1, states.shape[-1]))
                parts[layer].append(states.float().cpu().numpy())
                if layer == model.num_blocks or norm is not None:
                    read = states if layer == model.num_blocks or norm is None else norm(states)
                    firsts.setdefault(layer, []).append(head_logits(model.lm, read).argmax(dim=-1).cpu().numpy())
            progress.update(min(begin + _BATCH, len(rows)))
    return StatesOfProblems(
        [problems[row.index] for row in rows],
        {layer: np.concatenate(each) for layer, each in parts.items()},
        {layer: np.concatenate(each) for layer, each in firsts.items()},
    )


def step_results(problems: Sequence[Problem], *, dataset: str) -> dict[str, list[str | None]]:
    """Return the result of each step but the last, and the answer.

    A result is what is behind the step's last equals sign, or else the whole step, without the letter of an option; on
    a set of graphs, the node that the edge leads to. The last step gives the answer, so a probe for it would count
    twice what is read of the answer.
    """
    begin = -NODE_WIDTH if is_graph_set(dataset) else 0
    longest = max((len(problem.steps) for problem in problems), default=0) - 1
    found: dict[str, list[str | None]] = {}
    for number in range(longest):
        found[f"step {number + 1}"] = [
            _OPTION.sub("", problem.steps[number].rpartition("=")[2]).strip()[begin:]
            if number < len(problem.steps) - 1
            else None
            for problem in problems
        ]
    found["answer"] = [problem.answer for problem in problems]
    return found


def _starts(model: ThinkingModel, value: str) -> frozenset[int]:
    """Return the tokens that a text can begin with, at the start of a line or after a space; no blank ones."""
    texts = (value, f" {value}")
    first = (ids[0] for text in texts if (ids := model.tokenizer.encode(text, add_special_tokens=False)))
    return frozenset(token for token in first if str(model.tokenizer.decode([token])).strip())


def _hits(
    values: Sequence[str | None], tops: dict[int, NDArray[np.int64]], starts: dict[str, frozenset[int]]
) -> dict[int, NDArray[np.bool_]]:
    return {
        layer: np.array(
            [
                [value is not None and int(token) in starts[value] for token in line]
                for value, line in zip(values, top, strict=True)
            ]
        )
        for layer, top in tops.items()
    }
