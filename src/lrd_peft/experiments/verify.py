"""Checks a whole run folder and says what to make again. Knows what a run leaves, reads bytes, changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lrd_peft.checksums import damages, read_checksums, read_sealed
from lrd_peft.config import PHASES, load_config
from lrd_peft.errors import UserError
from lrd_peft.records import read_record
from lrd_peft.run_folder import COMMANDS, SEALED, RunFolder


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found.

    Attributes:
        rows: name of each part, "whole", "damaged", "not finished" or "not kept", and the damages.
    """

    root: Path
    rows: tuple[tuple[str, str, tuple[str, ...]], ...]

    @property
    def damaged(self) -> list[str]:
        """The names of the damaged parts."""
        return [name for name, state, _ in self.rows if state == "damaged"]

    def report(self) -> str:
        """Return one line a part, and one a damage below it."""
        lines = []
        for name, state, found in self.rows:
            lines += [f"{name:<12}{state}", *(f"            {damage}" for damage in found)]
        return "\n".join(lines)

    def complain(self) -> None:
        """Raise a UserError that says what to do if a part is damaged."""
        if not self.damaged:
            return
        how = f"lrd run --config {self.root / 'config.yaml'} --output_dir {self.root}"
        if "config.yaml" in self.damaged:
            how = "delete config.yaml; then `lrd run` with the flags of this run"
        raise UserError(f"{self.root} is damaged: {', '.join(self.damaged)}. Only these are made again by: {how}")


def verify(root: Path) -> Checked:
    """Read every file of a run folder: configuration, teacher, store, student, evaluation, record.

    Raises:
        UserError: if the folder holds no run.
    """
    run = RunFolder(root)
    if not (root / "config.yaml").is_file() and not any((root / f"{phase}.done.json").exists() for phase in PHASES):
        raise UserError(f"{root} holds no run (no config.yaml)")
    listed = read_checksums(root) or {}
    rows = []
    try:
        config = load_config(yaml_path=root / "config.yaml")
    except UserError as error:
        return Checked(root, (("config.yaml", "damaged", (str(error),)),))
    rows.append(("config.yaml", *_state(damages(root, {k: v for k, v in listed.items() if k == "config.yaml"}))))
    for phase in config.needed_phases:
        marker = root / f"{phase}.done.json"
        if phase == "student" and run.has_discarded(config) and not run.damages(phase, config):
            rows.append((phase, "not kept", ("its results are in record.json",)))
        elif run.finished(phase, config) is not None:
            rows.append((phase, *_state(run.damages(phase, config))))
        elif not marker.exists():
            rows.append((phase, "not finished", (f"made by `lrd {COMMANDS[phase]}` or `lrd run`",)))
        elif read_sealed(marker) is None:
            rows.append((phase, "damaged", (f"{marker.name} is damaged",)))
        else:
            reason = f"{marker.name} belongs to another configuration, or what it was made from has changed"
            rows.append((phase, "damaged", (reason,)))
    if (root / "record.json").exists():
        found = damages(root, {name: listed[name] for name in SEALED if name == "record.json" and name in listed})
        try:
            read_record(root / "record.json")
        except UserError as error:
            found = [str(error)]
        rows.append(("record.json", *_state(found)))
    return Checked(root, tuple(rows))


def _state(found: list[str]) -> tuple[str, tuple[str, ...]]:
    return ("damaged" if found else "whole"), tuple(found)
