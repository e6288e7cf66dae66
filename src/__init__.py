"""In a checkout, `src.model`, `src.lora`, ... are other names of `lrd_peft.model`, `lrd_peft.lora`, ...

The very same module objects, so that a class imported by one name is the class imported by the other. Needs
no installation. Knows nothing of what the modules hold; the installed package is `lrd_peft` alone.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_HERE = str(Path(__file__).resolve().parent)
_PREFIX = f"{__name__}."
_PACKAGE = "lrd_peft"

if _HERE not in sys.path:
    sys.path.insert(0, _HERE)


def _real_name(alias: str) -> str:
    rest = alias.removeprefix(_PREFIX)
    return rest if rest.split(".")[0] == _PACKAGE else f"{_PACKAGE}.{rest}"


class _AliasFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `src.x` as `lrd_peft.x`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(_PREFIX) or importlib.util.find_spec(_real_name(fullname)) is None:
            return None
        return ModuleSpec(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        # The import system hands out what stands in sys.modules once this returns.
        sys.modules[module.__name__] = importlib.import_module(_real_name(module.__name__))


# First, or the path finder would load a second copy of `src.lrd_peft` and of every submodule.
sys.meta_path.insert(0, _AliasFinder())


def __getattr__(name: str) -> Any:
    return getattr(importlib.import_module(_PACKAGE), name)
