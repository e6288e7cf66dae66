"""The whole report from a folder of records, and its page in a browser."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest

from lrd_peft.cli import app as cli
from lrd_peft.report.figures.catalogue import CATALOGUE
from lrd_peft.report.page import render_page
from lrd_peft.report.study_records import read_results
from lrd_peft.report.write_report import write_report
from lrd_peft.runtime.errors import UserError
from tests.report import made
from tests.report.browser import Browser, needs_browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with problems, one of which tries to break out of it."""
    folder = tmp_path_factory.mktemp("page")
    made.all_studies(folder / "results", seeds=1)
    studies = read_results(folder / "results")
    text = render_page(studies["methods"], studies=studies, figures=[], skipped=["fig0: <b>none</b>"])
    (folder / "report.html").write_text(text, encoding="utf-8")
    return folder / "report.html"


def test_text_from_data_is_escaped(page: Path) -> None:
    text = page.read_text("utf-8")
    assert "&lt;script&gt;window.broken = 1&lt;/script&gt;" in text
    assert text.count("<script>") == 1
    assert "<img src=x" not in text
    assert "<b>none</b>" not in text
    # what models make up is no safer than what data sets hold: a step, a token, an option, a name, an answer
    for number in range(2, 7):
        assert f"&lt;b&gt;{number}&lt;/b&gt;" in text and f"<b>{number}" not in text
    assert 'data-set="&#34;&gt;&lt;b&gt;6&lt;/b&gt;"' in text


def test_the_policy_allows_the_pages_own_style_and_script_and_nothing_else(page: Path) -> None:
    text = page.read_text("utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy[1]
    for tag in ("style", "script"):
        found = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert found is not None
        digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy[1]
    assert not re.search(r"""\b(?:src|href)=["'](?!data:|#)""", text)
    assert " style=" not in text


def test_without_answers_there_is_no_page_of_problems() -> None:
    studies = read_results(Path(__file__).parents[2] / "results")
    text = render_page(studies["demo"], studies=studies, figures=[], skipped=[])
    assert 'id="problems"' not in text and 'href="#problems"' not in text and "Problems, one by one" not in text
    accuracy = studies["demo"].records[0].metrics["gsm-mini"]["latent-lora"]["summary"]["accuracy"]
    assert f"On gsm-mini Latent + LoRA (ours) answers {accuracy:.1%}" in text
    assert '<p class="verdict">Latent + LoRA (ours) needs' in text


@needs_browser
@pytest.mark.slow
def test_the_page_filters_in_a_browser_without_a_complaint(page: Path, tmp_path: Path) -> None:
    shown = "[...document.querySelectorAll('details.problem')].filter((each) => each.offsetParent !== null).length"
    change = "{0}.value = '{1}'; {0}.dispatchEvent(new Event('input', {{bubbles: true}}))"
    field = "document.querySelector('[name={}]')"
    with Browser(tmp_path) as browser:
        browser.open(page)
        assert browser.run(shown) == 13
        browser.run(change.format(field.format("dataset"), "aqua-mini"))
        assert browser.run(shown) == 4
        browser.run(change.format(field.format("outcome"), "right"))
        assert browser.run(shown) == 2
        assert browser.run("document.getElementById('count').textContent") == "2 of 13 problems"
        browser.run(change.format(field.format("text"), "has 8 PENS"))
        assert browser.run(shown) == 1
        assert browser.run("typeof window.broken") == "undefined"
        assert browser.run("document.querySelectorAll('b').length") == 0
        assert browser.run("getComputedStyle(document.querySelector('main')).fontFamily").startswith("system-ui")
        assert browser.complaints == []


@needs_browser
@pytest.mark.slow
def test_the_page_is_whole_without_javascript(page: Path, tmp_path: Path) -> None:
    with Browser(tmp_path, javascript=False) as browser:
        browser.open(page)
        assert browser.picture().startswith(b"\x89PNG")
        assert browser.complaints == []
        nodes = browser.visible_text()
    assert "Ann has 11 pens" in nodes
    assert "of 13 problems" not in nodes


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_everything_is_drawn(tmp_path: Path) -> None:
    results = made.all_studies(tmp_path / "results", seeds=2)
    lines = write_report(results, tmp_path / "out")
    assert [line for line in lines if line.startswith("skipped")] == []
    drawn = {path.name for path in (tmp_path / "out").iterdir()}
    for entry in CATALOGUE:
        assert {f"{entry.file}.png", f"{entry.file}.pdf"} <= drawn
    assert {f"table1_main_results.{ending}" for ending in ("md", "tex", "csv")} <= drawn
    assert {"study_differences.png", "table_alpha.md", "report.html"} <= drawn
    assert not [name for name in drawn if name.startswith(".")]
    text = (tmp_path / "out" / "report.html").read_text("utf-8")
    # table 1 is text there; the verdict has a chart, and the positions are in the figure of differences
    assert text.count('src="data:image/png;base64,') == len(CATALOGUE) + 1


@pytest.mark.slow
def test_a_record_alone_gives_what_it_can_twice_the_same_and_says_what_it_cannot(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fig3_alpha_sensitivity.png").write_bytes(b"old")
    assert cli.main(["report", str(root / "results" / "demo.json"), "--output_dir", str(tmp_path)]) is None
    said = capsys.readouterr().out
    assert (
        'skipped  fig3_alpha_sensitivity: no records of the study "alpha" (the existing file is from an earlier report)'
        in said
    )
    assert "drawn    fig7_domain_performance  demo: 1 record, 1 seed, 500 held-out problems per set." in said
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "<pre>lrd run --teacher tiny-latent-teacher --student teacher:4" in page
    assert (tmp_path / "fig7_domain_performance.pdf").read_bytes().startswith(b"%PDF")
    again = tmp_path / "again"
    assert cli.main(["report", str(root / "results" / "demo.json"), "--output_dir", str(again)]) is None
    drawn = list(again.iterdir())
    assert len(drawn) > 10
    for path in drawn:
        if path.name != "report.html":  # names the file that is there from an earlier report
            assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_no_records_is_a_plain_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="`lrd report runs/demo`"):
        write_report(tmp_path / "none", tmp_path / "out")
    assert cli.main(["report", str(tmp_path)]) == cli.USER_ERROR
    assert "there is no record in" in capsys.readouterr().err
