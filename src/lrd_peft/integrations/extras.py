"""Says which extra of this package brings a library that is not installed."""

from __future__ import annotations

import importlib.util

from lrd_peft.runtime.errors import UserError

# Module -> extra of pyproject.toml.
EXTRAS = {"lm_eval": "eval", "fastapi": "serve", "uvicorn": "serve", "gradio": "play"}


def require_extra(*modules: str) -> None:
    """Check that the modules of an extra are installed.

    Raises:
        UserError: If one is not.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise UserError(f'{module} is not installed; install it with: pip install "lrd-peft[{EXTRAS[module]}]"')
