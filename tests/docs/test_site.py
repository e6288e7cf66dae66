"""The site: builds strictly, and a browser shows every page without errors, network requests or sideways scrolling."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.browser import Browser, needs_browser

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CONFIG = "mkdocs.yml"


class Reader(Browser):
    """A browser that also notes what its pages request.

    Attributes:
        requests: addresses that were requested.
    """

    def __init__(self, profile: Path) -> None:
        self.requests: list[str] = []
        super().__init__(profile)
        self._ask("Network.enable")
        self._ask("Emulation.setFocusEmulationEnabled", enabled=True)

    def _receive(self) -> dict[str, Any]:
        row = super()._receive()
        if row.get("method") == "Network.requestWillBeSent":
            self.requests.append(row["params"]["request"]["url"])
        return row


@pytest.fixture(scope="module")
def site(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="the docs extra is not installed: make install")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--config-file", CONFIG, "-d", str(folder)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root / "src"), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def reader(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    browser = Reader(tmp_path_factory.mktemp("profile"))
    with browser:
        yield browser


def pages(site: Path) -> list[Path]:
    return [path for path in sorted(site.rglob("*.html")) if path.name != "404.html"]


def test_every_page_is_built(site: Path) -> None:
    built = {path.relative_to(site).as_posix() for path in pages(site)}
    assert {
        "index.html",
        "quickstart.html",
        "concepts.html",
        "methods.html",
        "results.html",
        "changelog.html",
        "how-to/own-data.html",
        "reference/cli.html",
        "reference/api.html",
        "tutorials/read_what_a_thought_holds.html",
    } <= built


def test_the_references_are_generated_from_the_program(site: Path) -> None:
    import lrd_peft
    from lrd_peft.cli.app import COMMANDS

    command_line = (site / "reference" / "cli.html").read_text("utf-8")
    assert [name for name in COMMANDS if f"lrd {name}" not in command_line] == []
    assert "--distill_alpha" in command_line
    interface = (site / "reference" / "api.html").read_text("utf-8")
    public = [name for name in lrd_peft.__all__ if not name.startswith("_")]
    assert [name for name in public if f'id="lrd_peft.{name}"' not in interface] == []


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_load_alone_and_fit(reader: Reader, site: Path, width: int) -> None:
    reader.resize(width)
    reader.requests.clear()
    too_wide = {}
    for page in pages(site):
        reader.open(page)
        shown = reader.run("document.documentElement.scrollWidth")
        if shown > width:
            too_wide[page.name] = shown
        assert reader.run("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)") == [], page
    assert too_wide == {}
    assert reader.complaints == []
    outside = [url for url in reader.requests if not url.startswith(("file:", "data:", "blob:", "about:"))]
    assert outside == []


@needs_browser
def test_formulas_are_drawn(reader: Reader, site: Path) -> None:
    reader.resize(1280)
    reader.open(site / "methods.html")
    heights = reader.run(
        "[...document.querySelectorAll('math[display=block]')].map(m => m.getBoundingClientRect().height)"
    )
    assert len(heights) >= 10
    assert min(heights) > 15
    # A fraction is drawn as one: taller than a line of text.
    assert reader.run("document.querySelector('math mfrac').getBoundingClientRect().height") > 20
    text = reader.run("document.querySelector('article').innerText")
    assert "$" not in text and "\\frac" not in text


@needs_browser
def test_search_finds_a_page(reader: Reader, site: Path) -> None:
    reader.resize(1280)
    reader.open(site / "index.html")
    typed = "(i => { i.focus(); i.value = 'curriculum'; i.dispatchEvent(new KeyboardEvent('keyup')); })"
    found = 0
    for _ in range(40):
        reader.run(f"{typed}(document.querySelector('.md-search__input'))")
        time.sleep(0.25)
        found = reader.run("document.querySelectorAll('.md-search-result__item').length")
        if found:
            break
    assert found > 0
