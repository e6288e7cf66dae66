"""The command line in a checkout: `python main.py --epochs 3` is `lrd run --epochs 3`.

Any other command of `lrd` goes first: `python main.py evaluate ...`. Needs no installation of
the package itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

_SOURCE = str(Path(__file__).resolve().parent / "src")


def main() -> int | None:
    """Run the command line, with `run` as the command where none is named."""
    if _SOURCE not in sys.path:
        sys.path.insert(0, _SOURCE)
    from lrd_peft.cli.app import main as lrd

    arguments = sys.argv[1:]
    named = bool(arguments) and not arguments[0].startswith("-")
    return lrd(arguments if named else ["run", *arguments])


if __name__ == "__main__":
    sys.exit(main())
