"""Generate the maps of the code in README.md and CONTRIBUTING.md: `python -m tools.house_map check|update`.

Descriptions are the first sentences of module docstrings; the order of layers is that of the import contract in
pyproject.toml. A map stands between two markers, `<!-- tree -->` or `<!-- layers -->` and `<!-- /tree -->` or
`<!-- /layers -->`.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

PACKAGE = Path("src/lrd_peft")
WIDTH = 118
# Folders without a module docstring.
_FOLDERS = {
    "main.py": "the command line of a checkout, without installing it",
    "docs/": "sources of the documentation site",
    "notebooks/": "two tutorials, and the figures cell by cell",
    "results/": "the records behind every number",
    "tests/": "mirrors the package",
}


def main(arguments: list[str]) -> int:
    """Run `check` or `update` in the current folder and return the exit status."""
    if arguments not in (["check"], ["update"]):
        print("usage: python -m tools.house_map check|update", file=sys.stderr)
        return 2
    stale = update(Path.cwd(), write=arguments == ["update"])
    if arguments == ["update"]:
        print("\n".join(f"{name}: updated" for name in stale) or "nothing to update")
        return 0
    for name in stale:
        print(f"{name}: the map of the code is out of date: python -m tools.house_map update", file=sys.stderr)
    if not stale:
        print("the maps of the code are up to date")
    return 1 if stale else 0


def update(root: Path, *, write: bool = True) -> list[str]:
    """Regenerate the maps.

    Args:
        root: The checkout.
        write: Write the files; otherwise only compare.

    Returns:
        The files whose map was out of date.
    """
    stale = []
    maps: tuple[tuple[str, str, Callable[[Path], str]], ...] = (
        ("README.md", "tree", tree),
        ("CONTRIBUTING.md", "layers", layers),
    )
    for name, marker, make in maps:
        path = root / name
        text = path.read_text(encoding="utf-8")
        block = re.search(rf"(?<=<!-- {marker} -->\n).*?(?=<!-- /{marker} -->)", text, re.DOTALL)
        assert block, f"{name} has no marker <!-- {marker} -->"
        new = f"{text[: block.start()]}```text\n{make(root)}\n```\n{text[block.end() :]}"
        if new != text:
            stale.append(name)
            if write:
                path.write_text(new, encoding="utf-8")
    return stale


def tree(root: Path) -> str:
    """Return the tree of README.md: each top-level folder and each room of the package, with one phrase."""
    rows = [("main.py", _FOLDERS["main.py"]), (f"{PACKAGE}/", summary(root / PACKAGE / "__init__.py"))]
    for room in rooms(root):
        rows.append((f"  {room}", summary(_home(root, room))))
    rows.append(("  recipes/", "YAML configurations and studies that ship with the package"))
    rows += [(f"{name}/", summary(root / name / "__init__.py")) for name in ("tools", "benchmarks")]
    rows += [row for row in _FOLDERS.items() if row[0] != "main.py"]
    return _table(rows)


def layers(root: Path) -> str:
    """Return the map of CONTRIBUTING.md: the layers of the import contract from top to bottom, with their rooms."""
    rows = []
    for names in _layers(root):
        for index, name in enumerate(names):
            room = next(room for room in rooms(root) if room.rstrip("/").removesuffix(".py") == name)
            rows.append((("  " if index else "") + room, summary(_home(root, room))))
    return _table(rows)


def rooms(root: Path) -> list[str]:
    """Return the packages and modules at the top of the package, in the order of the layers: "data/", "lora.py"."""
    order = [name for names in _layers(root) for name in names]
    found = {path.parent.name: f"{path.parent.name}/" for path in (root / PACKAGE).glob("*/__init__.py")}
    found |= {path.stem: path.name for path in (root / PACKAGE).glob("[!_]*.py")}
    assert set(found) == set(order), f"rooms and layers differ: {sorted(set(found) ^ set(order))}"
    return [found[name] for name in order]


def summary(path: Path) -> str:
    """Return the first sentence of a module's docstring, without its period."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert text, f"{path} has no docstring"
    return re.split(r"\.(?:\s|$)", " ".join(text.split("\n\n")[0].split()), maxsplit=1)[0]


def _layers(root: Path) -> list[list[str]]:
    # Python 3.10 has no tomllib; the contract is a plain list of strings.
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^layers = \[\n(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert block, "pyproject.toml has no import contract with layers"
    return [re.findall(r"\w+", layer) for layer in re.findall(r'"([^"]+)"', block[1])]


def _home(root: Path, room: str) -> Path:
    path = root / PACKAGE / room
    return path / "__init__.py" if room.endswith("/") else path


def _table(rows: list[tuple[str, str]]) -> str:
    column = max(len(name) for name, _ in rows) + 2
    indent = " " * column
    return "\n".join(
        textwrap.fill(text, WIDTH, initial_indent=name.ljust(column), subsequent_indent=indent) for name, text in rows
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
