"""The recipes and studies that ship with the package, found by name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from lrd_peft.runtime.errors import UserError, nearest


def recipes_folder() -> Path:
    """Return the folder of the package that holds the recipes.

    Studies lie in its folder `studies`, the settings of published papers in `published`.
    """
    return Path(str(resources.files("lrd_peft"))) / "recipes"


def find_yaml(name: str, *, what: str = "recipe") -> Path:
    """Return a YAML file by its path, or a shipped recipe or study by its name.

    Args:
        name: A path (it exists, has a folder, or ends in .yaml or .yml), or a name such as "demo".
        what: "recipe" or "study".

    Raises:
        UserError: If there is no such recipe or study; the message lists the names.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file() or len(path.parts) > 1:
        return path
    parts = ("", "published") if what == "recipe" else ("studies",)
    shipped = {file.stem: file for part in parts for file in (recipes_folder() / part).glob("*.yaml")}
    if name in shipped:
        return shipped[name]
    known = sorted(shipped)
    raise UserError(f'unknown {what} "{name}".{nearest(name, known)} Use a YAML file or one of {", ".join(known)}')
