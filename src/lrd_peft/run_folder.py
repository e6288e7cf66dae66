"""A run folder: where each phase's artifact lies, whose configuration it is, what is finished. Knows no models.

config.yaml                resolved configuration
teacher/cot, teacher/latent    the teacher with written steps, and with thoughts
store/                     its hidden states
student/                   a PEFT adapter or all weights, our extra tensors, a model card
evaluation/, evaluation.json   graded problems, the table
record.json                written last
log.jsonl                  what happened when
*.done.json                a phase's marker, written after its artifact
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrd_peft.config import Phase, RunConfig, differences, dump_yaml, load_config
from lrd_peft.errors import UserError
from lrd_peft.processes import is_main
from lrd_peft.records import write_json_atomic


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of one run."""

    root: Path

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
    def claim(cls, config: RunConfig) -> RunFolder:
        """Make or reopen the run folder of a configuration.

        Fields of the evaluation alone may differ from those that the folder has; it is then made anew.

        Raises:
            UserError: if the folder holds another configuration's run, is a file or cannot be written.
        """
        run = cls(Path(config.output_dir))
        try:
            run.root.mkdir(parents=True, exist_ok=True)
            path = run.root / "config.yaml"
            if path.is_file():
                run._compare(config, load_config(yaml_path=path))
            elif any(run.root.iterdir()):
                raise UserError(
                    f"{run.root} is not empty and holds no run (no config.yaml); choose another --output_dir"
                )
            temporary = path.with_suffix(".tmp")
            temporary.write_text(dump_yaml(config), encoding="utf-8")
            temporary.rename(path)
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(f"{run.root} cannot be a run folder: there is a file of that name") from error
        except PermissionError as error:
            raise UserError(f"{run.root} cannot be written (permission denied); choose another --output_dir") from error
        return run

    def _compare(self, config: RunConfig, held: RunConfig) -> None:
        changed = differences(held.phase_fields("student"), config.phase_fields("student"))
        if changed:
            listed = "; ".join(f"{field}: there {there!r}, now {now!r}" for field, there, now in changed)
            raise UserError(
                f"{self.root} holds the run of another configuration ({listed}); choose another --output_dir, "
                "or delete that folder"
            )

    def finished(self, phase: Phase, config: RunConfig) -> dict[str, Any] | None:
        """Return what a finished phase noted, or None if it is not finished for this configuration."""
        path = self.root / f"{phase}.done.json"
        if not path.is_file():
            return None
        try:
            note = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            return None
        return note if note.get("fingerprint") == config.fingerprint(phase) else None

    def finish(self, phase: Phase, config: RunConfig, note: dict[str, Any]) -> None:
        """Mark a phase as finished, with what later phases and the record need of it; the main process does."""
        if is_main():
            write_json_atomic(self.root / f"{phase}.done.json", {"fingerprint": config.fingerprint(phase), **note})

    def require(self, phase: Phase, config: RunConfig) -> dict[str, Any]:
        """Return what a finished phase noted.

        Raises:
            UserError: if it has not been run.
        """
        note = self.finished(phase, config)
        if note is None:
            commands = {
                "teacher": "train-teacher",
                "store": "extract",
                "student": "distill",
                "evaluation": "evaluate",
            }
            raise UserError(
                f"{self.root} has no finished {phase} of this configuration; run `lrd {commands[phase]}` with the "
                "same flags first, or `lrd run` for all phases"
            )
        return note

    def log(self, event: str, **fields: Any) -> None:
        """Append one line to log.jsonl; the main process does."""
        if not is_main():
            return
        line = json.dumps({"time": round(time.time(), 3), "event": event, **fields}, sort_keys=True)
        with (self.root / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
