"""The report as one HTML page that loads nothing: figures inlined, all text from data escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lrd_peft.report.main_table import main_table
from lrd_peft.report.results import Study
from lrd_peft.report.style import OURS, method_style
from lrd_peft.report.summary import commands, cost_table, environment_lines, verdict


@dataclass(frozen=True, slots=True)
class PageFigure:
    """A drawn figure.

    Attributes:
        name: its file's name without ending.
        caption: what one sees.
        source: the study it is from, seeds and problems.
        png: the picture.
    """

    name: str
    caption: str
    source: str
    png: bytes


def render_page(
    main: Study,
    *,
    studies: Mapping[str, Study],
    figures: Sequence[PageFigure],
    skipped: Sequence[str],
    reference: bool = False,
) -> str:
    """Return the page.

    Its Content-Security-Policy allows the one style sheet and the one script by their hashes, pictures from data URLs,
    and nothing else: no network, no inline handler, no form target.

    Args:
        main: the study of verdict and table.
        studies: all of them, for the commands.
        figures: in the page's order.
        skipped: a line for each figure that could not be drawn.
        reference: add SPEC.md's claims to the table, labelled.
    """
    # The package's own files; everything else on the page is data and is escaped.
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
        verdict=verdict(main.records),
        main=main_table(main.records, reference=reference),
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
        answers=main.answers,
        datasets=sorted({each.dataset for each in main.answers.problems}) if main.answers else [],
    )


def describe(study: Study) -> str:
    """Return where numbers come from: "methods: 40 records, 5 seeds, 500 held-out problems a set"."""
    sizes = sorted(
        {
            entry["summary"]["n"]
            for record in study.records
            for part in record.metrics.values()
            for entry in part.values()
        }
    )
    return (
        f"{study.name}: {_count(len(study.records), 'record')}, {_count(study.num_seeds, 'seed')}, "
        f"{' or '.join(map(str, sizes))} held-out problems a set."
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _asset(name: str) -> str:
    return (resources.files("lrd_peft.report") / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
