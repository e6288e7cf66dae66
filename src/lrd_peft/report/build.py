"""`lrd report`: results in, a folder of figures, tables and the page out. Draws nothing itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from lrd_peft.progress import Progress
from lrd_peft.report.cells import NothingToDraw
from lrd_peft.report.figures.canvas import to_pdf, to_png
from lrd_peft.report.figures.catalogue import METHODS, draw, entries_for, in_preference
from lrd_peft.report.main_table import Table, main_table, sweep_table
from lrd_peft.report.page import PageFigure, describe, render_page
from lrd_peft.report.results import Study, read_results

# Sharp enough on a screen, a quarter of the size of the printed one.
PAGE_DPI = 150


def build(place: Path, output: Path, *, reference: bool = False) -> list[str]:
    """Write every figure (PNG at 300 DPI and PDF), table (Markdown, LaTeX, CSV) and report.html into a folder.

    The same records give the same bytes with the same version of matplotlib.

    Args:
        place: a results folder, a run folder or a record.
        output: the folder; made if it is not there.
        reference: add SPEC.md's claims where they have room, labelled.

    Returns:
        A line for each figure, drawn or not, and for the page.

    Raises:
        UserError: if there are no records, or a file of results is damaged.
    """
    studies = read_results(place)
    output.mkdir(parents=True, exist_ok=True)
    entries, lines, skipped, figures = entries_for(studies), [], [], []
    with Progress("figures", total=len(entries), unit="figures") as progress:
        for done, entry in enumerate(entries):
            progress.update(done, entry.file)
            files = [output / f"{entry.file}.{ending}" for ending in ("png", "pdf")]
            try:
                figure, study = draw(entry, studies, reference=reference)
            except NothingToDraw as error:
                old = " (the file there is from before)" if any(path.exists() for path in files) else ""
                skipped.append(f"{entry.file}: {error}")
                lines.append(f"skipped  {entry.file}: {error}{old}")
                continue
            _write(files[0], to_png(figure))
            _write(files[1], to_pdf(figure))
            if entry.draw_on_page:
                figures.append(PageFigure(entry.file, entry.caption, describe(study), to_png(figure, dpi=PAGE_DPI)))
            lines.append(f"drawn    {entry.file}  {describe(study)}")
    for name, table in tables(studies, reference=reference).items():
        _write(output / f"{name}.md", table.markdown().encode())
        _write(output / f"{name}.tex", table.latex().encode())
        _write(output / f"{name}.csv", table.csv().encode())
        lines.append(f"written  {name}.md, .tex, .csv")
    page = render_page(main_study(studies), studies=studies, figures=figures, skipped=skipped, reference=reference)
    _write(output / "report.html", page.encode())
    return [*lines, f"written  {output / 'report.html'}"]


def tables(studies: Mapping[str, Study], *, reference: bool = False) -> dict[str, Table]:
    """Return file name -> table: table 1 from the main study, and one for each study with an axis."""
    found = {"table1_main_results": main_table(main_study(studies).records, reference=reference)}
    for study in studies.values():
        if study.axis is not None:
            found[f"table_{study.name}"] = sweep_table(study.records, study.axis)
    return found


def main_study(studies: Mapping[str, Study]) -> Study:
    """Return the study of verdict and table: `methods`, else the demo, else the first."""
    return next(iter([*in_preference(METHODS, studies), *studies.values()]))


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)
