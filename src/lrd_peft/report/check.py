"""Numbers in prose that follow from records: marked by comments that readers do not see, checked or written anew.

A number, and what it must be, in a Markdown file:

    **77.3%** <!-- from results/demo.json: metrics.gsm-mini.base.summary.accuracy | percent -->

A table that is made from a record or a study's folder:

    <!-- table results/demo.json -->
    | set | method | ...
    <!-- /table -->

The key of a file is the path of names in its JSON. A folder is a study: its keys are those of `study_facts`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lrd_peft.errors import UserError, nearest
from lrd_peft.records import read_record
from lrd_peft.report.build import tables
from lrd_peft.report.cells import Cell, against_ours, cells
from lrd_peft.report.estimates import paired_test
from lrd_peft.report.main_table import main_table, p_text, run_table, sweep_table, value_label
from lrd_peft.report.results import Study, read_results, read_study

FORMATS: dict[str, Callable[[float], str]] = {
    "percent": lambda value: f"{value:.1%}",
    "percent0": lambda value: f"{value:.0%}",
    "integer": lambda value: f"{round(value):,}",
    "decimal1": lambda value: f"{value:.1f}",
    "decimal2": lambda value: f"{value:.2f}",
    "millions": lambda value: f"{value / 1e6:.2f}",
    "minutes": lambda value: f"{value / 60:.0f}",
    "milliseconds": lambda value: f"{value * 1000:.1f}",
    "p": p_text,
}

_NUMBER = re.compile(
    r"(?P<shown>[-+<]?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?%?)(?P<between>[*_`]*[ \t]*)"
    r"<!-- from (?P<source>[^:>]+): (?P<key>[^|>]+?) \| (?P<format>[\w]+) -->"
)
_MARK = re.compile(r"<!-- from\b.*?-->", re.DOTALL)
_BLOCK = re.compile(r"(<!-- table (?P<source>\S+) -->\n)(?P<body>.*?)(<!-- /table -->)", re.DOTALL)
_CODE = re.compile(r"^```.*?^```|^ {4}[^\n]*", re.DOTALL | re.MULTILINE)
_BLOCK_EDGE = re.compile(r"<!-- /?table\b")


def check(root: Path, *, update: bool = False) -> list[str]:
    """Return what in README.md, docs/*.md and the committed tables does not follow from the records.

    Args:
        root: the checkout: paths in marks begin there.
        update: write the right numbers and tables into the files, and say which files changed.

    Raises:
        UserError: if a mark cannot be read, or names a file, key or format that is not there.
    """
    found = []
    for path in sorted([root / "README.md", *(root / "docs").glob("*.md")]):
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        right, wrong = corrected(text, root=root, name=str(path.relative_to(root)))
        if update and right != text:
            path.write_text(right, encoding="utf-8")
            found.append(f"{path.relative_to(root)}: updated")
        elif not update:
            found += wrong
    return found if update else found + _tables_beside_figures(root)


def corrected(text: str, *, root: Path, name: str) -> tuple[str, list[str]]:
    """Return a text with every marked number and table as the records have it, and a line for each that was not.

    Raises:
        UserError: as `check`.
    """
    wrong: list[str] = []

    def number(match: re.Match[str]) -> str:
        value = _look_up(root, match["source"].strip(), match["key"].strip(), place=name)
        if match["format"] not in FORMATS:
            raise UserError(f"{name}: unknown format {match['format']}.{nearest(match['format'], FORMATS)}")
        shown = FORMATS[match["format"]](value)
        if shown != match["shown"]:
            line = text.count("\n", 0, match.start()) + 1
            wrong.append(f"{name}:{line}: {match['shown']} should be {shown} ({match['source']}: {match['key']})")
        return shown + match[0][len(match["shown"]) :]

    def block(match: re.Match[str]) -> str:
        body = _table(root, match["source"], place=name)
        if body != match["body"]:
            line = text.count("\n", 0, match.start()) + 1
            wrong.append(f"{name}:{line}: the table does not follow from {match['source']}; `lrd report --update`")
        return match[1] + body + match[4]

    # A mark in an example is none.
    text = _CODE.sub(lambda code: code[0].replace("<!--", "<!\0-"), text)
    ends = {found.end() for found in _NUMBER.finditer(text)}
    alone = [mark.group() for mark in _MARK.finditer(text) if mark.end() not in ends]
    if alone:
        raise UserError(f"{name}: no number stands before, or the form is wrong: {'; '.join(alone)}")
    if len(_BLOCK_EDGE.findall(text)) != 2 * len(_BLOCK.findall(text)):
        raise UserError(f"{name}: a <!-- table ... --> lacks its <!-- /table -->, or names no source")
    return _BLOCK.sub(block, _NUMBER.sub(number, text)).replace("<!\0-", "<!--"), wrong


def study_facts(study: Study) -> dict[str, Any]:
    """Return a study's numbers by name, for marks.

        accuracy.<data set>.<method>.mean (also low, high, num_seeds, num_problems)
        passes.<data set>.<method>, seconds_per_problem.<data set>.<method>
        against_ours.<data set>.<method>.difference (also p_problems, p_seeds): latent-lora less that method
        against_first.<data set>.<method>@<value>.difference (also p_problems, p_seeds): that value of the axis less the
            first one; of several fields, less the first value of the last field, the others being the same
        seconds.<phase>.total, seconds.<phase>.longest: over all records; a teacher or store that they share is in each
        num_records, num_seeds

    Where the study has an axis, "@" and the value follow the method: latent-lora@16.
    """
    facts: dict[str, Any] = {"num_records": len(study.records), "num_seeds": study.num_seeds}
    for phase in sorted({phase for record in study.records for phase in record.costs.wall_seconds}):
        times = [record.costs.wall_seconds.get(phase, 0.0) for record in study.records]
        facts.setdefault("seconds", {})[phase] = {"total": sum(times), "longest": max(times)}
    found = cells(study.records, by=study.axis, own=study.axis is not None)
    first: dict[tuple[Any, ...], Cell] = {}
    for cell in found:
        name = cell.method if study.axis is None else f"{cell.method}@{value_label(cell.value)}"
        _put(facts, ("accuracy", cell.dataset, name), asdict(cell.accuracy))
        _put(facts, ("passes", cell.dataset, name), cell.mean("mean_passes").mean)
        _put(facts, ("seconds_per_problem", cell.dataset, name), cell.mean("seconds_per_problem").mean)
        others = cell.value[:-1] if isinstance(cell.value, tuple) else ()
        other = first.setdefault((cell.method, cell.dataset, *map(value_label, others)), cell)
        if other is not cell:
            _put(facts, ("against_first", cell.dataset, name), asdict(paired_test(cell.outcomes, other.outcomes)))
    for (method, dataset), test in (against_ours(found) if study.axis is None else {}).items():
        _put(facts, ("against_ours", dataset, method), asdict(test))
    return facts


def _put(facts: dict[str, Any], keys: tuple[str, str, str], value: Any) -> None:
    facts.setdefault(keys[0], {}).setdefault(keys[1], {})[keys[2]] = value


def _look_up(root: Path, source: str, key: str, *, place: str) -> float:
    path = root / source
    if path.is_dir():
        value: Any = study_facts(read_study(path))
    elif path.is_file():
        value = json.loads(path.read_text(encoding="utf-8"))
    else:
        raise UserError(f"{place}: there is no {source}, from which a number is said to follow")
    names = key.split(".")
    while names:
        # A value on an axis may have a point in it: the longest name that is there counts.
        known = value if isinstance(value, Mapping) else {}
        taken = next((n for n in range(len(names), 0, -1) if ".".join(names[:n]) in known), 0)
        if not taken:
            raise UserError(f"{place}: {source} has no {key}: {names[0]} is not there.{nearest(names[0], known)}")
        value, names = known[".".join(names[:taken])], names[taken:]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{place}: {key} in {source} is no number but {type(value).__name__}")
    return value


def _table(root: Path, source: str, *, place: str) -> str:
    path = root / source
    if path.is_file():
        return run_table(read_record(path)).markdown()
    if not path.is_dir():
        raise UserError(f"{place}: there is no {source}, from which a table is said to follow")
    study = read_study(path)
    return (main_table(study.records) if study.axis is None else sweep_table(study.records, study.axis)).markdown()


def _tables_beside_figures(root: Path) -> list[str]:
    """Return the committed tables that the records no longer give; none where results or tables are missing."""
    folder = root / "enhanced_figures"
    if not folder.is_dir() or not (root / "results").is_dir():
        return []
    wrong = []
    for name, table in tables(read_results(root / "results")).items():
        for ending, text in (("md", table.markdown()), ("tex", table.latex()), ("csv", table.csv())):
            path = folder / f"{name}.{ending}"
            if path.is_file() and path.read_text(encoding="utf-8") != text:
                wrong.append(f"{path.relative_to(root)}: does not follow from the records; `make figures`")
    return wrong
