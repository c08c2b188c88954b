"""Fetching a checkpoint from the Hugging Face Hub; what is already on this machine is used without the network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from sam3lt_ray.errors import CheckpointError

_PATTERNS: Final = ("*.json", "*.safetensors", "*.txt", "*.model")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


def download_snapshot(repository: str, revision: str | None) -> Path:
    """Downloads the files of a model repository that matter here, and nothing that could hold code.

    Args:
        repository: "owner/name".
        revision: Branch, tag or commit; None: the main branch.

    Returns:
        Folder of the snapshot; its name is the commit.

    Raises:
        CheckpointError: Unknown repository or revision, access denied, or no network and nothing here.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def fetch(local_files_only: bool) -> Path:
        return Path(
            snapshot_download(
                repository, revision=revision, allow_patterns=list(_PATTERNS), local_files_only=local_files_only
            )
        )

    if revision is not None and _COMMIT.fullmatch(revision):
        try:  # a commit never changes: no need to ask
            return fetch(local_files_only=True)
        except LocalEntryNotFoundError:
            pass
    try:
        return fetch(local_files_only=False)
    except GatedRepoError:
        reason = "access is restricted: accept its terms on the hub and log in (`hf auth login`, or set HF_TOKEN)"
    except RevisionNotFoundError:
        reason = f"it has no revision {revision!r}"
    except RepositoryNotFoundError:
        reason = (
            "there is no such model on the hub and no such local folder (for a private model log in: "
            "`hf auth login`, or set HF_TOKEN)"
        )
    except LocalEntryNotFoundError:
        reason = "the hub cannot be reached and the files are not on this machine: download them once, or give a folder"
    except (HfHubHTTPError, OSError) as error:
        reason = f"downloading failed: {error}"
    raise CheckpointError(f"checkpoint {repository!r}: {reason}.")
