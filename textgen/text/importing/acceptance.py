"""What the converting process hands over, believed as far as it can be checked."""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from textgen.errors import ImportFailed, TextgenError
from textgen.limits import Limits
from textgen.text.encodings import first_undecodable
from textgen.text.importing.formats import FORMATS
from textgen.text.importing.job import BadEvent
from textgen.text.importing.records import ImportedText

_NUMBERED = re.compile(r"(\d{4,9})\.txt")
_MAX_SHOWN_CHARS = 300
_MAX_SHOWN_ITEMS = 200
_MAX_SIZE_FACTOR = 4


def checked_result(content: object, name: str, converted: Path, limits: Limits) -> ImportedText:
    """The record in `content` under the name that we know, its path `converted` if a sound UTF-8 file is there.

    Raises `BadEvent` for anything that is no record.
    """
    if not isinstance(content, dict):
        raise BadEvent
    try:
        result = ImportedText.from_dict(content)
    except ValueError:
        raise BadEvent from None
    counts = (result.bytes, result.characters, result.documents, result.duplicates)
    if result.kind not in ("", *FORMATS) or any(type(count) is not int or count < 0 for count in counts):
        raise BadEvent
    path = converted if result.usable and _is_sound(converted, limits) else None
    problem = None if result.problem is None else _shortened_error(result.problem)
    return replace(
        result,
        name=name,
        path=path,
        encoding=None if result.encoding is None else _shortened(str(result.encoding)),
        guessed=bool(result.guessed),
        first_lines=tuple(map(_shortened, result.first_lines[:_MAX_SHOWN_ITEMS])),
        columns=tuple(map(_shortened, result.columns[:_MAX_SHOWN_ITEMS])),
        column=None if result.column is None else _shortened(str(result.column)),
        scripts=tuple((_shortened(script), share) for script, share in result.scripts[:_MAX_SHOWN_ITEMS]),
        problem=problem or (ImportFailed(name) if path is None else None),
    )


def next_path(destination: Path) -> Path:
    """A new, empty file in a folder, numbered after those that are there; raises `OSError`."""
    numbers = [int(match[1]) for path in destination.iterdir() if (match := _NUMBERED.fullmatch(path.name))]
    number = max(numbers, default=0)
    while True:
        number += 1
        path = destination / f"{number:04d}.txt"
        with suppress(FileExistsError):
            path.open("xb").close()
            return path


def _is_sound(path: Path, limits: Limits) -> bool:
    """A plain file of its own, not too long, in UTF-8."""
    try:
        found = os.lstat(path)
        plain = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
        small = 0 < found.st_size <= _MAX_SIZE_FACTOR * limits.max_import_member_bytes
        return plain and small and first_undecodable(path, "utf-8") is None
    except OSError:
        return False


def _shortened(text: str) -> str:
    return text[:_MAX_SHOWN_CHARS].encode("utf-8", "replace").decode()


def _shortened_error(error: TextgenError) -> TextgenError:
    params = {name: _shortened(value) if isinstance(value, str) else value for name, value in error.params.items()}
    TextgenError.__init__(error, **params)  # type: ignore[arg-type]
    return error
