"""Reading files of a folder that somebody else may have filled; `BadCheckpoint` names the file and what is wrong.

`MissingFile` where one goes while it is looked at, or may not be read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from textgen.errors import BadCheckpoint, MissingFile


@contextmanager
def explain_read_errors(path: Path) -> Iterator[None]:
    """Turns an `OSError` into `MissingFile`, which names the file without its folder."""
    try:
        yield
    except OSError as error:
        # safetensors does not tell a file that is gone from one that may not be read, and names the folder.
        raise MissingFile(path.name, error.strerror or "it is gone or may not be read") from None


def check_size(path: Path, max_bytes: int) -> int:
    """The bytes of a file; refuses what is no file, too large, or a link that leads out of its folder."""
    with explain_read_errors(path):
        if not path.is_file():
            raise BadCheckpoint(path.name, "file", "missing")
        _check_link(path)
        size = path.stat().st_size
    if size > max_bytes:
        raise BadCheckpoint(path.name, "size", f"{size} bytes, more than the {max_bytes} allowed")
    return size


def _check_link(path: Path) -> None:
    """Refuses a file outside its folder, which somebody else may have filled: it could be anything on this machine."""
    folder, target = path.parent.resolve(), path.resolve()
    # The cache of Hugging Face has snapshots/REVISION/file → ../../blobs/HASH.
    in_cache = folder.parent.name == "snapshots" and target.parent == folder.parent.parent / "blobs"
    if not target.is_relative_to(folder) and not in_cache:
        raise BadCheckpoint(path.name, "link", "leads out of the folder")


def read_file(path: Path, max_bytes: int) -> bytes:
    """The bytes of a file that `check_size` lets pass."""
    check_size(path, max_bytes)
    with explain_read_errors(path):
        return path.read_bytes()


def read_json(path: Path, max_bytes: int) -> dict[str, Any]:
    """The JSON object in a file of at most `max_bytes`, all of its numbers finite."""
    data = read_file(path, max_bytes)
    try:
        values = json.loads(data, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError):
        raise BadCheckpoint(path.name, "content", "not valid JSON") from None
    if not isinstance(values, dict):
        raise BadCheckpoint(path.name, "content", "not a JSON object")
    return values


def _finite(literal: str) -> float:
    value = float(literal)
    if not math.isfinite(value):
        raise ValueError(f"{literal} is no number that JSON has")
    return value
