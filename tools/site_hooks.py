"""MkDocs hooks: generate the reference, tutorial and changelog pages from their sources."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = ("distill_your_first_latent_reasoner", "read_what_a_thought_holds")
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the generated pages and the figures that pages show."""
    pages = {f"tutorials/{name}.md": notebook_page(ROOT / "notebooks" / f"{name}.ipynb") for name in TUTORIALS}
    pages |= {
        "reference/cli.md": cli_page(),
        "reference/api.md": api_page(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    for path in sorted((ROOT / "enhanced_figures").glob("*.png")):
        files.append(File.generated(config, f"assets/figures/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point figures at their copies, and keep only the text of links to files outside docs/."""
    here = posixpath.dirname(page.file.src_uri)

    def replaced(link: re.Match[str]) -> str:
        target = link["target"]
        if re.match(r"[a-z]+:|#|/", target):
            return link[0]
        path = posixpath.normpath(posixpath.join(here, target))
        if path.startswith("../enhanced_figures/") and path.endswith(".png"):
            copy = posixpath.relpath(f"assets/figures/{posixpath.basename(path)}", here or ".")
            return f"{link['image']}[{link['text']}]({copy})"
        if path.startswith(".."):
            return link["text"]
        return link[0]

    return _outside_code(markdown, lambda text: _LINK.sub(replaced, text))


def on_post_page(output: str, *, page: Page, config: MkDocsConfig) -> str:
    """Load the worker of the search from the site itself instead of from a content delivery network."""
    local = posixpath.relpath("assets/file_worker.js", posixpath.dirname(page.file.dest_uri) or ".")
    return output.replace("https://unpkg.com/iframe-worker/shim", local)


def cli_page() -> str:
    """Return the command line reference: what each command's `--help-all` or `--help` prints."""
    sys.path.insert(0, str(ROOT / "src"))
    from lrd_peft.cli.app import COMMANDS

    parts = [
        "# Command line",
        "Generated from the parser. `lrd` and `python -m lrd_peft` are the same program. Every setting is also a key "
        "of a YAML file for `--config`; flags override YAML, YAML overrides the defaults.",
        "Shell completion: `lrd --print-completion bash > ~/.local/share/bash-completion/completions/lrd` "
        "(also `zsh` and `fish`).",
        f"```text\n{_printed('--help')}\n```",
    ]
    for name in COMMANDS:
        parts += [f"## lrd {name}", f"```text\n{_help(name)}\n```"]
    return "\n\n".join(parts) + "\n"


def api_page() -> str:
    """Return the API reference: one entry for each public name of the package."""
    sys.path.insert(0, str(ROOT / "src"))
    import lrd_peft

    names = [name for name in lrd_peft.__all__ if not name.startswith("_")]
    parts = [
        "# Python API",
        "Everything here is imported from `lrd_peft`, for example `from lrd_peft import StudentModel`. "
        "Importing the package does not load PyTorch; each name is loaded on first use.",
        *(f"::: lrd_peft.{name}" for name in names),
    ]
    return "\n\n".join(parts) + "\n"


def notebook_page(path: Path) -> str:
    """Return a notebook with its stored outputs as Markdown."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"]).rstrip()
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code":
            parts.append(f"```python\n{source}\n```")
            parts += [shown for output in cell["outputs"] if (shown := _output(output))]
    return "\n\n".join(parts) + f"\n\nThe notebook: `notebooks/{path.name}`.\n"


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        picture = "".join(data["image/png"]).replace("\n", "")
        base64.b64decode(picture, validate=True)
        return f'<img alt="figure" src="data:image/png;base64,{picture}">'
    text = "".join(output.get("text", data.get("text/plain", ""))).rstrip()
    return f"```text\n{_ANSI.sub('', text)}\n```" if text else ""


def _help(command: str) -> str:
    full = _printed(command, "--help-all")
    return full if full and not full.startswith("lrd: error") else _printed(command, "--help")


def _printed(*arguments: str) -> str:
    """Return what `lrd` prints with these arguments, on a terminal of 100 columns without colors."""
    from lrd_peft.cli.app import main

    settings = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), contextlib.suppress(SystemExit):
            main(list(arguments))
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
    return _ANSI.sub("", printed.getvalue()).strip()


def _outside_code(markdown: str, change: Any) -> str:
    parts = re.split(r"(^```.*?^```|`[^`\n]+`)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if index % 2 else change(part) for index, part in enumerate(parts))
