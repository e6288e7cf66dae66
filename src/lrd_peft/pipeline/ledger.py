"""Which phases of a run are finished, for which configuration, and from which artifacts."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from typing import Any

from lrd_peft.config import Phase, RunConfig
from lrd_peft.pipeline.run_folder import RunPaths
from lrd_peft.runtime.checksums import Checksums, checksums, read_checksums
from lrd_peft.runtime.environment import peak_memory_bytes
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.json_files import FileModel, read_sealed, write_sealed
from lrd_peft.runtime.processes import is_main

# The folders that a phase reads; what those were made from counts through them.
_MADE_FROM: dict[Phase, tuple[str, ...]] = {
    "teacher": (),
    "store": ("teacher/cot", "teacher/latent"),
    "student": ("store",),
    "evaluation": ("teacher/cot", "teacher/latent", "student"),
}
# The folders that a phase writes.
_MAKES: dict[Phase, tuple[str, ...]] = {
    "teacher": ("teacher/cot", "teacher/latent"),
    "store": ("store",),
    "student": ("student",),
    "evaluation": (),
}


class PhaseNote(FileModel):
    """What a phase reports for the record.

    Attributes:
        wall_seconds: duration of the phase, in seconds.
        trainable_parameters: numbers that it trained.
        total_parameters: numbers of the model it trained.
        history: of the teacher, a note per stage: epochs, accuracy, training log.
        curve: of the student, its training log.
    """

    wall_seconds: float = 0.0
    trainable_parameters: int = 0
    total_parameters: int = 0
    history: tuple[dict[str, Any], ...] = ()
    curve: tuple[dict[str, Any], ...] = ()


class PhaseMarker(FileModel):
    """Contents of PHASE.done.json.

    Attributes:
        fingerprint: of the configuration fields that affect the phase.
        made_from: digest of each folder that the phase read.
        made: digest of each folder that it wrote.
        files: checksums of files that it wrote outside those folders.
        peak_memory_bytes: the largest resident memory of the process; None where the system does not say.
        discarded: the artifact was removed after the run had its record.
        note: what the phase reports for the record.
    """

    fingerprint: str
    made_from: dict[str, str]
    made: dict[str, str]
    files: Checksums
    peak_memory_bytes: int | None
    discarded: bool = False
    note: PhaseNote


@dataclass(frozen=True, slots=True)
class PhaseLedger:
    """The markers of a run's phases, for one configuration.

    A phase is finished when its marker is there and undamaged, has this configuration's fingerprint, and the folders
    that it was made from are still the same. Whether its artifact is undamaged, `verify.ArtifactChecks` says.
    """

    paths: RunPaths
    config: RunConfig

    def finished(self, phase: Phase) -> PhaseMarker | None:
        """Return the marker of a finished phase, or None."""
        marker = self.marker(phase)
        if marker is None or marker.fingerprint != self.config.fingerprint(phase):
            return None
        return None if self._changed(marker.made_from) else marker

    def finish(self, phase: Phase, note: PhaseNote) -> None:
        """Mark a phase as finished (main process only)."""
        if not is_main():
            return
        marker = PhaseMarker(
            fingerprint=self.config.fingerprint(phase),
            made_from=self.inputs(phase),
            made=self._digests(_MAKES[phase]),
            files=checksums(self.paths.root, [self.paths.table.name] if phase == "evaluation" else []),
            peak_memory_bytes=peak_memory_bytes(),
            note=note,
        )
        write_sealed(self.paths.marker(phase).resolve(), marker)  # a link stays a link

    def marker(self, phase: Phase) -> PhaseMarker | None:
        """Return a phase's marker, of whichever configuration; None if it is missing or damaged."""
        body = read_sealed(self.paths.marker(phase))
        try:
            return None if body is None else PhaseMarker.from_json(body)
        except UserError:
            return None

    def inputs(self, phase: Phase) -> dict[str, str]:
        """Return a digest of each folder that a phase is made from."""
        from_teacher = phase == "student" and "store" not in self.config.needed_phases
        return self._digests(_MADE_FROM["store" if from_teacher else phase])

    def changed(self, phase: Phase) -> list[str]:
        """Return the folders that a phase made and that hold something else now, damaged or not."""
        marker = self.marker(phase)
        return [] if marker is None else self._changed(marker.made)

    def discard_student(self) -> None:
        """Remove the student and the graded problems of a finished run, whose results its record holds."""
        if marker := self.marker("student"):
            write_sealed(self.paths.marker("student"), marker.model_copy(update={"discarded": True}))
        for folder in (self.paths.student, self.paths.evaluation):
            shutil.rmtree(folder, ignore_errors=True)

    def has_discarded_student(self) -> bool:
        """Return whether the student was removed after its evaluation."""
        marker = self.finished("student")
        return marker is not None and marker.discarded

    def _digests(self, names: tuple[str, ...]) -> dict[str, str]:
        return {name: digest for name in names if (digest := self._digest(name)) is not None}

    def _changed(self, noted: dict[str, str]) -> list[str]:
        return [name for name, digest in noted.items() if self._digest(name) not in (digest, None)]

    def _digest(self, name: str) -> str | None:
        """Return a hash of an artifact's contents, without times; None if it is missing or damaged."""
        if name == "store":
            manifest = self.paths.store / "manifest.json"
            return hashlib.sha256(manifest.read_bytes()).hexdigest()[:32] if manifest.is_file() else None
        files = read_checksums(self.paths.root / name) or {}
        tensors = [[file, *files[file]] for file in sorted(files) if file.endswith(".safetensors")]
        return hashlib.sha256(json.dumps(tensors).encode()).hexdigest()[:32] if tensors else None
