"""Runs the phases of one configuration and leaves the record. Knows phases and their order, not what they do."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from transformers import set_seed

from lrd_peft.config import PHASES, Phase, RunConfig
from lrd_peft.experiments.preflight import preflight
from lrd_peft.methods import METHODS
from lrd_peft.phases.distill import distill
from lrd_peft.phases.evaluate import evaluate
from lrd_peft.phases.extract import extract
from lrd_peft.phases.train_teacher import train_teacher
from lrd_peft.processes import is_main, join, num_processes, on_main, wait
from lrd_peft.records import Costs, Record, environment, write_record
from lrd_peft.run_folder import RunFolder
from lrd_peft.run_inputs import quiet_libraries

RECIPES: dict[Phase, Callable[[RunConfig, RunFolder], None]] = {
    "teacher": train_teacher,
    "store": extract,
    "student": distill,
    "evaluation": evaluate,
}


def run_phases(config: RunConfig, phases: tuple[str, ...], *, held: RunFolder | None = None) -> None:
    """Run the phases that are not finished; with all of them done, write the record.

    Several processes (`torchrun`, `accelerate launch`) do it together: each calls this; the main one holds the folder,
    checks what is in it and writes.

    Args:
        held: a folder that the caller holds, for phases that several configurations share or after its own
            preflight; else the configuration's own is claimed.

    Raises:
        UserError: from a phase, or if the run folder belongs to another configuration or process.
    """
    join(config.device)
    if held is not None:
        _run_held(config, held, phases)
        return
    preflight(config)
    with RunFolder.claim(config) as run:
        _run_held(config, run, phases)


def _run_held(config: RunConfig, run: RunFolder, phases: tuple[str, ...]) -> None:
    quiet_libraries()
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    set_seed(config.seed)
    for phase in PHASES:
        if phase not in phases:
            continue
        if phase not in config.needed_phases:
            print(f"{phase}: {config.method} needs none, skipped")
            continue
        if on_main(_is_whole, config, run, phase):
            continue
        with run.alone(phase):
            if run.is_shared(phase) and on_main(_is_whole, config, run, phase):
                continue  # another run has made it meanwhile
            print(f"{phase}: begins")
            run.log("phase begins", phase=phase)
            RECIPES[phase](config, run)
            wait()  # for what the main process wrote
            run.log("phase finished", phase=phase)
    if "evaluation" in phases:
        record = make_record(config, run)
        if is_main():
            write_record(run.record, record)
            run.seal()
    wait()


def _is_whole(config: RunConfig, run: RunFolder, phase: Phase) -> bool:
    """Return whether a phase is finished and what it made undamaged, and say so."""
    if run.finished(phase, config) is None:
        return False
    if found := run.damages(phase, config):
        print(f"{phase}: {found[0]} ({len(found)} in all); what is damaged is made again")
    else:
        print(f"{phase}: finished, skipped ({run.root})")
    return not found


def make_record(config: RunConfig, run: RunFolder) -> Record:
    """Return the record of a finished run: its method's, with the other graded methods beside it.

    A phase that the method skips took no time.
    """
    notes = {phase: run.require(phase, config) for phase in config.needed_phases}
    table: dict[str, dict[str, Any]] = json.loads((run.root / "evaluation.json").read_text(encoding="utf-8"))
    curves: list[dict[str, Any]] = []
    stages = notes["teacher"]["history"] if "teacher" in notes else []
    for note in stages:
        found = {name: note[name] for name in ("accuracy", "num_validation") if name in note}
        curves.append({"phase": "teacher", "stage": note["stage"], **found})
    for note in stages:
        curves += [{"phase": "teacher", "stage": note["stage"], **row} for row in _thin(note["curve"])]
    if "student" in notes:
        curves += [{"phase": "student", **row} for row in _thin(notes["student"]["curve"])]
    # Of the method itself: a student is made, or the method is the teacher, or nothing was trained for it.
    of = "student" if "student" in notes else "teacher" if METHODS[config.method].needs != "nothing" else ""
    peaks: list[Any] = [notes[phase].get("peak_memory_bytes") for phase in (of or "evaluation", "evaluation")]
    return Record(
        method=config.method,
        datasets=config.evaluated_datasets,
        seed=config.seed,
        config=config.model_dump(mode="json"),
        environment={**environment(), "num_processes": num_processes()},
        metrics={name: table[name] for name in config.evaluated_datasets},
        costs=Costs(
            wall_seconds={phase: notes[phase]["wall_seconds"] if phase in notes else 0.0 for phase in PHASES},
            peak_memory_bytes=None if None in peaks else max(peaks),
            trainable_parameters=notes[of]["trainable_parameters"] if of else 0,
            total_parameters=table[config.evaluated_datasets[0]][config.method]["total_parameters"],
        ),
        curves=tuple(curves),
    )


def _thin(curve: list[dict[str, Any]], *, most: int = 200) -> list[dict[str, Any]]:
    """Return at most `most` rows of a curve, evenly, the last among them: records are small enough to commit."""
    if len(curve) <= most:
        return curve
    return [curve[round(i * (len(curve) - 1) / (most - 1))] for i in range(most)]
