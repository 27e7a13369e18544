"""From a file of any format that is read to a stream of plain text."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from textgen.errors import TextgenError
from textgen.limits import Limits
from textgen.text.importing.formats import FORMAT_TABLE
from textgen.text.readers import open_text


@dataclass(frozen=True)
class Input:
    """A file to convert: where it is, what people call it, what was asked for."""

    path: Path
    name: str
    encoding: str | None
    column: str | None
    limits: Limits

    @property
    def size_bytes(self) -> int:
        """The size of the file."""
        return self.path.stat().st_size


@dataclass
class Conversion:
    """The text of a file as it comes. With `rows`, each text is a document; else all together are one.

    With `kept` it stays as it is; else line ends around it are left out.

    `problem` is a warning; it is known when the texts have been read.
    """

    texts: Iterator[str]
    rows: bool = False
    kept: bool = False
    encoding: str | None = None
    guessed: bool = False
    columns: tuple[str, ...] = ()
    column: str | None = None
    problem: TextgenError | None = None


def convert(file: Input, kind: str) -> Conversion:
    """Begins to convert a file of a `kind` of `FORMATS` other than "zip".

    Text comes without markup and in reading order, paragraphs with a blank line between them. Raises the errors of
    `textgen.errors` that say what is wrong with a file, now or while the texts are read; whatever else is raised means
    that the file is damaged.
    """
    if kind == "txt":
        text = open_text(file.path, file.encoding, file.name)
        return Conversion(text.blocks(), kept=True, encoding=text.encoding, guessed=text.guessed)
    # The modules bring their libraries with them, so each is imported when its format comes.
    module = importlib.import_module(f"textgen.text.importing.{FORMAT_TABLE[kind].module}")
    conversion: Conversion = module.convert(file)
    return conversion
