"""`lrd push`: upload what a run made to the Hugging Face Hub.

student, teacher    model repositories; the card holds accuracy, its interval and what an ablation said
records             a dataset repository: record, configuration, ablation and probes, from which figures are drawn
store               a dataset repository; `Store.from_pretrained` reads it again
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from lrd_peft.config import load_config
from lrd_peft.model.card import make_card
from lrd_peft.model.loading.hub import upload_folder
from lrd_peft.model.serialization import CARD, read_description, rewrite_card
from lrd_peft.pipeline.run_folder import ABLATION, PROBES, RunPaths
from lrd_peft.pipeline.student_card import card_of_run
from lrd_peft.runtime.errors import UserError, nearest
from lrd_peft.store.reader import Store

Part = Literal["student", "teacher", "records", "store"]

_DATASET = """---
tags: [latent-reasoning, lrd-peft]
---

# {title}

{text}
"""


def push_run(
    run_folder: str | Path,
    repo_id: str,
    *,
    part: Part = "student",
    private: bool | None = None,
    token: str | bool | None = None,
) -> str:
    """Upload a part of a run.

    Args:
        run_folder: The run.
        repo_id: "owner/name"; created if needed.
        part: student, teacher, records or store.
        private: Visibility of a new repository; None for the owner's default.
        token: Access token; None for the one of `hf auth login`.

    Returns:
        Address of the commit.

    Raises:
        UserError: If the run lacks the part, or the hub does not answer or refuses.
    """
    if part not in get_args(Part):
        raise UserError(
            f'a run has no part "{part}"; choose one of {", ".join(get_args(Part))}.{nearest(part, get_args(Part))}'
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "upload"
        stage(run_folder, folder, part=part, repo_id=repo_id)
        return upload_folder(
            folder,
            repo_id,
            private=private,
            token=token,
            commit_message=f"Upload {part} of a run",
            repo_type="model" if part in ("student", "teacher") else "dataset",
        )


def stage(run_folder: str | Path, folder: Path, *, part: Part, repo_id: str) -> None:
    """Write what would be uploaded into a folder.

    Args:
        run_folder: The run.
        folder: Folder to create.
        part: student, teacher, records or store.
        repo_id: Repository that it is for; it stands in the card.

    Raises:
        UserError: If the run lacks the part.
    """
    run = RunPaths(Path(run_folder))
    if not run.config.is_file():
        raise UserError(f"{run_folder} is not a run folder: it has no config.yaml")
    config = load_config(yaml_path=run.config)
    match part:
        case "student":
            _copy(_existing(run.student, run, part), folder)
            rewrite_card(folder, card_of_run(config, run, name=repo_id))
        case "teacher":
            kinds: Sequence[Path] = (run.teacher / "latent", run.teacher / "cot")
            source = next((each for each in kinds if each.is_dir()), kinds[0])
            _copy(_existing(source, run, part), folder)
            rewrite_card(folder, make_card(read_description(source), name=repo_id))
        case "records":
            folder.mkdir()
            _existing(run.record, run, part)
            for file in (run.record, run.config, run.root / ABLATION, run.root / PROBES):
                if file.is_file():
                    shutil.copyfile(file, folder / file.name)
            text = (
                f"The record of a run of `{config.student.method}` on {config.data.dataset}: configuration, "
                f"environment, metrics and graded outcomes. `lrd show` prints it, `lrd report` draws it:\n\n"
                f"```bash\nhf download {repo_id} --repo-type dataset --local-dir run\nlrd report run\n```"
            )
            (folder / CARD).write_text(_DATASET.format(title="A record of LRD-PEFT", text=text), encoding="utf-8")
        case "store":
            store = Store.open(_existing(run.store, run, part))
            _copy(run.store, folder)
            text = (
                f"Hidden states of `{config.model.teacher}` on {len(store):,} problems of {config.data.dataset}, "
                f"layers {', '.join(map(str, store.spec.layers))}.\n\n"
                f"```python\nfrom lrd_peft import Store\n\nstore = Store.from_pretrained({repo_id!r})\n"
                "print(store.states(0).shape)  # layer, position, hidden\n```"
            )
            (folder / CARD).write_text(_DATASET.format(title="A store of LRD-PEFT", text=text), encoding="utf-8")


def _existing(path: Path, run: RunPaths, part: str) -> Path:
    if not path.exists():
        made_by = {"student": "distill", "teacher": "train-teacher", "store": "extract"}.get(part, "run")
        raise UserError(f"{run.root} has no {part} yet; `lrd {made_by}` makes it")
    return path


def _copy(source: Path, folder: Path) -> None:
    """Copy the files of a folder, without locks and other hidden ones."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(".*"))
