"""HTML → plain text, streamed: no tree is built, so neither size nor depth matters.

Line breaks follow what HTML's `innerText` does (WHATWG HTML, "get the text steps"): paragraphs and their like stand
between blank lines, other blocks on lines of their own, cells of a row between tabs.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser

from textgen.text.encodings import check_encoding, first_undecodable
from textgen.text.importing.conversion import Conversion, Input
from textgen.text.importing.wrapping import is_wide
from textgen.text.readers import TextFile, open_text

_PARAGRAPHS = frozenset(
    {"p", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "ul", "ol", "dl", "pre", "figure", "table", "hr", "menu"}
)
_LINES = frozenset(
    {"div", "li", "dt", "dd", "tr", "caption", "section", "article", "main", "header", "footer", "nav", "aside"}
    | {"address", "details", "summary", "figcaption", "form", "fieldset", "legend", "option", "center", "body", "html"}
    | {"thead", "tbody", "tfoot"}
)
_SKIPPED = frozenset(
    {"script", "style", "title", "template", "noscript", "svg", "math", "iframe", "object", "canvas", "audio", "video"}
    | {"select", "rt", "rp"}
)
_CELLS = frozenset({"td", "th"})
_SPACES = re.compile(r"[ \t\n\r\f]+")
_WHITE = " \t\n\r\f"
# A line end in a text that is written without spaces.
_WIDE = "[\u2e80-\u312f\u3190-\ua4cf\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff]"
_WIDE_LINE_END = re.compile(rf"(?<={_WIDE})[ \t]*[\r\n][ \t\r\n]*(?={_WIDE})")
_CHARSET = re.compile(
    rb"""<(?:meta\b[^>]*?|\?xml\b[^>]*?en)c(?:harset|oding)\s*=\s*["']?\s*([\w.:-]{1,40})""", re.IGNORECASE
)
_HEAD_BYTES = 4096
# What pages mean by these names (WHATWG Encoding).
_WIDER = {
    "iso8859-1": "cp1252",
    "ascii": "cp1252",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
    "iso8859-9": "cp1254",
    "tis-620": "cp874",
}


def convert(file: Input) -> Conversion:
    """The text of a page. An encoding that the page itself declares is believed if all of the page fits it."""
    declared = None
    if file.encoding is None:
        with file.path.open("rb") as stream:
            declared = declared_encoding(stream.read(_HEAD_BYTES))
        if declared is not None and first_undecodable(file.path, declared) is not None:
            declared = None
    text: TextFile = open_text(file.path, file.encoding or declared, file.name)
    return Conversion(html_text(text.blocks()), encoding=text.encoding, guessed=text.guessed)


def declared_encoding(head: bytes) -> str | None:
    """The encoding that the beginning of a page names, as browsers take it; None without, or with a byte-order mark."""
    if head.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return None
    found = _CHARSET.search(head)
    if found is None:
        return None
    try:
        name = check_encoding(found[1].decode("ascii"))
    except ValueError:
        return None
    # Bytes that could be searched so are not UTF-16 or UTF-32, whatever they say.
    return "utf-8" if name.startswith(("utf-16", "utf-32")) else _WIDER.get(name, name)


def html_text(blocks: Iterable[str]) -> Iterator[str]:
    """The text of the HTML that comes in `blocks`."""
    parser = _TextParser()
    for block in blocks:
        parser.feed(block)
        yield parser.take()
    parser.close()
    yield parser.take()


class _TextParser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._out: list[str] = []
        self._last = ""
        self._breaks = 0
        self._space = ""
        self._skipping, self._skip_depth = "", 0
        self._pre, self._pre_begins = 0, False
        self._cells = 0

    def take(self) -> str:
        """What has become text since the last time."""
        text = "".join(self._out)
        self._out.clear()
        return text

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if self._skipping == "rt" and tag in ("rt", "rp", "rb"):
            self._skipping = ""
        if self._skipping:
            self._skip_depth += tag == self._skipping
        elif tag in _SKIPPED:
            self._skipping, self._skip_depth = ("rt" if tag in ("rt", "rp") else tag), 1
        elif tag == "br":
            self._emit_break()
        elif tag in _CELLS:
            self._cell()
        else:
            if tag == "pre":
                self._pre, self._pre_begins = self._pre + 1, True
            self._block(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _SKIPPED:
            self.handle_starttag(tag, attrs)
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._skipping:
            ended = tag == self._skipping or (self._skipping == "rt" and tag in ("rp", "ruby"))
            self._skip_depth -= ended
            if self._skip_depth <= 0:
                self._skipping = ""
            return
        if tag == "pre":
            self._pre = max(0, self._pre - 1)
        if tag not in _CELLS and tag != "br":
            self._block(tag)

    def handle_data(self, data: str) -> None:
        if self._skipping:
            return
        data = data.replace("\u00ad", "")
        if self._pre:
            # The line end behind the tag is none of the text.
            data = data.removeprefix("\n") if self._pre_begins else data
            self._pre_begins = False
            if data:
                self._write(data)
            return
        core = data.strip(_WHITE)
        before = data[: len(data) - len(data.lstrip(_WHITE))]
        if before:
            self._space = "\n" if "\n" in before else self._space or " "
        if core:
            if "\n" in core and not core.isascii():
                core = _WIDE_LINE_END.sub("", core)
            self._write(_SPACES.sub(" ", core))
            if data[-1] in _WHITE:
                self._space = "\n" if "\n" in data[len(data.rstrip(_WHITE)) :] else " "

    def _write(self, text: str) -> None:
        if self._breaks:
            # Breaks before the first text are none.
            breaks = self._breaks - (self._last == "\n")
            self._out.append("\n" * breaks if self._last else "")
        elif self._space and self._last not in ("", "\n", "\t"):
            wrapped = self._space == "\n" and is_wide(self._last) and is_wide(text[0])
            self._out.append("" if wrapped or self._pre else " ")
        self._breaks, self._space = 0, ""
        self._out.append(text)
        self._last = text[-1]

    def _block(self, tag: str) -> None:
        breaks = 2 if tag in _PARAGRAPHS else 1 if tag in _LINES else 0
        if breaks:
            self._breaks, self._space = max(self._breaks, breaks), ""
            self._cells = 0

    def _cell(self) -> None:
        if self._cells and not self._breaks:
            self._out.append("\t")
            self._last, self._space = "\t", ""
        self._cells += 1

    def _emit_break(self) -> None:
        if self._last and not self._breaks:
            self._out.append("\n")
            self._last, self._space = "\n", ""
        elif self._breaks == 1:
            self._breaks = 2
