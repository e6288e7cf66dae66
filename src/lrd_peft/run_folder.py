"""A run folder: where each phase's artifact lies, whose configuration it is, what is finished. Knows no models.

config.yaml                resolved configuration
teacher/cot, teacher/latent    the teacher with written steps, and with thoughts
store/                     its hidden states
student/                   a PEFT adapter or all weights, our extra tensors, a model card
evaluation/, evaluation.json   graded problems, the table
record.json                written last
files.json                 checksums of the files above it that have none of their own
log.jsonl                  what happened when
*.done.json                a phase's marker, written after its artifact
held_by.json               the process that is working here, or was the last one to

One process at a time works on a run folder; of several that work together (processes.py), the main one holds it for all
and writes all of this but for shards of the store. Its teacher/ and store/, with their markers, may be links to those
that several runs of a study share; one process at a time makes those. A phase counts as finished when its marker is
there, its artifact is what was written, and the artifacts that it was made from are still the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lrd_peft.checksums import (
    checksums,
    damages,
    folder_damages,
    read_checksums,
    read_sealed,
    write_checksums,
    write_sealed,
)
from lrd_peft.config import PHASES, Phase, RunConfig, differences, dump_yaml, load_config
from lrd_peft.errors import UserError
from lrd_peft.files import lock_folder, sync_parent, sync_path
from lrd_peft.processes import is_main, on_main
from lrd_peft.records import peak_memory_bytes
from lrd_peft.store import Store

COMMANDS: dict[Phase, str] = {
    "teacher": "train-teacher",
    "store": "extract",
    "student": "distill",
    "evaluation": "evaluate",
}
# The folders that a phase is made from; what those were made from counts through them.
_MADE_FROM: dict[Phase, tuple[str, ...]] = {
    "teacher": (),
    "store": ("teacher/cot", "teacher/latent"),
    "student": ("store",),
    "evaluation": ("teacher/cot", "teacher/latent", "student"),
}
# The folders that it makes.
_MAKES: dict[Phase, tuple[str, ...]] = {
    "teacher": ("teacher/cot", "teacher/latent"),
    "store": ("store",),
    "student": ("student",),
    "evaluation": (),
}
_HOLDER = "held_by.json"
_POLL_SECONDS = 0.5
SEALED = ("config.yaml", "evaluation.json", "record.json")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of one run."""

    root: Path
    # What a check found, so that each artifact is read once in a process.
    _checked: dict[Phase, list[str]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def teacher(self) -> Path:
        return self.root / "teacher"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def student(self) -> Path:
        return self.root / "student"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation"

    @property
    def record(self) -> Path:
        return self.root / "record.json"

    def checkpoints(self, name: str) -> Path:
        return self.root / "checkpoints" / name

    @classmethod
    @contextlib.contextmanager
    def claim(cls, config: RunConfig) -> Iterator[RunFolder]:
        """Make or reopen the run folder of a configuration, and hold it for the length of the block.

        Of several processes, all call this together and the main one holds it for them.

        Fields of the evaluation alone may differ from those that the folder has; it is then made anew.

        Raises:
            UserError: if another process holds it, it holds another configuration's run, is a file or cannot be
                written.
        """
        run = cls(Path(config.output_dir))
        with contextlib.ExitStack() as held:

            def begin() -> None:
                held.enter_context(run.hold())
                run._begin(config)

            on_main(begin)
            yield run

    @contextlib.contextmanager
    def hold(self, *, patient: bool = False) -> Iterator[None]:
        """Make the folder and keep other processes out of it for the length of the block.

        Args:
            patient: wait until the process that holds it lets go.

        Raises:
            UserError: if another process holds it, or it is a file.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(f"{self.root} cannot be a run folder: there is a file of that name") from error
        lock = lock_folder(self.root)
        if lock is None and patient:
            print(f"waiting for the process that works on {self.root}", flush=True)
            while (lock := lock_folder(self.root)) is None:
                time.sleep(_POLL_SECONDS)
        if lock is None:
            raise UserError(self._in_use())
        try:
            yield
        finally:
            os.close(lock)

    def is_shared(self, phase: Phase) -> bool:
        """Return whether a phase's folder is a link to one that other runs have too."""
        return (self.root / phase).is_symlink()

    @contextlib.contextmanager
    def alone(self, phase: Phase) -> Iterator[None]:
        """Wait until no other run makes the folder of a phase that they share with this one, and keep them from it."""
        if not self.is_shared(phase):
            yield
            return
        folder = (self.root / phase).resolve()
        with contextlib.ExitStack() as held:

            def begin() -> None:
                held.enter_context(RunFolder(folder.parent).hold(patient=True))
                folder.mkdir(exist_ok=True)
                self._checked.pop(phase, None)

            on_main(begin)
            yield

    def _begin(self, config: RunConfig) -> None:
        path = self.root / "config.yaml"
        if path.is_file():
            try:
                held = load_config(yaml_path=path)
            except UserError as error:
                raise UserError(
                    f"{error}. If these are the flags of the run, delete that file and give them again: it is "
                    "written anew"
                ) from error
            self._compare(config, held)
        elif self._holds_something_else(config):
            raise UserError(f"{self.root} is not empty and holds no run (no config.yaml); choose another --output_dir")
        try:
            temporary = path.with_suffix(".tmp")
            temporary.write_text(dump_yaml(config), encoding="utf-8")
            sync_path(temporary)
            temporary.rename(path)
            sync_parent(path)
        except OSError as error:
            raise UserError(
                f"{self.root} cannot be written ({error.strerror}); put that right or choose another --output_dir"
            ) from error
        me = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        write_sealed(self.root / _HOLDER, me)

    def _holds_something_else(self, config: RunConfig) -> bool:
        """Without a config.yaml, the markers of finished phases still say that the folder is this configuration's."""
        names = {entry.name for entry in self.root.iterdir()} - {_HOLDER, "config.tmp"}
        return bool(names) and not any(self.finished(phase, config) is not None for phase in PHASES)

    def _in_use(self) -> str:
        who = read_sealed(self.root / _HOLDER)
        name = f"process {who.get('pid')} on {who.get('host')} since {who.get('since')}" if who else "another process"
        return f"{self.root} is in use by {name}: wait for it, or stop it; it saves its work when it is told to end"

    def _compare(self, config: RunConfig, held: RunConfig) -> None:
        changed = differences(held.phase_fields("student"), config.phase_fields("student"))
        if changed:
            listed = "; ".join(f"{field}: there {there!r}, now {now!r}" for field, there, now in changed)
            raise UserError(
                f"{self.root} holds the run of another configuration ({listed}); choose another --output_dir, "
                "or delete that folder"
            )

    def finished(self, phase: Phase, config: RunConfig) -> dict[str, Any] | None:
        """Return what a finished phase noted; None if it is not finished for this configuration and these artifacts."""
        note = read_sealed(self.root / f"{phase}.done.json")
        if note is None or note.get("fingerprint") != config.fingerprint(phase):
            return None
        return None if self._changed(note.get("made_from", {})) else note

    def finish(self, phase: Phase, config: RunConfig, note: dict[str, Any]) -> None:
        """Mark a phase as finished, with what later phases and the record need of it; the main process does."""
        if not is_main():
            return
        files: dict[str, Any] = {}
        if phase == "evaluation":
            files = checksums(self.root, ["evaluation.json"])
        body = {
            "fingerprint": config.fingerprint(phase),
            "made_from": self.inputs(phase, config),
            "made": self._digests(_MAKES[phase]),
            "files": files,
            "peak_memory_bytes": peak_memory_bytes(),
            **note,
        }
        write_sealed((self.root / f"{phase}.done.json").resolve(), body)  # a link stays one
        self._checked[phase] = []

    def discard_student(self) -> None:
        """Remove the student and the graded problems of a finished run, whose results its record holds, and note it."""
        marker = self.root / "student.done.json"
        if note := read_sealed(marker):
            write_sealed(marker, {**note, "discarded": True})
        for folder in (self.student, self.evaluation):
            shutil.rmtree(folder, ignore_errors=True)

    def has_discarded(self, config: RunConfig) -> bool:
        """Return whether the student was removed after it was evaluated."""
        return bool((self.finished("student", config) or {}).get("discarded"))

    def inputs(self, phase: Phase, config: RunConfig) -> dict[str, str]:
        """Return a digest of each artifact that a phase is made from."""
        of_teacher = phase == "student" and "store" not in config.needed_phases
        return self._digests(_MADE_FROM["store" if of_teacher else phase])

    def replaced(self, phase: Phase) -> list[str]:
        """Return the folders of a finished phase that hold something else, whole or not, than the phase made."""
        note = read_sealed(self.root / f"{phase}.done.json") or {}
        return self._changed(note.get("made", {}))

    def _digests(self, names: tuple[str, ...]) -> dict[str, str]:
        return {name: digest for name in names if (digest := self._digest(name)) is not None}

    def _changed(self, noted: dict[str, str]) -> list[str]:
        return [name for name, digest in noted.items() if self._digest(name) not in (digest, None)]

    def _digest(self, name: str) -> str | None:
        """Return a hash of what an artifact is, without clocks; None where that is not known (missing, damaged)."""
        if name == "store":
            manifest = self.store / "manifest.json"
            return hashlib.sha256(manifest.read_bytes()).hexdigest()[:32] if manifest.is_file() else None
        files = read_checksums(self.root / name) or {}
        tensors = [[file, *files[file]] for file in sorted(files) if file.endswith(".safetensors")]
        return hashlib.sha256(json.dumps(tensors).encode()).hexdigest()[:32] if tensors else None

    def damages(self, phase: Phase, config: RunConfig) -> list[str]:
        """Read the whole artifact of a finished phase and say what is not as it was written; read once in a process."""
        if phase not in self._checked:
            found = self._check(phase, config)
            self._checked[phase] = found + [f"{name} is not what this run made" for name in self.replaced(phase)]
        return self._checked[phase]

    def _check(self, phase: Phase, config: RunConfig) -> list[str]:
        if phase == "store":
            try:
                return Store.open(self.store).verify()
            except UserError as error:
                return [str(error)]
        if phase == "evaluation":
            note = self.finished(phase, config) or {}
            graded = sorted(self.evaluation.glob("*.json"))
            broken = [f"{path.name} is damaged" for path in graded if read_sealed(path) is None]
            return broken + damages(self.root, note.get("files", {}))
        if phase == "student" and self.has_discarded(config):
            if self.finished("evaluation", config) is None or self.damages("evaluation", config):
                return ["the student was not kept, and its evaluation is to be made again"]
            return []
        folders = [self.student]
        if phase == "teacher":
            thinks = config.max_stage > 0 and config.needed_teacher != "cot"
            folders = [self.teacher / name for name in (("cot", "latent") if thinks else ("cot",))]
        return [damage for folder in folders for damage in folder_damages(folder)]

    def require(self, phase: Phase, config: RunConfig) -> dict[str, Any]:
        """Return what a finished phase noted. Of several processes, all ask together and the main one looks.

        Raises:
            UserError: if it has not been run, or its artifact is damaged.
        """
        return on_main(self._require, phase, config)

    def _require(self, phase: Phase, config: RunConfig) -> dict[str, Any]:
        note = self.finished(phase, config)
        if note is None:
            raise UserError(
                f"{self.root} has no finished {phase} of this configuration; run `lrd {COMMANDS[phase]}` with the "
                "same flags first, or `lrd run` for all phases"
            )
        if found := self.damages(phase, config):
            raise UserError(
                f"the {phase} of {self.root} is damaged: {found[0]} ({len(found)} in all). `lrd {COMMANDS[phase]}` or "
                "`lrd run` with the same flags makes only the damaged part again"
            )
        return note

    def seal(self) -> None:
        """Write the checksums of the files that have none of their own."""
        write_checksums(self.root, [name for name in SEALED if (self.root / name).is_file()])

    def log(self, event: str, **fields: Any) -> None:
        """Append one line to log.jsonl; the main process does."""
        if not is_main():
            return
        line = json.dumps({"time": round(time.time(), 3), "event": event, **fields}, sort_keys=True)
        with (self.root / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
