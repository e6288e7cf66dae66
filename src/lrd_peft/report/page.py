"""The report as one self-contained HTML page: figures inlined, all text from data escaped."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lrd_peft.evaluation.ablation_results import Ablation
from lrd_peft.evaluation.decoded_thoughts import Answers
from lrd_peft.evaluation.probe_results import Probed
from lrd_peft.report.provenance import commands, environment_lines
from lrd_peft.report.study_records import StudyRecords
from lrd_peft.report.style import OURS, method_style
from lrd_peft.report.tables import cost_table, detail_table, main_table, tuning_table
from lrd_peft.report.thought_tables import ablation_summary, ablation_table, probe_summary, probe_table
from lrd_peft.report.verdict import headline, verdict


@dataclass(frozen=True, slots=True)
class PageFigure:
    """A drawn figure.

    Attributes:
        name: file name without extension.
        caption: what it shows.
        source: the studies it is drawn from, seeds and problems.
        png: the picture.
    """

    name: str
    caption: str
    source: str
    png: bytes


def render_page(
    main: StudyRecords,
    *,
    chart: bytes | None = None,
    studies: Mapping[str, StudyRecords],
    figures: Sequence[PageFigure],
    skipped: Sequence[str],
    reference: bool = False,
) -> str:
    """Return the page.

    Its Content-Security-Policy allows one style sheet and one script by their hashes and pictures from data URLs; it
    blocks network access, inline handlers and form targets.

    Args:
        main: the study of the verdict and table 1.
        chart: the chart of the verdict as PNG.
        studies: all of them, for the commands.
        figures: in the order of the page.
        skipped: a line for each figure that could not be drawn.
        reference: add SPEC.md's claims to the table, labeled.
    """
    # Files of the package; everything else on the page is data and is escaped.
    css, js = (Markup(_asset(name)) for name in ("page.css", "page.js"))
    policy = "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            f"style-src {_hash(css)}",
            f"script-src {_hash(js)}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    environment = Environment(
        loader=PackageLoader("lrd_peft.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["visible"] = lambda token: token.replace(" ", "␣").replace("\n", "↵")
    return environment.get_template("report.html.j2").render(
        title=f"LRD-PEFT: {main.title}",
        about=describe(main),
        policy=Markup(policy),  # hashes and constants only
        css=css,
        js=js,
        ours=method_style(OURS).label,
        headline=headline(main.records),
        chart=None if chart is None else base64.b64encode(chart).decode(),
        verdict=verdict(main.records),
        main=main_table(main.records, reference=reference),
        details=detail_table(main.records),
        figures=[
            {
                "name": figure.name,
                "caption": figure.caption,
                "source": figure.source,
                "png": base64.b64encode(figure.png).decode(),
            }
            for figure in figures
        ],
        skipped=skipped,
        cost=cost_table(main.records),
        studies=[
            {"title": study.title, "about": describe(study), "commands": commands(study)} for study in studies.values()
        ],
        environment=environment_lines([record for study in studies.values() for record in study.records]),
        ablations=[
            {"title": _looked_at(study, each, main), "verdict": each.verdict(), "table": ablation_table(each)}
            for study in studies.values()
            for each in (study.ablations.found if study.ablations else ())
        ],
        probes=[
            {"title": _looked_at(study, each, main), "verdict": each.verdict(), "table": probe_table(each)}
            for study in studies.values()
            for each in (study.probes.found if study.probes else ())
        ],
        ablated=[
            {"title": study.title, "table": ablation_summary(study.looks)}
            for study in studies.values()
            if study.looks.ablations
        ],
        probed=[
            {"title": study.title, "table": probe_summary(study.looks)}
            for study in studies.values()
            if study.looks.probes
        ],
        tuned=[{"title": study.title, "table": tuning_table(study.tuned)} for study in studies.values() if study.tuned],
        answers=main.answers,
        common=common_token(main.answers) if main.answers else None,
        datasets=sorted({each.dataset for each in main.answers.problems}) if main.answers else [],
    )


def _looked_at(study: StudyRecords, found: Ablation | Probed, main: StudyRecords) -> str:
    """Return the title of a table about thoughts; those of the main study do not name it."""
    title = f"{found.model} on {found.dataset}"
    return title if study is main else f"{study.title}: {title}"


def describe(*studies: StudyRecords) -> str:
    """Return where numbers come from: "methods: 40 records, 5 seeds, 500 held-out problems per set"."""
    sizes = sorted(
        {
            entry["summary"]["n"]
            for study in studies
            for record in study.records
            for part in record.metrics.values()
            for entry in part.values()
        }
    )
    records = sum(len(study.records) for study in studies)
    seeds = max(study.num_seeds for study in studies)
    return (
        f"{', '.join(study.name for study in studies)}: {_count(records, 'record')}, {_count(seeds, 'seed')}, "
        f"{' or '.join(map(str, sizes))} held-out problems per set."
    )


@dataclass(frozen=True, slots=True)
class CommonToken:
    """The token that the LM head assigns to most thoughts.

    Attributes:
        token: its text.
        count: thoughts of which it is the most probable token.
        total: all thoughts.
    """

    token: str
    count: int
    total: int


def common_token(answers: Answers) -> CommonToken | None:
    """Return the most frequent of the thoughts' most probable tokens; None without thoughts."""
    tops = Counter(thought[0].token for each in answers.problems for thought in each.thoughts if thought)
    if not tops:
        return None
    token, count = tops.most_common(1)[0]
    return CommonToken(token, count, tops.total())


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _asset(name: str) -> str:
    return (resources.files("lrd_peft.report") / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
