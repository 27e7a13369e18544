"""CSV and TSV → one column's cells, each a document."""

from __future__ import annotations

import csv
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from textgen.errors import EndlessField
from textgen.text.importing.columns import Sample, choose_column, row_text, sample_rows
from textgen.text.importing.conversion import Conversion, Input
from textgen.text.importing.kinds import kind_by_name
from textgen.text.importing.lines import text_lines
from textgen.text.readers import TextFile, open_text

_DELIMITERS = (",", ";", "\t", "|")
_SNIFFED_LINES = 50
_HEADER_CHARS = 64
# A character that no text has: if it does not come back as a row of its own, a field was left open.
_END = "\ufdd0"


@dataclass(frozen=True)
class _Row:
    """A row's cells and the line of the file that it begins in."""

    cells: list[str]
    line: int


def convert(file: Input) -> Conversion:
    """The cells of one column, a blank line between them and none within: what `split` "blank-line" takes apart again.

    The column is the one asked for, by its name or, where the first row are no names, by its number from 1; else the
    first that is called text, content or the like; else the one with most text. Raises `NoSuchColumn`, and
    `EndlessField` where a quotation mark is missing.
    """
    text = open_text(file.path, file.encoding, file.name)
    lines = text_lines(text.blocks(), file.limits.max_import_field_chars)
    head = list(islice(lines, _SNIFFED_LINES))
    skipped = 0
    delimiter = "\t" if kind_by_name(file.name) == "tsv" else _find_delimiter(head)
    if head and head[0].lower().startswith("sep=") and len(head[0].rstrip("\n")) == 5:
        # A hint that Excel leaves.
        delimiter, head, skipped = head[0][4], head[1:], 1
    quoting = csv.QUOTE_NONE if delimiter == "\t" and _quotes_nothing(file, text) else csv.QUOTE_MINIMAL
    rows = _read_rows(chain(head, lines), file, skipped, delimiter=delimiter, quoting=quoting)
    sample, rest = sample_rows(rows, lambda row: sum(map(len, row.cells)))
    names = _header([row.cells for row in sample])
    if names is None:
        names = tuple(str(number + 1) for number in range(max((len(row.cells) for row in sample), default=0)))
    else:
        sample = sample[1:]
    columns = Sample(names, [[*row.cells, *[""] * (len(names) - len(row.cells))] for row in sample])
    column = choose_column(columns, file.column, file.name)
    index = names.index(column) if column is not None else 0
    cells = (row.cells[index] for row in chain(sample, rest) if index < len(row.cells))
    texts = (shown for cell in cells if (shown := row_text(cell)))
    return Conversion(
        texts, rows=True, encoding=text.encoding, guessed=text.guessed, columns=columns.names, column=column
    )


def _read_rows(lines: Iterable[str], file: Input, skipped: int, **dialect: Any) -> Iterator[_Row]:
    max_chars = file.limits.max_import_field_chars
    csv.field_size_limit(max_chars)
    reader = csv.reader(chain(lines, [_END]), **dialect)
    begins = 1 + skipped
    try:
        for cells in reader:
            if cells == [_END]:
                return
            if any(_END in cell for cell in cells):
                break
            if any(cells):
                yield _Row(cells, begins)
            begins = reader.line_num + 1 + skipped
    except csv.Error:
        pass
    raise EndlessField(file.name, begins, max_chars)


def _quotes_nothing(file: Input, text: TextFile) -> bool:
    """Whether quotation marks are characters like others, as in most tables with tabs: they do not fit together."""
    lines = text_lines(text.blocks(), file.limits.max_import_field_chars)
    try:
        deque(_read_rows(lines, file, 0, delimiter="\t", strict=True), maxlen=0)
    except EndlessField:
        return True
    return False


def _find_delimiter(head: Sequence[str]) -> str:
    """The one that cuts most rows into equally many cells, more than one."""
    best, most = ",", 0.0
    for delimiter in _DELIMITERS:
        try:
            widths = Counter(len(cells) for cells in csv.reader(head, delimiter=delimiter) if cells)
        except csv.Error:
            continue
        width, count = widths.most_common(1)[0] if widths else (1, 0)
        agreement = count / max(1, widths.total())
        if width > 1 and agreement > most:
            best, most = delimiter, agreement
    return best


def _header(rows: Sequence[Sequence[str]]) -> tuple[str, ...] | None:
    """The names in the first row, if it looks like names: short, different, no numbers, and shorter than what follows.

    A single row is no header: its text would be lost.
    """
    if len(rows) < 2:
        return None
    names = [cell.strip() for cell in rows[0]]
    plausible = all(
        name and len(name) <= _HEADER_CHARS and "\n" not in name and not name.replace(".", "", 1).isdecimal()
        for name in names
    )
    if not plausible or len(set(names)) < len(names):
        return None
    below = max(sum(len(row[index]) for row in rows[1:] if index < len(row)) for index in range(len(names)))
    known = any(Sample.is_text_name(name) for name in names)
    return tuple(names) if known or below / len(rows[1:]) > 1.5 * max(map(len, names)) else None
