"""Which column of a table holds the text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from textgen.errors import NoSuchColumn

_Row = TypeVar("_Row")
# Most usual first.
_TEXT_NAMES = (
    "text", "content", "body", "story", "document", "passage", "article", "poem", "lyrics", "message", "description",
    "文本", "内容", "內容", "正文", "本文", "текст",
)  # fmt: skip
_SAMPLE_ROWS = 1_000
_SAMPLE_CHARS = 4_000_000
_MAX_COLUMNS = 200
_MAX_NAME_CHARS = 100
_BLANK_LINES = re.compile(r"\n\s*\n")


@dataclass(frozen=True)
class Sample:
    """The columns of a table by name, and its first rows, each with a cell for every column."""

    all_names: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def names(self) -> tuple[str, ...]:
        """The names fit to be shown: the first ones, shortened."""
        return tuple(name[:_MAX_NAME_CHARS] for name in self.all_names[:_MAX_COLUMNS])

    @staticmethod
    def is_text_name(name: str) -> bool:
        """Whether a column of this name surely holds text."""
        return name.strip().lower() in _TEXT_NAMES


def sample_rows(rows: Iterator[_Row], size: Callable[[_Row], int]) -> tuple[list[_Row], Iterator[_Row]]:
    """The first rows, as many as say enough, and an iterator over those that follow; `size` counts characters."""
    sample: list[_Row] = []
    characters = 0
    for row in rows:
        sample.append(row)
        characters += size(row)
        if len(sample) >= _SAMPLE_ROWS or characters >= _SAMPLE_CHARS:
            break
    return sample, rows


def choose_column(sample: Sample, asked: str | None, file: str) -> str | None:
    """The column asked for, or the one that holds the text; None for a table without columns.

    Raises `NoSuchColumn`.
    """
    names = sample.all_names
    if asked is not None:
        for same in (lambda name: name == asked, lambda name: name.strip().lower() == asked.strip().lower()):
            found = next(filter(same, names), None)
            if found is not None:
                return found
        raise NoSuchColumn(file, asked[:_MAX_NAME_CHARS], sample.names)
    lengths = [sum(len(row[index]) for row in sample.rows) for index in range(len(names))]
    for usual in _TEXT_NAMES:
        for name, length in zip(names, lengths, strict=True):
            if length and name.strip().lower() == usual:
                return name
    return max(zip(lengths, names, strict=True), key=lambda pair: pair[0])[1] if names else None


def row_text(text: str) -> str:
    """A cell as a document: without blank lines, which stand between documents; empty if nothing can be seen."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip("\n")
    return _BLANK_LINES.sub("\n", text) if text.strip() else ""
