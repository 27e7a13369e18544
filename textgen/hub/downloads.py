"""Files of a repository, downloaded so that what has come need not come again: of a file that broke off, its beginning.

The client of the Hub begins such a file anew, so that the bytes are asked for here, through its session.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from textgen.errors import BadCheckpoint

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# How often in a row a connection may break without one byte more, and how long to wait before another try.
_MOST_FRUITLESS_TRIES = 5
_PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class RemoteFile:
    """A file as the listing of its repository has it; of the two digests it names the one or the other.

    `sha256` is of its bytes; `blob_id` is git's name for it, a SHA-1.
    """

    name: str
    size: int
    sha256: str | None = None
    blob_id: str | None = None


def download_file(
    api: HfApi, repo_id: str, commit: str, file: RemoteFile, folder: Path, tell: Callable[[int], None]
) -> None:
    """Puts a file into `folder`, going on from where an earlier try has left it, and checks its bytes.

    `tell` is given, again and again, how many of them are there; what it raises ends the download and leaves them.
    Raises `BadCheckpoint` where they are other bytes than the repository names; what the client raises is left so.
    """
    from httpx2 import TransportError

    path, partial = folder / file.name, folder / f"{file.name}.part"
    folder.mkdir(parents=True, exist_ok=True)
    fruitless = 0
    while not path.exists():
        there = _size(partial)
        tell(there)
        try:
            if there < file.size or not partial.exists():
                _append(api, repo_id, commit, file.name, partial, tell)
            _check(file, partial)
            os.replace(partial, path)
        except TransportError:
            fruitless = fruitless + 1 if _size(partial) <= there else 0
            if fruitless == _MOST_FRUITLESS_TRIES:
                raise
            time.sleep(_PAUSE_SECONDS)
    tell(file.size)


def _append(api: HfApi, repo_id: str, commit: str, name: str, partial: Path, tell: Callable[[int], None]) -> None:
    """Asks for the bytes that are not there yet; where the server does not know how to give those only, for all."""
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # for all to use, by its docs
        build_hf_headers,
        hf_raise_for_status,
        http_stream_backoff,
    )

    there = _size(partial)
    headers = build_hf_headers(token=api.token, library_name=api.library_name, library_version=api.library_version)
    # What is compressed on its way could not be gone on with.
    headers |= {"Accept-Encoding": "identity", **({"Range": f"bytes={there}-"} if there else {})}
    with http_stream_backoff(
        "GET",
        hf_hub_url(repo_id, name, revision=commit, endpoint=api.endpoint),
        headers=headers,
        timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        retry_on_exceptions=(),
        retry_on_status_codes=(408, 429),
    ) as response:
        hf_raise_for_status(response)
        begun = response.status_code == 206  # Partial Content
        done = there if begun else 0
        with partial.open("ab" if begun else "wb") as stream:
            for chunk in response.iter_bytes():
                stream.write(chunk)
                done += len(chunk)
                tell(done)


def _check(file: RemoteFile, partial: Path) -> None:
    size = _size(partial)
    if size != file.size:
        raise BadCheckpoint(file.name, "size", f"{size:,} bytes, where its repository names {file.size:,}")
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with partial.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != (file.sha256 or file.blob_id or digest.hexdigest()):
        raise BadCheckpoint(file.name, "content", "other bytes than its repository names")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
