"""Writes converted text to a file and looks at it on its way."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from textgen.errors import HoldsNoText
from textgen.files import explain_write_errors
from textgen.text.documents import Segment, split_documents
from textgen.text.importing.conversion import Conversion
from textgen.text.importing.records import ImportedText
from textgen.text.readers import ReportBuilder, SeenDocuments, TextFile
from textgen.text.scripts import ScriptCounter

_SURROGATES = re.compile("[\ud800-\udfff]")
_MAX_SCRIPTS = 20


@dataclass
class ImportedDocuments(SeenDocuments):
    """Digests of the documents of an import. Those of a file count once it is converted to its end."""

    _pending: set[bytes] = field(default_factory=set)

    def add(self, digest: bytes) -> bool | None:
        """As in `SeenDocuments`, those of the file that is being converted included."""
        if digest in self._digests or digest in self._pending:
            return True
        if len(self._digests) + len(self._pending) >= self.max_documents:
            return None
        self._pending.add(digest)
        return False

    def keep(self) -> bytes:
        """Ends a file that was converted; returns its new digests one after another."""
        new = b"".join(self._pending)
        self._digests |= self._pending
        self._pending.clear()
        return new

    def drop(self) -> None:
        """Ends a file that could not be converted."""
        self._pending.clear()

    def restore(self, digests: bytes, size: int = 12) -> None:
        """Takes up what several calls of `keep` returned."""
        self._digests |= {digests[start : start + size] for start in range(0, len(digests) - size + 1, size)}


def write_text(
    conversion: Conversion,
    target: Path,
    *,
    name: str,
    kind: str,
    size_bytes: int,
    seen: SeenDocuments,
    tick: Callable[[int], None] = lambda _written: None,
) -> ImportedText:
    """Writes the conversion's documents to `target` in UTF-8 with a blank line between them; tells what was found.

    NUL is left out and lone surrogates become U+FFFD; the file ends with a line end. `tick` is told how many bytes were
    written. Raises `HoldsNoText`, `CannotWrite`, and what the conversion raises.
    """
    file = TextFile(target, name, conversion.encoding or "utf-8", conversion.guessed, size_bytes)
    builder = ReportBuilder(file, seen)
    scripts = ScriptCounter()
    visible, end = False, ""
    with explain_write_errors(target):
        stream = target.open("wb")
    with stream:
        for segment in _segments(conversion):
            builder.add(segment)
            scripts.add(segment.text)
            visible = visible or not segment.text.isspace()
            with explain_write_errors(target):
                stream.write((end + segment.text).encode())
            ends_line = segment.text.endswith("\n")
            end = ("\n" if ends_line else "\n\n") if segment.ends_document else ""
            tick(stream.tell())
        if not visible:
            raise HoldsNoText(name)
        with explain_write_errors(target):
            stream.write(end[1:].encode())
            stream.flush()
    report = builder.report()
    return ImportedText(
        name=name,
        kind=kind,
        path=target,
        encoding=conversion.encoding,
        guessed=conversion.guessed,
        bytes=size_bytes,
        characters=report.characters,
        documents=report.documents,
        duplicates=report.duplicates,
        first_lines=report.first_lines,
        columns=conversion.columns,
        column=conversion.column,
        scripts=scripts.shares()[:_MAX_SCRIPTS],
        problem=conversion.problem,
    )


def _segments(conversion: Conversion) -> Iterator[Segment]:
    texts = (text for raw in conversion.texts if (text := clean(raw)))
    if conversion.rows:
        return (Segment(text, True) for text in texts)
    return split_documents(texts if conversion.kept else _trimmed(texts), "file")


def _trimmed(texts: Iterator[str]) -> Iterator[str]:
    """Without line ends before the first and after the last visible character."""
    started, newlines = False, 0
    for text in texts:
        if not started:
            text = text.lstrip("\n")
        kept = text.rstrip("\n")
        if kept:
            yield "\n" * newlines + kept
            started, newlines = True, 0
        newlines += len(text) - len(kept) if started else 0


def clean(text: str) -> str:
    """`text` without NUL, lone surrogates replaced."""
    if "\0" in text:
        text = text.replace("\0", "")
    if _SURROGATES.search(text):
        # Two halves that belong together become the one character they mean.
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
