"""What goes into an import and what comes out: one record for each file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from textgen.errors import TextgenError, error_as_dict, error_from_dict


@dataclass(frozen=True)
class ImportSource:
    """A file to import. `name` is what the person calls it, never a path to anything.

    `encoding` overrides what would be found out, `column` the choice of a table's column; formats that have neither
    ignore them. Both hold for every file of an archive.
    """

    path: Path
    name: str
    encoding: str | None = None
    column: str | None = None


@dataclass(frozen=True)
class ImportedText:
    """What became of one file, or of one file in an archive ("archive.zip/inner.txt").

    `path` is the converted text in UTF-8, None where there is none: then `problem` says why. A `problem` beside a path
    is a warning, such as lines that were left out. `kind` is what the content is, whatever the name says: one of
    `FORMATS`, or empty where it is none. `encoding` is that of formats that have one, `guessed` as in `FileReport`.

    `bytes` is the size of the file that was read. `characters` are those of the documents, without separators; rows of
    tables are documents, any other file is one. `duplicates` counts documents that are exactly equal to an earlier one
    of the import, so an exact duplicate of a file has as many as documents.

    `columns` are those of a table and `column` the one taken. `scripts` are shares of letters, largest first.
    """

    name: str
    kind: str
    path: Path | None
    encoding: str | None
    guessed: bool
    bytes: int
    characters: int
    documents: int
    duplicates: int
    first_lines: tuple[str, ...]
    columns: tuple[str, ...]
    column: str | None
    scripts: tuple[tuple[str, float], ...]
    problem: TextgenError | None

    @property
    def usable(self) -> bool:
        """Whether there is text."""
        return self.path is not None

    @property
    def duplicate(self) -> bool:
        """Whether everything in it came before in the same import."""
        return 0 < self.documents == self.duplicates

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON can hold it."""
        content = asdict(replace(self, problem=None))
        path = None if self.path is None else str(self.path)
        return {**content, "path": path, "problem": error_as_dict(self.problem) if self.problem else None}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ImportedText:
        """What `as_dict` wrote; raises `ValueError` for anything that is not of that form."""
        try:
            values = {field.name: content[field.name] for field in fields(cls)}
            return cls(
                **{
                    **values,
                    "path": None if values["path"] is None else Path(values["path"]),
                    "first_lines": tuple(map(str, values["first_lines"])),
                    "columns": tuple(map(str, values["columns"])),
                    "scripts": tuple((str(name), float(share)) for name, share in values["scripts"]),
                    "problem": None if values["problem"] is None else error_from_dict(values["problem"]),
                }
            )
        except (KeyError, TypeError) as problem:
            raise ValueError(f"no imported text: {problem}") from None


def refused(
    name: str, problem: TextgenError, *, kind: str = "", size: int = 0, columns: tuple[str, ...] = ()
) -> ImportedText:
    """The record of a file without text."""
    return ImportedText(name, kind, None, None, False, size, 0, 0, 0, (), columns, None, (), problem)
