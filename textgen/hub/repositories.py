"""Repositories on the Hub: making them, and putting files there as one commit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from textgen.errors import InvalidSetting
from textgen.progress import FINISHING, Progress, ProgressCallback, ignore_progress

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# Such files are uploaded one by one, to tell how far it is; each takes a request more.
_LARGE_BYTES = 1_000_000

RepositoryType = Literal["model", "dataset", "space"]


def make_repository(
    api: HfApi, repo_id: str, *, private: bool, repo_type: RepositoryType = "model", field: str = "repo_id"
) -> None:
    """Makes it if need be; `InvalidSetting` for `field` where a public one is there and a `private` one was asked for.

    What the client raises is left as it is, here and below.
    """
    sdk = "gradio" if repo_type == "space" else None
    api.create_repo(repo_id, private=private, repo_type=repo_type, space_sdk=sdk, exist_ok=True)
    if private and not api.repo_info(repo_id, repo_type=repo_type).private:
        raise InvalidSetting(field, repo_id, "a new name: a public repository of this one is there already")


def file_names(api: HfApi, repo_id: str, *, repo_type: RepositoryType = "model") -> list[str]:
    """The files of a repository."""
    info: Any = api.repo_info(repo_id, repo_type=repo_type)
    return [item.rfilename for item in info.siblings or []]


def upload_files(
    api: HfApi,
    repo_id: str,
    files: Mapping[str, Path],
    stale: Iterable[str],
    message: str,
    *,
    repo_type: RepositoryType = "model",
    progress: ProgressCallback = ignore_progress,
) -> str:
    """Puts `files`, by their names there, into a repository and deletes those that are `stale`; returns the commit."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()  # of the client's own, on the terminal; it has no other way to tell
    total, done = sum(path.stat().st_size for path in files.values()), 0
    operations: list[Any] = [CommitOperationDelete(path_in_repo=name) for name in stale]
    progress(Progress("uploading", 0.0, total / 1e6, "MB"))
    for name, path in files.items():
        addition = CommitOperationAdd(path_in_repo=name, path_or_fileobj=path)
        if path.stat().st_size >= _LARGE_BYTES:
            api.preupload_lfs_files(repo_id, [addition], repo_type=repo_type, free_memory=False)
        operations.append(addition)
        done += path.stat().st_size
        progress(Progress("uploading", done / 1e6, total / 1e6, "MB"))
    progress(Progress(FINISHING, 0))
    return str(api.create_commit(repo_id, operations, commit_message=message, repo_type=repo_type).oid)
