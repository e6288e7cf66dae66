"""The Hugging Face Hub: ask for a file, download a saved model, upload one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lrd_peft.runtime.errors import UserError

_TIMEOUT_SECONDS = 5.0
# What a saved model consists of. Pickles are never downloaded.
_DOWNLOADED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "README.md")


class HubUnreachable(UserError):
    """The hub does not answer and the file is not in the local cache."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file that a repository holds.

    Attributes:
        revision: Commit if the hub answered, else the revision asked for.
        cached: The hub does not answer; the file is in the local cache.
    """

    revision: str
    cached: bool


def ask_hub(name: str, file: str, *, revision: str | None) -> HubFile | None:
    """Ask whether a repository holds a file, once and briefly; without a network the local cache answers.

    Args:
        name: Hub id.
        file: Path in the repository.
        revision: Branch, tag or commit; None for main.

    Returns:
        The file, or None if the repository does not hold it.

    Raises:
        UserError: If there is no such repository or revision, or it may not be read. `HubUnreachable` if nobody can
            tell.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # The HTTP library under huggingface_hub changes. All of its errors, including timeouts, have this base.
    no_answer: type[Exception] = HfHubHTTPError.__bases__[0]
    revision = revision or "main"
    cached, reason = False, "HF_HUB_OFFLINE is set"
    try:
        # A str is a path; another object stands for a file that is known to be absent.
        cached = isinstance(try_to_load_from_cache(name, file, revision=revision), str)
        if not HF_HUB_OFFLINE:
            url = hf_hub_url(name, file, revision=revision)
            commit = get_hf_file_metadata(url, timeout=_TIMEOUT_SECONDS).commit_hash
            return HubFile(commit or revision, cached=False)
    except GatedRepoError as error:
        raise UserError(
            f'the hub model "{name}" is gated: request access on its page and log in with "hf auth login", '
            "or name a local folder"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f'the hub model "{name}" has no revision "{revision}"') from error
    except RepositoryNotFoundError as error:
        raise UserError(f'"{name}" is neither a local folder nor a hub model that you may read') from error
    except EntryNotFoundError:
        return None
    except HFValidationError as error:
        raise UserError(f'"{name}" is neither a local folder nor a valid hub id') from error
    except (no_answer, OSError) as error:
        text = str(error) or type(error).__name__
        reason = f"the hub does not answer ({text.splitlines()[0]})"
    if cached:
        return HubFile(revision, cached=True)
    raise HubUnreachable(f'the model "{name}" is not on this machine and {reason}')


def download_model(name: str, found: HubFile) -> Path:
    """Download a saved model, or find it in the local cache.

    Args:
        name: Hub id.
        found: What `ask_hub` returned.

    Returns:
        Folder of the snapshot.

    Raises:
        UserError: If a file cannot be downloaded.
    """
    from huggingface_hub import snapshot_download

    with _explained(f'cannot download "{name}"'):
        return Path(
            snapshot_download(
                name, revision=found.revision, local_files_only=found.cached, allow_patterns=list(_DOWNLOADED)
            )
        )


def download_dataset(name: str, *, revision: str | None = None) -> Path:
    """Download all files of a dataset repository, or find them in the local cache.

    Args:
        name: Hub id.
        revision: Branch, tag or commit; None for main.

    Returns:
        Folder of the snapshot.

    Raises:
        UserError: If the hub does not answer and the cache lacks it, or there is no such repository.
    """
    from huggingface_hub import snapshot_download

    with _explained(f'cannot download the dataset "{name}"', help="or name a local folder"):
        return Path(snapshot_download(name, revision=revision, repo_type="dataset"))


def upload_folder(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str = "Upload a thinking model",
    repo_type: str = "model",
) -> str:
    """Upload the files of a folder to a hub repository, which is created if needed.

    Args:
        folder: Folder of a saved model.
        repo_id: "owner/name".
        private: Visibility of a new repository; None for the owner's default.
        token: Access token; None for the one of `hf auth login`.
        commit_message: Message of the commit.
        repo_type: model or dataset.

    Returns:
        Address of the commit.

    Raises:
        UserError: If the hub does not answer or refuses.
    """
    from huggingface_hub import HfApi

    hub = HfApi(token=token)
    help = "the model is saved locally with save_pretrained" if repo_type == "model" else ""
    with _explained(f'cannot upload to "{repo_id}"', help=help):
        repository = hub.create_repo(repo_id, private=private, exist_ok=True, repo_type=repo_type).repo_id
        commit = hub.upload_folder(
            repo_id=repository, folder_path=folder, commit_message=commit_message, repo_type=repo_type
        )
    return commit.commit_url


@contextlib.contextmanager
def _explained(what: str, *, help: str = "") -> Iterator[None]:
    """Turn an error of the hub into a UserError of one line."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    no_answer: type[Exception] = HfHubHTTPError.__bases__[0]
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise UserError(f"{what}: HF_HUB_OFFLINE is set{'; ' + help if help else ''}") from error
    except (no_answer, HFValidationError, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{what}: {reason}{'; ' + help if help else ''}") from error
