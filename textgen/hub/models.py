"""Checkpoints to and from the Hugging Face Hub.

What is read from there is a short list of file names that hold data, never code; sizes are known before anything is
downloaded, and a folder takes its place only when all of it has been read as a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from textgen.errors import BadCheckpoint, Cancelled, InvalidSetting
from textgen.files import check_free, replace_folder, temporary_folder, write_atomically
from textgen.hub.client import (
    Token,
    check_repo_id,
    explained,
    is_connection,
    is_repo_id,
    open_client,
    reading_token,
    split_address,
    writing_token,
)
from textgen.hub.downloads import RemoteFile, download_file
from textgen.hub.repositories import file_names, make_repository, upload_files
from textgen.limits import Limits
from textgen.model.checkpoint import CONFIG, TOKENIZER, load_checkpoint, save_checkpoint
from textgen.model.front_matter import join_card, split_card
from textgen.model.transfer import is_copy_index, wanted_files
from textgen.model.untrusted import read_json
from textgen.model.weight_files import is_weights
from textgen.progress import Progress, ProgressCallback, ignore_progress

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoSibling

# Above that a file needs support for large files, which not every way to a repository has.
MAX_FILE_BYTES = 10_000_000
ORIGIN = "hub"

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DAY_SECONDS = 86_400.0


def push(
    folder: Path,
    repo_id: str,
    *,
    token: Token = None,
    private: bool = False,
    endpoint: str | None = None,
    limits: Limits | None = None,
    progress: ProgressCallback = ignore_progress,
) -> str:
    """Puts the checkpoint in `folder` on the Hub at half the size, as one commit; returns its address.

    `repo_id` may be the address of its page too.
    The repository is made if need be. Weights of an earlier push that are not among the new ones are deleted. Raises
    `BadCheckpoint`, `InvalidSetting` for what cannot be a name or a token, for a public repository where a private one
    was asked for, and for one with a model of another kind; `HubForbidden`, `HubUnreachable`, `HubRefused`.
    """
    repo_id, _ = split_address(repo_id, endpoint)
    check_repo_id(repo_id)
    token = writing_token(token)
    checkpoint = load_checkpoint(folder, limits=limits)
    card = hub_card(checkpoint.card or f"# {repo_id.partition('/')[2]}\n", checkpoint.lineage)
    with temporary_folder() as temporary:
        ready = temporary / "model"
        save_checkpoint(ready, replace(checkpoint, card=card), weight_format="float16", max_file_bytes=MAX_FILE_BYTES)
        files = {path.name: path for path in sorted(ready.iterdir())}
        # Whoever has cancelled meanwhile finds no new repository there.
        progress(Progress("uploading", 0.0, sum(path.stat().st_size for path in files.values()) / 1e6, "MB"))
        api = open_client(token, endpoint)
        with explained(repo_id, api.endpoint, token):
            prepare_model(api, repo_id, private=private)
            there = file_names(api, repo_id)
            stale = [name for name in there if name not in files and (is_weights(name) or is_copy_index(name))]
            upload_files(api, repo_id, files, stale, "Push a model with Textgen Studio", progress=progress)
    return f"{api.endpoint}/{repo_id}"


def pull(
    repo_id: str,
    out: Path,
    *,
    downloads: Path,
    revision: str | None = None,
    token: Token = None,
    endpoint: str | None = None,
    limits: Limits | None = None,
    check: Callable[[Path], object] | None = None,
    wanted: Callable[[str], bool] | None = None,
    progress: ProgressCallback = ignore_progress,
) -> str:
    """Replaces `out` by the checkpoint of a repository on the Hub; returns the commit that it is from.

    `repo_id` may be the address of its page too; a revision that is given counts more than the one in it.

    Files come into the folder `downloads` first. Where the Hub stops answering, or somebody stops the work, what has
    come stays there for a day, to be gone on from; after any other failure nothing stays. `check` is given the whole
    folder before it takes its place; without one it is read as a checkpoint. `wanted` is asked for the commit before
    anything comes; where it is not, `out` stays as it is.

    Raises `InvalidSetting` for what cannot be a name, a revision or a token, and for more than `max_hub_bytes`;
    `BadCheckpoint`, `NoRoom`, `CannotWrite`, `HubNotFound`, `HubNoRevision`, `HubForbidden`, `HubGated`,
    `HubUnreachable`, `HubRefused`, and whatever `check` raises.
    """
    limits = limits or Limits()
    repo_id, named = split_address(repo_id, endpoint)
    revision = named if revision is None else revision
    check_repo_id(repo_id)
    if revision is not None and not (revision.isprintable() and 1 <= len(revision) <= 200):
        raise InvalidSetting("revision", revision, "a branch, a tag or a commit")
    token = reading_token(token)
    api = open_client(token, endpoint)
    with explained(repo_id, api.endpoint, token, revision=revision):
        info = api.model_info(repo_id, revision=revision, files_metadata=True)
        commit = str(info.sha)
        if not _COMMIT.fullmatch(commit):
            raise ValueError("it names no commit")
        if wanted is not None and not wanted(commit):
            return commit
        listed = {item.rfilename: item for item in info.siblings or []}
        files = wanted_files({name: item.size for name, item in listed.items()}, limits, field="repo_id")
        check_free(downloads, sum(files.values()), min_free_bytes=limits.min_free_disk_bytes)
        _sweep(downloads)
        name = hashlib.blake2b(f"{api.endpoint} {repo_id} {commit}".encode(), digest_size=12).hexdigest()
        folder = downloads / name
        # Who asks for the same at the same moment waits, and then has the files copied from no half-written ones.
        with FileLock(downloads / f"{name}.lock"), _kept_for_another_try(folder):
            listed_files = [_as_listed(listed[name], size) for name, size in files.items()]
            _download(api, repo_id, commit, listed_files, folder, progress)
            _note_origin(folder / CONFIG, repo_id, commit, limits)
            progress(Progress("checking", 0))
            (check or (lambda path: load_checkpoint(path, limits=limits)))(folder)
            replace_folder(out, lambda new: _move(folder, files, new))
    return commit


def prepare_model(api: HfApi, repo_id: str, *, private: bool, field: str = "repo_id") -> None:
    """Makes the repository of a model if need be, and sees that a checkpoint may go there.

    Raises `InvalidSetting` for `field` where a public one is there and a `private` one was asked for, and for one with
    weights that are no checkpoint of ours: they would be deleted. What the client raises is left as it is.
    """
    make_repository(api, repo_id, private=private, field=field)
    names = file_names(api, repo_id)
    if any(name.endswith((".safetensors", ".bin", ".pt", ".gguf")) for name in names) and TOKENIZER not in names:
        raise InvalidSetting(field, repo_id, "a new name: a model of another kind is there already")


def hub_card(card: str, lineage: Mapping[str, Any]) -> str:
    """The card with everything at its head by which the Hub files it; what it says already stays.

    Nobody has said what licence a model is under whose card does not: that is what it then tells.
    """
    given, body = split_card(card)
    base = base_on_hub(lineage)
    values = {
        "library_name": "textgen-studio",
        "pipeline_tag": "text-generation",
        "license": "unknown",
        "tags": ["recurrent", "sentencepiece"],
        **({"base_model": base} if base else {}),
        **given,
    }
    return join_card(values, body)


def base_on_hub(lineage: Mapping[str, Any]) -> str | None:
    """The nearest model that it descends from and that came from the Hub."""
    base = lineage.get("base")
    while isinstance(base, dict) and isinstance(base.get("lineage"), dict):
        origin = base["lineage"].get(ORIGIN)
        repo = origin.get("repo") if isinstance(origin, dict) else None
        if isinstance(repo, str) and is_repo_id(repo):
            return repo
        base = base["lineage"].get("base")
    return None


def _as_listed(item: RepoSibling, size: int) -> RemoteFile:
    """The file of an entry of a listing; what lies in storage for large files git knows by a pointer only."""
    return (
        RemoteFile(item.rfilename, size, item.lfs.sha256)
        if item.lfs
        else RemoteFile(item.rfilename, size, blob_id=item.blob_id)
    )


def _download(
    api: HfApi, repo_id: str, commit: str, files: Sequence[RemoteFile], folder: Path, progress: ProgressCallback
) -> None:
    """Downloads what is not there yet."""
    total, before = sum(file.size for file in files), 0
    for file in files:

        def tell(done: int, file: RemoteFile = file, before: int = before) -> None:
            if done > file.size:
                raise BadCheckpoint(file.name, "size", f"more than the {file.size:,} bytes that its repository names")
            progress(Progress("downloading", (before + done) / 1e6, total / 1e6, "MB"))

        download_file(api, repo_id, commit, file, folder, tell)
        before += file.size


def _note_origin(path: Path, repo_id: str, commit: str, limits: Limits) -> None:
    """Where it came from, for the cards of models that will descend from it."""
    config = read_json(path, limits.max_config_bytes)
    lineage = config.get("lineage")
    config["lineage"] = {**(lineage if isinstance(lineage, dict) else {}), ORIGIN: {"repo": repo_id, "commit": commit}}
    write_atomically(path, (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "replace"))


def _move(folder: Path, names: Mapping[str, int], new: Path) -> None:
    for name in names:
        shutil.move(folder / name, new / name)


@contextmanager
def _kept_for_another_try(folder: Path) -> Iterator[None]:
    """Deletes the folder at the end, unless it was the connection that failed or somebody who stopped it."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, Cancelled) and not is_connection(error):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _sweep(downloads: Path) -> None:
    """Deletes what nobody has gone on with for a day."""
    for path in downloads.iterdir():
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _DAY_SECONDS:
                path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
