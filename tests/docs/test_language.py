"""The Markdown files are readable as they are: lines of at most 120 characters, and plain English."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MARKDOWN = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
MAX_WIDTH = 120
# Tables between these markers are generated, and as wide as their records need.
GENERATED = re.compile(r"<!-- (table|ratios|architectures)\b.*?<!-- /\1 -->", re.DOTALL)
STILTED = (
    r"made anew",
    r"written anew",
    r"goes? on where",
    r"what is none",
    r"none of (ours|theirs)",
    r"so many of",
    r"at most so many",
    r"is had",
    r"not told apart",
    r"the very \w+ that",
    r"beside (it|them|the student|the run)",
    r"whose \w+ that",
    r"distil\b",
    r"distils\b",
    r"learnt",
    r"neighbour",
    r"normalis",
    r"initialis",
    r"Knows no",
)


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_lines_are_short(path: Path) -> None:
    text = GENERATED.sub(lambda block: "\n" * block[0].count("\n"), path.read_text("utf-8"))
    lines = enumerate(text.split("\n"), start=1)
    # A row of a table cannot be wrapped.
    long = {number: len(line) for number, line in lines if len(line) > MAX_WIDTH and not line.startswith("| ")}
    assert long == {}


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_stilted_words(path: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", GENERATED.sub("", path.read_text("utf-8")), flags=re.DOTALL | re.MULTILINE)
    text = " ".join(prose.split())
    found = [match[0] for words in STILTED for match in re.finditer(rf"\b{words}", text)]
    assert found == []


def test_the_main_files_are_there() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in MARKDOWN}
    assert {"README.md", "docs/quickstart.md", "docs/how-to/own-data.md", "docs/methods.md", "docs/log.md"} <= names


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_to_files_exist(path: Path) -> None:
    # These are generated while the site is built.
    generated = {"tutorials", "reference/cli.md", "reference/api.md", "changelog.md"}
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:|#", target):
            continue
        file = (path.parent / target.partition("#")[0]).resolve()
        name = file.relative_to(ROOT / "docs").as_posix() if file.is_relative_to(ROOT / "docs") else ""
        if not file.exists() and name not in generated and name.partition("/")[0] not in generated:
            broken.append(target)
    assert broken == []
