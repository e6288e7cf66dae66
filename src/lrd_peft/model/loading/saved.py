"""Finding a saved thinking model: in a folder, in a run folder, or on the hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lrd_peft.model.loading.embedded import OFFLINE_MODELS, THINKING_MODELS, embedded_path
from lrd_peft.model.loading.hub import HubUnreachable, ask_hub, download_model
from lrd_peft.model.loading.sources import is_hub_id
from lrd_peft.model.serialization import DESCRIPTION
from lrd_peft.runtime.errors import UserError


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A saved thinking model.

    Attributes:
        folder: Where its files are.
        name: Name that finds them again: an absolute path, a hub id, or the name of an embedded model.
        options: Options that go with that name.
    """

    folder: Path
    name: str
    options: dict[str, Any] = field(default_factory=dict)


def find_saved_model(name: str, *, parts: Sequence[str], revision: str | None) -> FoundModel | None:
    """Find a saved thinking model.

    Args:
        name: Folder, run folder, hub id, or any other name of a model.
        parts: Folders of a run to look in, best first.
        revision: Revision of a hub id.

    Returns:
        The model, or None if the name stands for a plain causal LM.

    Raises:
        UserError: If a run folder has no finished model, or the revision has no effect.
    """
    if name in THINKING_MODELS and revision is None:  # with one, loading refuses it
        return FoundModel(embedded_path(name), name)
    if name in OFFLINE_MODELS:
        return None
    path = Path(os.path.expanduser(name))
    if name and os.path.isdir(path):
        found = _in_folder(path, parts)
        if found is not None and revision is not None:
            raise UserError(f'revision is "{revision}", but {name} is a local folder; leave it out')
        return None if found is None else FoundModel(found, str(found.resolve()))
    if not is_hub_id(name):
        return None
    try:
        answer = ask_hub(name, DESCRIPTION, revision=revision)
    except HubUnreachable:
        return None  # a plain model may still be in the cache; if not, loading it says so
    if answer is None:
        return None
    return FoundModel(download_model(name, answer), name, {} if revision is None else {"revision": revision})


def _in_folder(path: Path, parts: Sequence[str]) -> Path | None:
    if (path / DESCRIPTION).is_file():
        return path
    for part in parts:
        if (path / part / DESCRIPTION).is_file():
            return path / part
    is_run = any(path.glob("*.done.json")) or (
        (path / "config.yaml").is_file() and not (path / "config.json").is_file()
    )
    if is_run:
        raise UserError(
            f"the run {path} has no finished {parts[0].partition('/')[0]} ({path / parts[0]}); finish it with `lrd run`"
        )
    return None
