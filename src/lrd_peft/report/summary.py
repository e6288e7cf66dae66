"""What the records say in sentences and lines: verdict, costs, environment, commands. Draws nothing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from lrd_peft.config import RunConfig
from lrd_peft.records import Record
from lrd_peft.report.cells import Cell, against_ours, cells, dataset_order
from lrd_peft.report.main_table import Table, p_values, with_interval
from lrd_peft.report.results import QUICK, Study
from lrd_peft.report.style import OURS, dataset_label, in_order, method_style

SIGNIFICANT = 0.05


def verdict(records: Sequence[Record]) -> list[str]:
    """Return one sentence a data set: how latent-lora stands against each other method.

    In brackets stand the other's accuracy and p over the problems / over the seeds. "Above" and "below" need p < 0.05
    over the problems and, where there are several seeds, over the seeds too; all else is "not told apart from".
    """
    found = cells(records)
    tests = against_ours(found)
    sentences = []
    for dataset in dataset_order(found):
        ours = next((cell for cell in found if (cell.method, cell.dataset) == (OURS, dataset)), None)
        if ours is None:
            continue
        sides: dict[str, list[str]] = {"above": [], "not told apart from": [], "below": []}
        for method in in_order(cell.method for cell in found if cell.dataset == dataset and cell.method != OURS):
            test = tests[method, dataset]
            sure = test.p_problems < SIGNIFICANT and (test.p_seeds is None or test.p_seeds < SIGNIFICANT)
            side = "not told apart from" if not sure else "above" if test.difference > 0 else "below"
            other = next(cell for cell in found if (cell.method, cell.dataset) == (method, dataset))
            sides[side].append(f"{method_style(method).label} ({other.accuracy.mean:.1%}, p {p_values(test)})")
        parts = [f"{side} {_listed(names)}" for side, names in sides.items() if names]
        seeds = f"{ours.num_seeds} seed{'s' if ours.num_seeds > 1 else ''}"
        sentences.append(
            f"On {dataset_label(dataset)} {method_style(OURS).label} answers {with_interval(ours.accuracy)} of the "
            f"problems right ({seeds})" + (f": {'; '.join(parts)}." if parts else ".")
        )
    return sentences


def cost_table(records: Sequence[Record]) -> Table:
    """Return what the runs of each method used: mean seconds by phase, peak memory, parameters."""
    first: dict[str, Cell] = {}
    for cell in cells(records):
        if cell.costs:
            first.setdefault(cell.method, cell)
    phases = list(
        dict.fromkeys(phase for cell in first.values() for c in cell.costs.values() for phase in c.wall_seconds)
    )
    rows = []
    for method, cell in first.items():
        costs = list(cell.costs.values())
        memory = [each.peak_memory_bytes for each in costs if each.peak_memory_bytes is not None]
        rows.append(
            (
                method_style(method).label,
                *(
                    _seconds([each.wall_seconds[phase] for each in costs if phase in each.wall_seconds])
                    for phase in phases
                ),
                f"{sum(memory) / len(memory) / 2**20:,.0f} MiB" if memory else "",
                f"{costs[0].trainable_parameters:,}",
                f"{costs[0].total_parameters:,}",
            )
        )
    return Table(("method", *phases, "peak memory", "trained", "parameters"), tuple(rows))


def environment_lines(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Return (name, value) of what the numbers may depend on; values that differ between records all stand there."""
    values: dict[str, list[str]] = {}
    for record in records:
        for name, value in _flat(record.environment).items():
            if value not in values.setdefault(name, []):
                values[name].append(value)
    return [(name, "; ".join(found)) for name, found in sorted(values.items()) if found != ["None"]]


def commands(study: Study) -> list[str]:
    """Return what makes a study's records again: its own command, or one `lrd run` for each record."""
    if study.command is not None:
        return [study.command]
    if len(study.records) > 1:
        quick = " --quick" if study.name.endswith(QUICK) else ""
        return [f"lrd study {study.name.removesuffix(QUICK)}{quick}"]
    return [run_command(record.config) for record in study.records]


def run_command(config: Mapping[str, Any]) -> str:
    """Return the `lrd run` whose resolved configuration this is: every field that is not at its default."""
    words = ["lrd", "run"]
    for name, field in RunConfig.model_fields.items():
        value = config.get(name)
        default = field.default
        if name not in config or value == (list(default) if isinstance(default, tuple) else default):
            continue
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no_{name}")
        else:
            words += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return shlex.join(words)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _seconds(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):,.0f} s" if values else ""


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in row.items():
        flat.update(_flat(value, f"{name} ") if isinstance(value, Mapping) else {f"{prefix}{name}": str(value)})
    return flat
