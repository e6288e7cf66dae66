"""Runs the phases of one configuration and writes the record."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from lrd_peft.config import PHASES, Phase, RunConfig
from lrd_peft.evaluation.answers import VERSION
from lrd_peft.evaluation.records import Costs, Record, write_record
from lrd_peft.pipeline.ablate import ablate_method
from lrd_peft.pipeline.distill import distill
from lrd_peft.pipeline.evaluate import evaluate, read_table
from lrd_peft.pipeline.extract import extract
from lrd_peft.pipeline.from_config import quiet_libraries
from lrd_peft.pipeline.ledger import PhaseLedger, PhaseMarker, PhaseNote
from lrd_peft.pipeline.preflight import check_device, preflight, resolve_layers
from lrd_peft.pipeline.probe import probe_method
from lrd_peft.pipeline.reuse import check_source, source_of, take_from
from lrd_peft.pipeline.run_folder import ABLATION, PROBES, SEALED, RunPaths, wanted_looks
from lrd_peft.pipeline.run_lock import RunLock
from lrd_peft.pipeline.train_teacher import train_teacher
from lrd_peft.pipeline.verify import ArtifactChecks
from lrd_peft.runtime.checksums import write_checksums
from lrd_peft.runtime.environment import environment
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.processes import is_main, joined, num_processes, on_main, wait

logger = logging.getLogger(__name__)

RECIPES: dict[Phase, Callable[[RunConfig, RunPaths], PhaseNote]] = {
    "teacher": train_teacher,
    "store": extract,
    "student": distill,
    "evaluation": evaluate,
}


def run_phases(
    config: RunConfig, phases: tuple[str, ...], *, held: RunPaths | None = None, from_run: Path | None = None
) -> None:
    """Run the phases that are not finished; after the evaluation, write the record.

    Several processes (`torchrun`, `accelerate launch`) call this together. The main one holds the folder, checks what
    is in it and writes.

    Args:
        config: the run's configuration.
        phases: names of the phases to run.
        held: a run folder that the caller holds; None claims the configuration's own, after its preflight.
        from_run: a finished run whose teacher and store are used instead of making them.

    Raises:
        UserError: from a phase, or if the run folder belongs to another configuration or process.
    """
    check_device(config)
    quiet_libraries()
    with joined(config.run.device):
        resolved = resolve_layers(config)
        if resolved != config:
            logger.info("distill_layers: %s of the teacher (default)", ", ".join(map(str, resolved.distill.layers)))
        config = resolved
        if held is not None:
            _run_held(config, held, phases)
            return
        preflight(config)
        if from_run is not None:
            on_main(check_source, from_run, config)
        with RunLock.claim(config) as paths:
            if from_run is not None:
                on_main(take_from, from_run, config, paths)
            _run_held(config, paths, phases)


def _run_held(config: RunConfig, paths: RunPaths, phases: tuple[str, ...]) -> None:
    if config.run.num_threads is not None:
        torch.set_num_threads(config.run.num_threads)
    set_seed(config.run.seed)
    ledger = PhaseLedger(paths, config)
    checks = ArtifactChecks(ledger)
    for phase in PHASES:
        if phase not in phases:
            continue
        if phase not in config.needed_phases:
            logger.info("%s: not needed for %s, skipped", phase, _purpose(config))
            continue
        if on_main(_is_whole, checks, ledger, phase):
            continue
        with RunLock(paths).hold_shared(phase):
            if paths.is_shared(phase):
                checks.forget(phase)
                if on_main(_is_whole, checks, ledger, phase):
                    continue  # another run made it while this one waited
            for needed in required_phases(config, phase):
                checks.require(needed)
            logger.info("%s: begins", phase)
            paths.log("phase begins", phase=phase)
            ledger.finish(phase, RECIPES[phase](config, paths))
            checks.made(phase)
            wait()  # for what the main process wrote
            paths.log("phase finished", phase=phase)
    if "evaluation" in phases:
        record = make_record(config, {phase: checks.require(phase) for phase in config.needed_phases}, paths)
        if is_main():
            write_record(paths.record, record)
            write_checksums(paths.root, [name for name in SEALED if (paths.root / name).is_file()])
            _look_at_thoughts(config, paths)
    wait()


def _look_at_thoughts(config: RunConfig, paths: RunPaths) -> None:
    """Ablate and probe the run's method as its configuration asks, unless that is done."""
    looks = {ABLATION: ablate_method, PROBES: probe_method}
    for name in wanted_looks(config):
        if not (paths.root / name).is_file():
            try:
                looks[name](config, paths)
            except UserError as error:  # too few problems, for example; the run is finished
                logger.warning("no %s: %s", name, error)


def _purpose(config: RunConfig) -> str:
    """Return the method, with the settings for which it needs fewer phases than it does as a rule."""
    return config.student.method + (" with alpha 0" if config.reads_store and not config.makes_store else "")


def required_phases(config: RunConfig, phase: Phase) -> list[Phase]:
    """Return the phases whose artifacts a phase reads."""
    if phase == "student":
        wanted = {"store": config.makes_store, "teacher": config.loads_teacher_for_student}
        return [each for each in ("store", "teacher") if wanted[each]]
    before = {"teacher": (), "store": ("teacher",), "evaluation": config.needed_phases[:-1]}
    return list(before[phase])


def _is_whole(checks: ArtifactChecks, ledger: PhaseLedger, phase: Phase) -> bool:
    """Return whether a phase is finished and its artifact undamaged, and log it."""
    if ledger.finished(phase) is None:
        return False
    if found := checks.damages(phase):
        logger.info("%s: %s (%d in all); only the damage is rebuilt", phase, found[0], len(found))
    else:
        logger.info("%s: finished, skipped (%s)", phase, ledger.paths.root)
    return not found


def make_record(config: RunConfig, markers: dict[Phase, PhaseMarker], paths: RunPaths) -> Record:
    """Return the record of a finished run: its method's results, and those of the other graded methods.

    Args:
        config: the run's configuration.
        markers: of the finished phases. A phase that the method skips took no time.
        paths: the run folder.
    """
    table = read_table(paths)
    curves: list[dict[str, Any]] = []
    stages = markers["teacher"].note.history if "teacher" in markers else ()
    for note in stages:
        found = {name: note[name] for name in ("accuracy", "num_validation") if name in note}
        curves.append({"phase": "teacher", "stage": note["stage"], **found})
    for note in stages:
        curves += [{"phase": "teacher", "stage": note["stage"], **row} for row in thin(note["curve"])]
    if "student" in markers:
        curves += [{"phase": "student", **row} for row in thin(markers["student"].note.curve)]
    # The phase that trained the method's model, if one did.
    trained: Phase | None = "student" if "student" in markers else None
    if trained is None and config.method.needs is not None:
        trained = "teacher"
    peaks = [markers[phase].peak_memory_bytes for phase in (trained or "evaluation", "evaluation")]
    known = [peak for peak in peaks if peak is not None]
    return Record(
        method=config.student.method,
        datasets=config.evaluated_datasets,
        seed=config.run.seed,
        config=config.flat(),
        environment={**environment(), "num_processes": num_processes(), **_source(paths)},
        metrics={name: table[name] for name in config.evaluated_datasets},
        costs=Costs(
            wall_seconds={phase: markers[phase].note.wall_seconds if phase in markers else 0.0 for phase in PHASES},
            peak_memory_bytes=max(known) if len(known) == len(peaks) else None,
            trainable_parameters=markers[trained].note.trainable_parameters if trained else 0,
            total_parameters=table[config.evaluated_datasets[0]][config.student.method]["total_parameters"],
        ),
        answers_version=VERSION,
        curves=tuple(curves),
    )


def _source(paths: RunPaths) -> dict[str, str]:
    """Return the note that teacher and store are those of another run."""
    source = source_of(paths)
    return {} if source is None else {"from_run": source}


def thin(curve: Sequence[dict[str, Any]], *, most: int = 200) -> Sequence[dict[str, Any]]:
    """Return all gradings of a curve and at most `most` of its other rows, so that a record stays small.

    Those are evenly spaced, with the first and the last.
    """
    logged = [i for i, row in enumerate(curve) if "eval_loss" not in row]
    if len(logged) <= most:
        return curve
    kept = {logged[round(i * (len(logged) - 1) / (most - 1))] for i in range(most)}
    return [row for i, row in enumerate(curve) if i in kept or "eval_loss" in row]
