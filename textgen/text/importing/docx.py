"""Word documents → plain text: one pass over the XML, so that memory does not grow with the document.

Of the libraries for this, mammoth loses line breaks in its raw text, python-docx leaves out content controls and
tracked insertions, and both hold the whole document as a tree.
"""

from __future__ import annotations

from collections.abc import Iterator
from posixpath import join, normpath

from textgen.errors import DamagedFile
from textgen.text.importing.archives import Archive, Member
from textgen.text.importing.conversion import Conversion, Input
from textgen.text.importing.xml_events import XmlEvent, xml_events

# Deleted text, the older copy of a drawing, and how to pronounce something.
_SKIPPED = frozenset({"del", "moveFrom", "Fallback", "rt"})
_TEXT = frozenset({"t"})
_MARKS = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-", "ptab": "\t"}
_NOTES = ("footnotes.xml", "endnotes.xml")


def convert(file: Input) -> Conversion:
    """Paragraphs with a blank line between them, rows of tables as lines with tabs, notes at the end.

    Left out: deletions that are tracked, comments, headers and footers.
    """
    return Conversion(_texts(file))


def _texts(file: Input) -> Iterator[str]:
    with Archive(file.path, file.name, file.limits, "DOCX") as package:
        main = _main_part(package)
        if main is None:
            raise DamagedFile(file.name, "DOCX")
        folder = main.info.filename.rpartition("/")[0]
        parts = [main, *(package.find(join(folder, name)) for name in _NOTES)]
        for part in parts:
            if part is not None:
                yield from _Body().texts(xml_events(package.stream(part)))


def _main_part(package: Archive) -> Member | None:
    relations = package.find("_rels/.rels")
    if relations is not None:
        for event in xml_events(package.stream(relations)):
            if event.kind == "start" and event.attributes.get("Type", "").endswith("/officeDocument"):
                return package.find(normpath(event.attributes.get("Target", "").lstrip("/")))
    return package.find("word/document.xml")


class _Body:
    """What is open while the events of one part pass by."""

    def __init__(self) -> None:
        self._path: list[str] = []
        self._skipped = 0
        # Paragraphs can hold others: text boxes stand in the paragraph that they are anchored to.
        self._paragraphs: list[list[str]] = []
        # Paragraphs of each open cell, cells of each open row.
        self._cells: list[list[str]] = []
        self._rows: list[list[str]] = []

    def texts(self, events: Iterator[XmlEvent]) -> Iterator[str]:
        for event in events:
            if event.kind == "text":
                if self._paragraphs and not self._skipped and self._path[-1] in _TEXT:
                    self._paragraphs[-1].append(event.name)
            elif event.kind == "start":
                self._start(event)
            else:
                yield from self._end(event.name)

    def _start(self, event: XmlEvent) -> None:
        name = event.name
        inside = self._path[-1] if self._path else ""
        self._path.append(name)
        separator = name in ("footnote", "endnote") and "type" in event.attributes
        self._skipped += name in _SKIPPED or separator
        if separator:
            self._path[-1] = "del"
        if self._skipped:
            return
        if name == "p":
            self._paragraphs.append([])
        elif name == "tr":
            self._rows.append([])
        elif name == "tc":
            self._cells.append([])
        elif name in _MARKS and inside == "r" and self._paragraphs:
            self._paragraphs[-1].append(_MARKS[name])

    def _end(self, name: str) -> Iterator[str]:
        name = self._path.pop()
        if self._skipped:
            self._skipped -= name in _SKIPPED
        elif name == "p" and self._paragraphs:
            yield from self._put("".join(self._paragraphs.pop()).replace("\u00ad", ""), "\n\n")
        elif name == "tc" and self._cells:
            cell = "\n".join(self._cells.pop())
            if self._rows:
                self._rows[-1].append(cell)
        elif name == "tr" and self._rows:
            yield from self._put("\t".join(self._rows.pop()), "\n")
        elif name == "tbl" and not self._cells:
            yield "\n"

    def _put(self, text: str, end: str) -> Iterator[str]:
        """To the cell that is open, or out."""
        if not text.strip():
            return
        if self._cells:
            self._cells[-1].append(text)
        else:
            yield text + end
