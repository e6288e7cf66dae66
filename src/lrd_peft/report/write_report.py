"""`lrd report`: write the figures, tables and HTML page of a folder of results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lrd_peft.report.cells import NothingToDraw
from lrd_peft.report.figures.baseline import verdict_chart
from lrd_peft.report.figures.canvas import to_pdf, to_png
from lrd_peft.report.figures.catalogue import MAIN_STUDIES, draw_figure, entries_for, in_preference
from lrd_peft.report.page import PageFigure, describe, render_page
from lrd_peft.report.study_records import StudyRecords, read_results
from lrd_peft.report.tables import Table, detail_table, main_table, sweep_table, tuning_table
from lrd_peft.report.thought_tables import ablation_summary, ablation_table, probe_summary, probe_table
from lrd_peft.runtime.json_files import write_atomic
from lrd_peft.runtime.progress import Progress

# Sharp on a screen, also when a phone opens the figure alone.
PAGE_DPI = 150


def write_report(place: Path, output: Path, *, reference: bool = False) -> list[str]:
    """Write every figure (PNG at 300 DPI and PDF), table (Markdown, LaTeX, CSV) and report.html into a folder.

    The same records give the same bytes with the same version of matplotlib.

    Args:
        place: a results folder, a run folder or a record.
        output: the folder to write to, created if necessary.
        reference: add SPEC.md's claims where there is room, labeled.

    Returns:
        A line for each figure, drawn or not, each table and the page.

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
                figure, drawn_from = draw_figure(entry, studies, reference=reference)
            except NothingToDraw as error:
                old = " (the existing file is from an earlier report)" if any(path.exists() for path in files) else ""
                skipped.append(f"{entry.file}: {error}")
                lines.append(f"skipped  {entry.file}: {error}{old}")
                continue
            write_atomic(files[0], to_png(figure))
            write_atomic(files[1], to_pdf(figure))
            if entry.draw_on_page:
                figures.append(
                    PageFigure(entry.file, entry.caption, describe(*drawn_from), to_png(figure, dpi=PAGE_DPI))
                )
            lines.append(f"drawn    {entry.file}  {describe(*drawn_from)}")
    for name, table in all_tables(studies, reference=reference).items():
        write_atomic(output / f"{name}.md", table.markdown().encode())
        write_atomic(output / f"{name}.tex", table.latex().encode())
        write_atomic(output / f"{name}.csv", table.csv().encode())
        lines.append(f"written  {name}.md, .tex, .csv")
    chart = to_png(verdict_chart(main_study(studies).records), dpi=PAGE_DPI)
    page = render_page(
        main_study(studies), chart=chart, studies=studies, figures=figures, skipped=skipped, reference=reference
    )
    write_atomic(output / "report.html", page.encode())
    return [*lines, f"written  {output / 'report.html'}"]


def all_tables(studies: Mapping[str, StudyRecords], *, reference: bool = False) -> dict[str, Table]:
    """Return file name -> table: table 1 and its details from the main study, and one for each study with an axis."""
    records = main_study(studies).records
    found = {
        "table1_main_results": main_table(records, reference=reference),
        "table1_details": detail_table(records),
    }
    for study in studies.values():
        of = "" if study is main_study(studies) else f"{study.name}_"
        for each in study.ablations.found if study.ablations else ():
            found[f"ablation_{of}{each.model}_{each.dataset.replace('/', '-')}"] = ablation_table(each)
        for one in study.probes.found if study.probes else ():
            found[f"probe_{of}{one.model}_{one.dataset.replace('/', '-')}"] = probe_table(one)
        if study.looks.ablations:
            found[f"ablations_{study.name}"] = ablation_summary(study.looks)
        if study.looks.probes:
            found[f"probes_{study.name}"] = probe_summary(study.looks)
        if study.tuned:
            found[f"tuning_{study.name}"] = tuning_table(study.tuned)
    for study in studies.values():
        if study.axis is not None:
            found[f"table_{study.name}"] = sweep_table(study.records, study.axis)
    return found


def main_study(studies: Mapping[str, StudyRecords]) -> StudyRecords:
    """Return the study of the verdict and table 1: `methods`, else the demo, else the first."""
    return next(iter([*in_preference(MAIN_STUDIES, studies), *studies.values()]))
