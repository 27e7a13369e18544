"""Markdown → plain text by way of HTML (markdown-it-py, CommonMark with tables). Line ends within paragraphs stay."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from markdown_it import MarkdownIt

from textgen.text.importing.conversion import Conversion, Input
from textgen.text.importing.html import html_text
from textgen.text.readers import open_text

# A whole document is parsed at once; long ones in passages, between which links by reference do not reach.
_PASSAGE_CHARS = 1_000_000
# Beyond it, text is lost; each level takes several calls within one another.
_MAX_NESTING = 50
_FRONT_MATTER = re.compile(r"---[ \t]*\n(?:[^\n]*\n){0,200}?(?:---|\.\.\.)[ \t]*\n")
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})", re.MULTILINE)


def convert(file: Input) -> Conversion:
    """The text that the Markdown stands for, without what stands in front of it between lines of dashes."""
    text = open_text(file.path, file.encoding, file.name)
    parser = MarkdownIt("commonmark", {"breaks": True, "maxNesting": _MAX_NESTING}).enable("table")
    pages = (parser.render(passage) for passage in _passages(text.blocks()))
    return Conversion(html_text(pages), encoding=text.encoding, guessed=text.guessed)


def _passages(blocks: Iterable[str]) -> Iterator[str]:
    """Passages that end before a line at the margin that follows a blank one, outside of fenced code."""
    rest, first = "", True
    for block in blocks:
        rest += block
        if first and len(rest) > 1 << 16:
            rest, first = _FRONT_MATTER.sub("", rest, count=1) if rest.startswith("---") else rest, False
        while len(rest) > _PASSAGE_CHARS:
            cut = _cut(rest)
            yield rest[:cut]
            rest = rest[cut:]
    if first and rest.startswith("---"):
        rest = _FRONT_MATTER.sub("", rest, count=1) if _FRONT_MATTER.match(rest) else rest
    yield rest


def _cut(text: str) -> int:
    limit = _PASSAGE_CHARS
    while (cut := text.rfind("\n\n", 1, limit) + 2) > 2:
        if not text[cut : cut + 1].isspace() and len(_FENCE.findall(text, 0, cut)) % 2 == 0:
            return cut
        limit = cut - 2
        if limit < _PASSAGE_CHARS // 2:
            break
    return text.rfind("\n", 1, _PASSAGE_CHARS) + 1 or _PASSAGE_CHARS
