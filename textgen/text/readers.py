"""Text files in any usual encoding, streamed, and cut into documents."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from textgen.errors import InvalidSetting, MissingFile, UnreadableText
from textgen.text.encodings import byte_order_mark, guess_encoding

_READ_BYTES = 1 << 20
_BLOCK_CHARS = 1 << 20


@dataclass(frozen=True)
class TextFile:
    """A file and how to read it. `guessed` tells whether the encoding was found out or given."""

    path: Path
    name: str
    encoding: str
    guessed: bool
    byte_order_mark_bytes: int
    size_bytes: int

    def blocks(self, max_chars: int = _BLOCK_CHARS) -> Iterator[str]:
        """The text in blocks of about `max_chars`, cut after a newline where possible, else before a space.

        Every newline is "\\n". Raises `UnreadableText` with the offset in the file of the first byte that is not text.
        """
        rest = ""
        for text in self._decoded():
            rest += text
            while len(rest) > max_chars:
                cut = _cut(rest, max_chars)
                yield rest[:cut]
                rest = rest[cut:]
        if rest:
            yield rest

    def _decoded(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder(self.encoding)("strict")
        newlines = io.IncrementalNewlineDecoder(None, translate=True)
        position = self.byte_order_mark_bytes
        with _opened(self.path) as stream:
            stream.seek(position)
            final = False
            while not final:
                data = stream.read(_READ_BYTES)
                final = not data
                try:
                    text = decoder.decode(data, final)
                except UnicodeDecodeError as error:
                    # The decoder adds what it had kept from earlier reads in front of what it was given.
                    kept = len(error.object) - len(data)
                    raise UnreadableText(self.name, position - kept + error.start, self.encoding) from None
                position += len(data)
                yield newlines.decode(text, final)


class Segment(NamedTuple):
    """A piece of a document; long documents come in several."""

    text: str
    ends_document: bool


@dataclass(frozen=True)
class FileReport:
    """What was found in a file. `duplicates` counts documents that had been seen before, in this file or another."""

    name: str
    encoding: str
    guessed: bool
    bytes: int
    characters: int
    documents: int
    duplicates: int
    first_lines: tuple[str, ...]


def open_text(path: Path, *, encoding: str | None = None, name: str | None = None) -> TextFile:
    """Finds out how to read a text file; `encoding` overrides the guess.

    Raises `MissingFile`, `NotText` for a file that is no text, `InvalidSetting` for an unknown encoding.
    """
    name = name or path.name
    try:
        size = path.stat().st_size
    except OSError as error:
        raise MissingFile(str(path), error.strerror or "unknown reason") from None
    with _opened(path) as stream:
        start = stream.read(4)
        mark, marked = byte_order_mark(start)
        if encoding is None:
            found = marked or guess_encoding(stream, size, name)
            return TextFile(path, name, found, True, len(mark), size)
        asked = _known_encoding(encoding)
        if asked in ("utf-16", "utf-32"):
            asked = marked if marked and marked.startswith(asked) else f"{asked}-le"
        skipped = len(mark) if marked == asked.removesuffix("-sig") else 0
        return TextFile(path, name, asked.removesuffix("-sig"), False, skipped, size)


def split_documents(blocks: Iterable[str], split: str) -> Iterator[Segment]:
    """Cuts a text into documents: "file" (none), "blank-line", "line", or at every occurrence of another text.

    What separates documents belongs to none of them, and documents of nothing but white space are left out.
    """
    if split == "file":
        pieces = _whole(blocks)
    elif split == "blank-line":
        pieces = _paragraphs(blocks)
    else:
        pieces = _separated(blocks, "\n" if split == "line" else split)
    begun = False
    for segment in pieces:
        if not begun and segment.ends_document and not segment.text.strip():
            continue
        begun = not segment.ends_document
        yield segment


def _whole(blocks: Iterable[str]) -> Iterator[Segment]:
    before: str | None = None
    for block in blocks:
        if before is not None:
            yield Segment(before, False)
        before = block
    if before is not None:
        yield Segment(before, True)


def _separated(blocks: Iterable[str], separator: str) -> Iterator[Segment]:
    rest = ""
    for block in blocks:
        rest += block
        *documents, rest = rest.split(separator)
        for document in documents:
            yield Segment(document, True)
        if len(rest) > 2 * _BLOCK_CHARS:
            # Part of a separator may stand at the end; it stays.
            cut = len(rest) - len(separator)
            yield Segment(rest[:cut], False)
            rest = rest[cut:]
    yield Segment(rest, True)


def _paragraphs(blocks: Iterable[str]) -> Iterator[Segment]:
    """Documents between lines that are empty or blank."""
    kept: list[str] = []
    kept_chars = 0
    for segment in _separated(blocks, "\n"):
        line, whole = segment
        if whole and not line.strip():
            if kept:
                yield Segment("".join(kept).removesuffix("\n"), True)
                kept, kept_chars = [], 0
            continue
        kept.append(line + "\n" if whole else line)
        kept_chars += len(line)
        if kept_chars > 2 * _BLOCK_CHARS:
            # The last line waits, because the newline after it may be the document's end and then is dropped.
            yield Segment("".join(kept[:-1]), False)
            kept, kept_chars = kept[-1:], 0
    if kept:
        yield Segment("".join(kept).removesuffix("\n"), True)


def _cut(text: str, max_chars: int) -> int:
    newline = text.rfind("\n", 0, max_chars)
    if newline >= 0:
        return newline + 1
    space = text.rfind(" ", 1, max_chars)
    return space if space > 0 else max_chars


def _known_encoding(name: str) -> str:
    try:
        found = codecs.lookup(name)
        b"".decode(name)
    except (LookupError, ValueError):
        raise InvalidSetting(
            "encoding", name, "a text encoding such as utf-8, gb18030, big5, shift_jis, cp1252"
        ) from None
    return found.name


def _opened(path: Path) -> io.BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise MissingFile(str(path), error.strerror or "unknown reason") from None
