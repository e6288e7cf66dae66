"""The layout of a run folder.

config.yaml                    resolved configuration
teacher/cot, teacher/latent    the teacher that writes its steps, and the one that thinks
store/                         the latent teacher's hidden states
student/                       a PEFT adapter or all weights, our extra tensors, a model card
evaluation/, evaluation.json   graded problems, and their summary
record.json                    the run's record, written last
ablation.json, probe.json      what was found about its thoughts, if asked for
files.json                     checksums of the files in this folder that have no others
from_run.json                  the run whose teacher and store are used, if they are not the run's own
log.jsonl                      events with their times
PHASE.done.json                a phase's marker, written after its artifact
held_by.json                   the process that is working here, or the last one that did
.lock                          locked while a process works here

teacher/ and store/ and their markers may be links to folders that several runs share, in a study or by --from_run.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrd_peft.config import Phase, RunConfig
from lrd_peft.runtime.processes import is_main

COMMANDS: dict[Phase, str] = {
    "teacher": "train-teacher",
    "store": "extract",
    "student": "distill",
    "evaluation": "evaluate",
}
# Files in the run folder itself whose checksums files.json holds.
SEALED = ("config.yaml", "evaluation.json", "record.json")
ABLATION, PROBES, PARALLEL = "ablation.json", "probe.json", "parallel.json"


def wanted_looks(config: RunConfig) -> dict[str, int]:
    """Return the files about a run's thoughts that its configuration asks for, each with its number of problems."""
    options = config.evaluation
    asked = {ABLATION: options.ablate_problems, PROBES: options.probe_problems}
    return {name: count for name, count in asked.items() if count and config.thinks}


@dataclass(frozen=True, slots=True)
class RunPaths:
    """The paths of one run.

    Attributes:
        root: the run folder.
    """

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

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
    def table(self) -> Path:
        return self.root / "evaluation.json"

    @property
    def record(self) -> Path:
        return self.root / "record.json"

    @property
    def source(self) -> Path:
        return self.root / "from_run.json"

    @property
    def holder(self) -> Path:
        return self.root / "held_by.json"

    def marker(self, phase: Phase) -> Path:
        return self.root / f"{phase}.done.json"

    def checkpoints(self, name: str) -> Path:
        return self.root / "checkpoints" / name

    def is_shared(self, phase: Phase) -> bool:
        """Return whether a phase's folder is a link to one that other runs use too."""
        return (self.root / phase).is_symlink()

    def log(self, event: str, **fields: Any) -> None:
        """Append one event to log.jsonl (main process only)."""
        if not is_main():
            return
        line = json.dumps({"time": round(time.time(), 3), "event": event, **fields}, sort_keys=True)
        with (self.root / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
