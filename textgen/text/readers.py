"""Files of any usual encoding as streams of text blocks, and what there is to say about each file."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from textgen.errors import MissingFile
from textgen.text.documents import Segment, split_documents
from textgen.text.encodings import READ_BYTES, check_encoding, decoded, detect_encoding

__all__ = ["FileReport", "ReportBuilder", "Segment", "TextFile", "open_text", "report_text", "split_documents"]

BLOCK_CHARS = 1 << 18
_FIRST_LINES = 3
_FIRST_LINE_CHARS = 120
# Beyond so many documents, duplicates are no longer looked for: remembering them all would take unbounded memory.
_MAX_COMPARED_DOCUMENTS = 1_000_000


@dataclass(frozen=True)
class TextFile:
    """A readable file. `guessed` tells that its encoding was guessed: a person should look at the first lines."""

    path: Path
    name: str
    encoding: str
    guessed: bool
    size_bytes: int

    def blocks(self, max_chars: int = BLOCK_CHARS, *, line_ends: set[str] | None = None) -> Iterator[str]:
        """The text in blocks of at most `max_chars` characters that end with a line where possible, else with a word.

        All line ends become a line feed and a byte-order mark is left out; `line_ends` is told which kinds there were.
        Raises `UnreadableText` with the offset in the file of the first byte that is no text in this encoding.
        """
        newlines = io.IncrementalNewlineDecoder(None, translate=True)
        rest = ""
        for text in decoded(self._chunks(), self.encoding, self.name):
            rest += newlines.decode(text)
            start = 0
            while len(rest) - start > max_chars:
                cut = _cut(rest, start, max_chars)
                yield rest[start:cut]
                start = cut
            rest = rest[start:]
        rest += newlines.decode("", final=True)
        if line_ends is not None:
            found = newlines.newlines or ()
            line_ends |= {found} if isinstance(found, str) else {*found}
        if rest:
            yield rest

    def _chunks(self) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as stream:
                yield from _read_chunks(stream)
        except OSError as error:
            raise _missing(self.path, error) from None


def open_text(path: Path, encoding: str | None = None, name: str | None = None) -> TextFile:
    """Finds out a file's encoding, or takes the one given; `name` is what people call the file.

    Raises `MissingFile` for a file that cannot be read, `InvalidSetting` for an unknown encoding, `NotText` for a
    binary file.
    """
    name = name or path.name
    try:
        size = path.stat().st_size
        if encoding is not None:
            path.open("rb").close()
            return TextFile(path, name, check_encoding(encoding), False, size)
        found = detect_encoding(path, name)
    except OSError as error:
        raise _missing(path, error) from None
    return TextFile(path, name, found.name, found.guessed, size)


@dataclass(frozen=True)
class FileReport:
    """What was found in a file. `characters` are those of its documents, without separators.

    `duplicates` counts documents that are exactly equal to an earlier one, in this file or another of the same corpus;
    `not_compared` those that came after the first million different ones and were not remembered. `newlines` is
    "\\n", "\\r\\n", "\\r", "mixed" or "none".
    """

    name: str
    encoding: str
    guessed: bool
    bytes: int
    characters: int
    documents: int
    duplicates: int
    first_lines: tuple[str, ...]
    not_compared: int = 0
    newlines: str = "none"


@dataclass
class SeenDocuments:
    """Digests of the documents of a corpus, as many as memory allows."""

    max_documents: int = _MAX_COMPARED_DOCUMENTS
    _digests: set[bytes] = field(default_factory=set)

    def add(self, digest: bytes) -> bool | None:
        """Whether this document came before; None when it cannot be known of later ones whether they equal it."""
        if digest in self._digests:
            return True
        if len(self._digests) >= self.max_documents:
            return None
        self._digests.add(digest)
        return False


class ReportBuilder:
    """Looks at the segments of one file as they pass by."""

    def __init__(self, file: TextFile, seen: SeenDocuments) -> None:
        self.characters = self.documents = 0
        self._file = file
        self._seen = seen
        self._duplicates = self._not_compared = 0
        self._first_lines: list[str] = []
        self._digest = hashlib.blake2b(digest_size=12)

    def add(self, segment: Segment) -> None:
        """Counts the next segment."""
        self.characters += len(segment.text)
        self._digest.update(segment.text.encode())
        if len(self._first_lines) < _FIRST_LINES:
            lines = segment.text[: 20 * _FIRST_LINE_CHARS].split("\n")
            self._first_lines += [_shortened(line.rstrip()) for line in lines if line.strip()]
        if segment.ends_document:
            self.documents += 1
            before = self._seen.add(self._digest.digest())
            self._duplicates += before is True
            self._not_compared += before is None
            self._digest = hashlib.blake2b(digest_size=12)

    def report(self, line_ends: Iterable[str] = ()) -> FileReport:
        """What was found, once all segments have passed."""
        file, kinds = self._file, sorted(line_ends)
        return FileReport(
            name=file.name,
            encoding=file.encoding,
            guessed=file.guessed,
            bytes=file.size_bytes,
            characters=self.characters,
            documents=self.documents,
            duplicates=self._duplicates,
            not_compared=self._not_compared,
            first_lines=tuple(self._first_lines[:_FIRST_LINES]),
            newlines="mixed" if len(kinds) > 1 else kinds[0] if kinds else "none",
        )


def report_text(file: TextFile, split: str = "file") -> FileReport:
    """Reads the whole file to report on it; raises `UnreadableText`."""
    line_ends: set[str] = set()
    builder = ReportBuilder(file, SeenDocuments())
    for segment in split_documents(file.blocks(line_ends=line_ends), split):
        builder.add(segment)
    return builder.report(line_ends)


def _shortened(line: str) -> str:
    return line if len(line) <= _FIRST_LINE_CHARS else line[: _FIRST_LINE_CHARS - 1] + "…"


def _cut(text: str, start: int, max_chars: int) -> int:
    """Where a block of at most `max_chars` from `start` ends: after a line, else before a space, else anywhere."""
    limit = start + max_chars
    cut = text.rfind("\n", start, limit) + 1 or text.rfind(" ", start + 1, limit)
    return cut if cut > start else limit


def _read_chunks(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(READ_BYTES):
        yield chunk


def _missing(path: Path, error: OSError) -> MissingFile:
    return MissingFile(str(path), error.strerror or str(error))
