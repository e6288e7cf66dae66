"""Finds damage in the artifacts of a run: reads bytes, changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lrd_peft.config import PHASES, Phase, load_config
from lrd_peft.evaluation.records import read_record
from lrd_peft.pipeline.ledger import PhaseLedger, PhaseMarker
from lrd_peft.pipeline.run_folder import COMMANDS, SEALED, RunPaths
from lrd_peft.runtime.checksums import damages, folder_damages, read_checksums
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.json_files import read_sealed
from lrd_peft.runtime.processes import on_main
from lrd_peft.store import Store


class ArtifactChecks:
    """Damage checks of a run's artifacts; each artifact is read once.

    Args:
        ledger: the run's markers.
    """

    def __init__(self, ledger: PhaseLedger) -> None:
        self._ledger = ledger
        self._found: dict[Phase, list[str]] = {}

    def damages(self, phase: Phase) -> list[str]:
        """Read the whole artifact of a finished phase and describe what is not as it was written."""
        if phase not in self._found:
            changed = [f"{name} is not what this run made" for name in self._ledger.changed(phase)]
            self._found[phase] = self._check(phase) + changed
        return self._found[phase]

    def forget(self, phase: Phase) -> None:
        """Read the artifact again when it is next asked for: it was made again, here or by another run."""
        self._found.pop(phase, None)

    def made(self, phase: Phase) -> None:
        """Note that this process has just written the artifact, so that it is not read back."""
        self._found[phase] = []

    def is_whole(self, phase: Phase) -> bool:
        """Return whether a phase is finished and its artifact undamaged."""
        return self._ledger.finished(phase) is not None and not self.damages(phase)

    def require(self, phase: Phase) -> PhaseMarker:
        """Return the marker of a finished phase. Called by all processes together; the main one checks.

        Raises:
            UserError: if the phase has not been run, or its artifact is damaged.
        """
        return on_main(self._require, phase)

    def _require(self, phase: Phase) -> PhaseMarker:
        root, marker = self._ledger.paths.root, self._ledger.finished(phase)
        if marker is None:
            raise UserError(
                f"{root} has no finished {phase} of this configuration; run `lrd {COMMANDS[phase]}` with the "
                "same flags first, or `lrd run` for all phases"
            )
        if found := self.damages(phase):
            raise UserError(
                f"the {phase} of {root} is damaged: {found[0]} ({len(found)} in all). `lrd {COMMANDS[phase]}` or "
                "`lrd run` with the same flags rebuilds only the damaged part"
            )
        return marker

    def _check(self, phase: Phase) -> list[str]:
        paths, config = self._ledger.paths, self._ledger.config
        if phase == "store":
            try:
                return Store.open(paths.store).verify()
            except UserError as error:
                return [str(error)]
        if phase == "evaluation":
            marker = self._ledger.finished(phase)
            graded = sorted(paths.evaluation.glob("*.json"))
            broken = [f"{path.name} is damaged" for path in graded if read_sealed(path) is None]
            return broken + damages(paths.root, marker.files if marker else {})
        if phase == "student" and self._ledger.has_discarded_student():
            if not self.is_whole("evaluation"):
                return ["the student was not kept, and its evaluation has to be repeated"]
            return []
        folders = [paths.student]
        if phase == "teacher":
            thinks = config.trains_latent_teacher and config.has_thoughts
            folders = [paths.teacher / name for name in (("cot", "latent") if thinks else ("cot",))]
        return [damage for folder in folders for damage in folder_damages(folder)]


@dataclass(frozen=True, slots=True)
class Checked:
    """What `verify` found.

    Attributes:
        root: the run folder.
        rows: of each part its name, "whole", "damaged", "not finished" or "not kept", and the damages.
    """

    root: Path
    rows: tuple[tuple[str, str, tuple[str, ...]], ...]

    @property
    def damaged(self) -> list[str]:
        """The names of the damaged parts."""
        return [name for name, state, _ in self.rows if state == "damaged"]

    def report(self) -> str:
        """Return one line per part, and below it one per damage."""
        lines = []
        for name, state, found in self.rows:
            lines += [f"{name:<12}{state}", *(f"            {damage}" for damage in found)]
        return "\n".join(lines)

    def complain(self) -> None:
        """Do nothing if the run is undamaged.

        Raises:
            UserError: if a part is damaged, with the command that rebuilds it.
        """
        if not self.damaged:
            return
        how = f"lrd run --config {self.root / 'config.yaml'} --output_dir {self.root}"
        if "config.yaml" in self.damaged:
            how = "delete config.yaml; then `lrd run` with the flags of this run"
        raise UserError(f"{self.root} is damaged: {', '.join(self.damaged)}. To rebuild only these: {how}")


def verify(root: Path) -> Checked:
    """Read every file of a run folder: configuration, teacher, store, student, evaluation, record.

    Raises:
        UserError: if the folder holds no run.
    """
    paths = RunPaths(root)
    if not paths.config.is_file() and not any(paths.marker(phase).exists() for phase in PHASES):
        raise UserError(f"{root} holds no run (no config.yaml)")
    listed = read_checksums(root) or {}
    try:
        config = load_config(yaml_path=paths.config)
    except UserError as error:
        return Checked(root, (("config.yaml", "damaged", (str(error),)),))
    rows = [("config.yaml", *_state(_listed_damages(root, "config.yaml", listed)))]
    ledger = PhaseLedger(paths, config)
    checks = ArtifactChecks(ledger)
    for phase in config.needed_phases:
        marker = paths.marker(phase)
        if phase == "student" and ledger.has_discarded_student() and not checks.damages(phase):
            rows.append((phase, "not kept", ("its results are in record.json",)))
        elif ledger.finished(phase) is not None:
            rows.append((phase, *_state(checks.damages(phase))))
        elif not marker.exists():
            rows.append((phase, "not finished", (f"made by `lrd {COMMANDS[phase]}` or `lrd run`",)))
        elif ledger.marker(phase) is None:
            rows.append((phase, "damaged", (f"{marker.name} is damaged",)))
        else:
            reason = f"{marker.name} belongs to another configuration, or what it was made from has changed"
            rows.append((phase, "damaged", (reason,)))
    if paths.record.exists():
        found = _listed_damages(root, paths.record.name, listed)
        try:
            read_record(paths.record)
        except UserError as error:
            found = [str(error)]
        rows.append((paths.record.name, *_state(found)))
    return Checked(root, tuple(rows))


def _listed_damages(root: Path, name: str, listed: Mapping[str, tuple[int, str]]) -> list[str]:
    assert name in SEALED
    return damages(root, {name: listed[name]} if name in listed else {})


def _state(found: list[str]) -> tuple[str, tuple[str, ...]]:
    return ("damaged" if found else "whole"), tuple(found)
