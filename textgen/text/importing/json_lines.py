"""JSON lines → one column's strings, each a document."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from textgen.errors import BadLines, DamagedFile
from textgen.text.importing.columns import Sample, choose_column, row_text, sample_rows
from textgen.text.importing.conversion import Conversion, Input
from textgen.text.importing.lines import text_lines
from textgen.text.readers import open_text

# More bad lines than good ones: then it is not JSON lines.
_MOST_BAD = 0.5


class _Line(NamedTuple):
    """What the strings of a line are, by name; a line that is a string alone has the name ""."""

    values: dict[str, str]
    chars: int


class _Reader:
    """The lines of a file, and how many of them are none."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = lines
        self.good = self.bad = self.first_bad = 0

    def rows(self) -> Iterator[_Line]:
        for number, line in enumerate(self._lines, 1):
            if not line.strip():
                continue
            values = _strings(line)
            if values is None:
                self.bad += 1
                self.first_bad = self.first_bad or number
            else:
                self.good += 1
                yield _Line(values, len(line))


def convert(file: Input) -> Conversion:
    """The strings of one key, a blank line between them and none within, as in `tables`.

    Lines that are no JSON are left out and counted: the conversion's `problem` then is a `BadLines`. Raises
    `DamagedFile` when most lines are bad, `NoSuchColumn` for a key that no line has.
    """
    text = open_text(file.path, file.encoding, file.name)
    reader = _Reader(text_lines(text.blocks(), file.limits.max_import_field_chars))
    sample, rest = sample_rows(reader.rows(), lambda row: row.chars)
    names = tuple(dict.fromkeys(name for row in sample for name in row.values))
    if reader.bad > _MOST_BAD * (reader.good + reader.bad):
        raise DamagedFile(file.name, "JSONL")
    columns = Sample(names, [[row.values.get(name, "") for name in names] for row in sample])
    column = choose_column(columns, file.column, file.name) if any(names) or file.column is not None else None
    conversion = Conversion(iter(()), rows=True, encoding=text.encoding, guessed=text.guessed, column=column)
    conversion.columns = columns.names if any(names) else ()

    def texts() -> Iterator[str]:
        for row in chain(sample, rest):
            if shown := row_text(row.values.get(column or "", "")):
                yield shown
        if reader.bad:
            conversion.problem = BadLines(file.name, reader.bad, reader.first_bad)

    conversion.texts = texts()
    return conversion


def _strings(line: str) -> dict[str, str] | None:
    """The strings in an object; None for what is no JSON. Other values have no text."""
    try:
        # Constants such as NaN are no JSON, but harmless where only strings are taken.
        content = json.loads(line.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return None
    if isinstance(content, str):
        return {"": content}
    if not isinstance(content, dict):
        return {}
    return {name: value for name, value in content.items() if isinstance(value, str)}
