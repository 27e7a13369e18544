"""SubRip subtitles → plain text: what is said, a line for each subtitle."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from textgen.text.importing.conversion import Conversion, Input
from textgen.text.importing.lines import text_lines
from textgen.text.importing.wrapping import join_wrapped
from textgen.text.readers import open_text

_TIMES = re.compile(r"\s*\d+:\d\d:\d\d[,.]\d{1,3}\s*-->\s*\d+:\d\d:\d\d[,.]\d{1,3}")
_MARKUP = re.compile(r"</?(?:[biu]|font|c)\b[^<>\n]*>|\{\\[^{}\n]*\}", re.IGNORECASE)
# Someone else speaks, or it is sung.
_NEW_LINE = ("-", "–", "—", "♪", "♫", "#")
_MAX_LINE_CHARS = 1 << 20


def convert(file: Input) -> Conversion:
    """Subtitles without numbers and times; lines of one subtitle become one, unless another speaker begins."""
    text = open_text(file.path, file.encoding, file.name)
    lines = text_lines(text.blocks(), _MAX_LINE_CHARS)
    return Conversion(_texts(lines), encoding=text.encoding, guessed=text.guessed)


def _texts(lines: Iterable[str]) -> Iterator[str]:
    said: list[str] = []
    for line in lines:
        line = line.strip()
        if _TIMES.match(line):
            # The number of a subtitle stands above its time, with or without a blank line before.
            if said and said[-1].isdecimal():
                said.pop()
            yield _joined(said)
            said = []
        elif line:
            said.append(_MARKUP.sub("", line).strip())
        elif said and not said[-1].isdecimal():
            yield _joined(said)
            said = []
    yield _joined(said)


def _joined(lines: list[str]) -> str:
    text = ""
    for line in filter(None, lines):
        start, _, last = text.rpartition("\n")
        separator = "\n" if start else ""
        text = (
            f"{text}\n{line}" if text and line.startswith(_NEW_LINE) else start + separator + join_wrapped(last, line)
        )
    return text + "\n" if text else ""
