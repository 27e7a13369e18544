"""Which text is trained on and which is held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from textgen.errors import NoText
from textgen.progress import Progress, ProgressCallback
from textgen.text.documents import Segment, split_documents
from textgen.text.readers import FileReport, ReportBuilder, SeenDocuments, TextFile

HeldOutBy = Literal["text", "file", "document"]

_DRAWN_CHARS = 4096
_PROGRESS_CHARS = 1 << 18


@dataclass(frozen=True)
class Source:
    """A file, how it is cut into documents, and whether all of it is held out."""

    file: TextFile
    split: str
    heldout: bool

    def segments(self, line_ends: set[str] | None = None) -> Iterator[Segment]:
        """Reads the file anew."""
        return split_documents(self.file.blocks(line_ends=line_ends), self.split)


@dataclass(frozen=True)
class Survey:
    """What a first reading of all files found. `lowest` and `highest` are the documents with the extreme draws."""

    reports: tuple[FileReport, ...]
    lowest: tuple[float, int]
    highest: tuple[float, int]

    @property
    def characters(self) -> int:
        """Characters of all documents."""
        return sum(report.characters for report in self.reports)

    @property
    def documents(self) -> int:
        """Documents of all files."""
        return sum(report.documents for report in self.reports)


def survey_sources(sources: Sequence[Source], seed: int, progress: ProgressCallback) -> Survey:
    """Reads everything once, so that errors come before work; raises `UnreadableText`, or `NoText` for no text."""
    total = sum(source.file.size_bytes for source in sources)
    done = documents = 0
    seen = SeenDocuments()
    lowest, highest = (2.0, -1), (-1.0, -1)
    reports: list[FileReport] = []
    for source in sources:
        builder, line_ends, due = ReportBuilder(source.file, seen), set[str](), _PROGRESS_CHARS
        drawn: float | None = None
        for segment in source.segments(line_ends):
            builder.add(segment)
            drawn = _draw(segment.text, seed) if drawn is None else drawn
            if segment.ends_document:
                lowest, highest = min(lowest, (drawn, documents)), max(highest, (drawn, documents))
                documents, drawn = documents + 1, None
            if builder.characters >= due:
                # Characters stand in for bytes here; there are never more of them.
                progress(Progress("reading", done + builder.characters, total, "bytes"))
                due += _PROGRESS_CHARS
        reports.append(builder.report(line_ends))
        done += source.file.size_bytes
        progress(Progress("reading", done, total, "bytes"))
    survey = Survey(tuple(reports), lowest, highest)
    if not survey.characters:
        raise NoText("text", "nothing", "a few sentences")
    return survey


class Division:
    """Divides the text of `sources` in the same way each time it is read.

    `by` "text" cuts all files together at ⌊(1 − share) · characters⌋, "file" cuts each of them so, and "document" holds
    out whole documents drawn by how they begin, so that equal ones are never on both sides; at least one document then
    is on each side.
    """

    def __init__(self, sources: Sequence[Source], survey: Survey, share: float, by: HeldOutBy, seed: int) -> None:
        self.characters = survey.characters
        self._sources = sources
        self._share = share if by == "document" else 0.0
        self._seed = seed
        self._cuts = _cuts([report.characters for report in survey.reports], share, by)
        self._heldout_document = self._trained_document = -1
        if self._share:
            if survey.documents < 2:
                raise NoText("documents to hold one out", f"{survey.documents}", "two; or hold out a share of the text")
            if survey.lowest[0] >= share:
                self._heldout_document = survey.lowest[1]
            elif survey.highest[0] < share:
                self._trained_document = survey.highest[1]

    def segments(self) -> Iterator[tuple[Segment, bool]]:
        """Every segment and whether it is held out; one that the cut goes through comes as two."""
        document = 0
        for source, left in zip(self._sources, self._cuts, strict=True):
            chosen: bool | None = source.heldout or None
            for segment in source.segments():
                if self._share and chosen is None:
                    chosen = self._is_held_out(document, segment.text)
                if chosen or left <= 0:
                    yield segment, True
                elif len(segment.text) <= left:
                    yield segment, False
                else:
                    yield Segment(segment.text[:left], False), False
                    yield Segment(segment.text[left:], segment.ends_document), True
                left -= len(segment.text)
                if segment.ends_document:
                    document += 1
                    chosen = source.heldout or None

    def _is_held_out(self, document: int, beginning: str) -> bool:
        drawn = _draw(beginning, self._seed) < self._share
        return document == self._heldout_document or (drawn and document != self._trained_document)


def _cuts(characters: Sequence[int], share: float, by: HeldOutBy) -> list[int]:
    """How many characters of each file are trained on, as far as a cut decides it."""
    if by == "document":
        return list(characters)
    if by == "file":
        return [_kept(count, share) for count in characters]
    left = _kept(sum(characters), share)
    cuts: list[int] = []
    for count in characters:
        cuts.append(min(count, left))
        left -= cuts[-1]
    return cuts


def _kept(characters: int, share: float) -> int:
    """⌊(1 − share) · characters⌋ in decimals, where a tenth is a tenth: int(0.9 * characters) for 0.1."""
    return int((1 - Decimal(repr(share))) * characters)


def _draw(beginning: str, seed: int) -> float:
    """A number in [0, 1) that depends on the seed and on how a document begins."""
    digest = hashlib.blake2b(f"{seed}:{beginning[:_DRAWN_CHARS]}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2.0**53
