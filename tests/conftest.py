"""What every test stands on: no network, one thread a process, types checked on request, a run folder."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

# Before anything imports transformers or datasets: both read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["WANDB_MODE"] = "offline"
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

# `LRD_CHECK_TYPES=1 pytest` checks the annotations, shapes included, of every call into these rooms.
_CHECKED_ROOMS = [
    "lrd_peft.data.collate",
    "lrd_peft.distillation",
    "lrd_peft.lora",
    "lrd_peft.model",
    "lrd_peft.store",
    "lrd_peft.training",
]
if os.environ.get("LRD_CHECK_TYPES") == "1":
    import jaxtyping

    from tests.typecheck import checked

    jaxtyping.install_import_hook(_CHECKED_ROOMS, f"{checked.__module__}.{checked.__name__}")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Keep torch from starting a thread a core in each of the parallel test processes."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run folder that does not exist yet, as `--output_dir` wants it."""
    return tmp_path / "run"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files with the most slow tests first: of two processes, neither waits for a long file at the end."""
    num_slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -num_slow[item.path])
