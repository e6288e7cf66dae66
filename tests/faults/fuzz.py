"""Coverage-guided fuzzing of what reads other people's bytes. Needs `pip install atheris`.

    python -m tests.faults.fuzz answers -max_total_time=60 -timeout=5

Targets: answers, rows, yaml, store. Anything but a UserError, or more than five seconds, is a find.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lrd_peft.runtime.errors import UserError

MODULES = {
    "answers": ["lrd_peft.evaluation.answers"],
    "rows": [
        "lrd_peft.data.file_formats",
        "lrd_peft.data.layouts",
        "lrd_peft.data.row_parsing",
        "lrd_peft.data.sentences",
        "lrd_peft.data.problem_sets",
    ],
    "yaml": ["lrd_peft.config.load", "lrd_peft.config.messages", "lrd_peft.config.schema"],
    "store": ["lrd_peft.store.journal", "lrd_peft.store.format", "lrd_peft.store.reader"],
}


def answers(folder: Path) -> Callable[[bytes], None]:
    from lrd_peft.evaluation.answers import ANSWER_KINDS, equal, extract_answer

    def target(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        for kind in ANSWER_KINDS:
            found = extract_answer(kind, text)
            if kind != "math":  # another process compares those
                with contextlib.suppress(UserError):
                    equal(kind, found.value, text)

    return target


def rows(folder: Path) -> Callable[[bytes], None]:
    from lrd_peft.data.problem_sets import load_problems

    def target(data: bytes) -> None:
        path = folder / ("rows.tsv" if data[:1] == b"t" else "rows.jsonl")
        path.write_bytes(data[1:])
        with contextlib.suppress(UserError):
            load_problems(path, split="all")

    return target


def yaml(folder: Path) -> Callable[[bytes], None]:
    from lrd_peft.config.load import load_config

    def target(data: bytes) -> None:
        (folder / "recipe.yaml").write_bytes(data)
        with contextlib.suppress(UserError):
            load_config(yaml_path=folder / "recipe.yaml")

    return target


def store(folder: Path) -> Callable[[bytes], None]:
    """The first byte says which file of a small store the rest replaces."""
    from lrd_peft.store import Store
    from lrd_peft.store.journal import read_journals
    from tests.store import made

    made.make(folder / "store")
    files = {path: path.read_bytes() for path in sorted((folder / "store").iterdir())}

    def target(data: bytes) -> None:
        path = list(files)[(data or b"\0")[0] % len(files)]
        good = files[path]
        body = data[1:]
        path.write_bytes((body + good[len(body) :])[: len(good)])
        try:
            with contextlib.suppress(UserError):
                read_journals(folder / "store")
            with contextlib.suppress(UserError):
                opened = Store.open(folder / "store")
                opened.verify()
                for index in range(len(opened)):
                    assert opened[index]["hidden_states"]
        finally:
            path.write_bytes(good)

    return target


def main() -> None:
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError:
        sys.exit("fuzzing needs atheris: pip install atheris")
    name = (
        sys.argv.pop(1) if len(sys.argv) > 1 and sys.argv[1] in MODULES else sys.exit(f"targets: {', '.join(MODULES)}")
    )
    with atheris.instrument_imports(include=MODULES[name]):
        for module in MODULES[name]:
            importlib.import_module(module)
    with tempfile.TemporaryDirectory(prefix="lrd-fuzz-") as folder:
        target = {"answers": answers, "rows": rows, "yaml": yaml, "store": store}[name](Path(folder))
        atheris.Setup(sys.argv, target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
