"""Takes the teacher and the store of another run instead of making them, by links that several runs share."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from lrd_peft.config import Phase, RunConfig, differences, load_config
from lrd_peft.pipeline.ledger import PhaseLedger
from lrd_peft.pipeline.run_folder import RunPaths
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.json_files import FileModel, read_sealed, write_sealed

logger = logging.getLogger(__name__)

SHARED: tuple[Phase, ...] = ("teacher", "store")
"""Phases whose artifacts several runs can share."""


class ReusedRun(FileModel):
    """Contents of from_run.json: the run whose artifacts are used.

    Attributes:
        run: Its folder, as the user named it.
        phases: Phases that were not run for this reason.
    """

    run: str
    phases: tuple[Phase, ...]


def check_source(source: Path, config: RunConfig) -> None:
    """Check that another run has an undamaged teacher and store of this configuration.

    Args:
        source: Run folder.
        config: Configuration of the run that is to use them.

    Raises:
        UserError: If the folder holds no run, a setting of these phases differs, one is not finished, or its artifact
            is damaged.
    """
    from lrd_peft.pipeline.verify import ArtifactChecks  # loads torch, which a study does without

    paths = RunPaths(source)
    if not paths.config.is_file():
        raise UserError(
            f'--from_run is "{source}", which is not a run folder (no config.yaml); use that of a finished run'
        )
    held = load_config(yaml_path=paths.config)
    ledger = PhaseLedger(paths, config)
    checks = ArtifactChecks(ledger)
    for phase in _shared(config):
        changed = differences(held.phase_fields(phase), config.phase_fields(phase))
        if changed:
            listed = "; ".join(f"{name}: there {there!r}, now {now!r}" for name, there, now in changed)
            raise UserError(f"the {phase} of {source} has other settings ({listed}); match them or drop --from_run")
        if ledger.finished(phase) is None:
            raise UserError(f"{source} has no finished {phase}; finish that run first, or drop --from_run")
        if found := checks.damages(phase):
            raise UserError(
                f"the {phase} of {source} is damaged: {found[0]} ({len(found)} in all); repair it with `lrd run "
                f"--config {paths.config} --output_dir {source}`, or drop --from_run"
            )


def take_from(source: Path, config: RunConfig, paths: RunPaths) -> None:
    """Link the teacher and the store of a checked run into a run folder, and note where they come from.

    Raises:
        UserError: If the run folder has a teacher or a store of its own.
    """
    origin = RunPaths(source)
    for phase in _shared(config):
        link_phase(origin, phase, paths)
        logger.info("%s: from %s", phase, source)
    write_sealed(paths.source, ReusedRun(run=str(source), phases=_shared(config)))


def link_phase(origin: RunPaths, phase: Phase, paths: RunPaths) -> None:
    """Link the folder of a phase, and then its marker, into a run folder; existing links are kept.

    Raises:
        UserError: If the run folder has another artifact of the phase.
    """
    for target in (origin.root / phase, origin.marker(phase)):
        link = paths.root / target.name
        if link.is_symlink() and link.resolve() == target.resolve():
            continue
        if os.path.lexists(link):
            raise UserError(f"{paths.root} has its own {phase}; choose another --output_dir, or drop --from_run")
        link.symlink_to(os.path.relpath(target.resolve(), paths.root.resolve()))


def source_of(paths: RunPaths) -> str | None:
    """Return the run whose teacher and store a run uses, or `None`."""
    body = read_sealed(paths.source)
    return None if body is None else ReusedRun.from_json(body).run


def _shared(config: RunConfig) -> tuple[Phase, ...]:
    return tuple(phase for phase in SHARED if phase in config.needed_phases)
