"""Files of text → token ids on disk, memory-mapped, with a part held out. Everything is streamed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from textgen.config import TextSettings
from textgen.errors import BadCorpus, NoText
from textgen.files import recover_folder, replace_folder
from textgen.progress import Progress, ProgressCallback, ignore_progress
from textgen.text.batches import Batch, StreamBatches
from textgen.text.readers import FileReport, Segment, TextFile, open_text, split_documents
from textgen.text.tokenizer import BOS_ID, EOS_ID, Tokenizer
from textgen.text.tokenizer_training import train_tokenizer

__all__ = ["Batch", "Corpus", "StreamBatches", "TextPart", "build_corpus", "open_corpus"]

FORMAT_VERSION = 1
_CORPUS, _TOKENIZER = "corpus.json", "tokenizer.model"
_TRAIN, _HELDOUT = "train", "heldout"
_REPORTED_LINES = 3
# Beyond so many documents, duplicates are no longer counted: remembering them all would take unbounded memory.
_MAX_REMEMBERED_DOCUMENTS = 1_000_000


@dataclass(frozen=True)
class TextPart:
    """Token ids [tokens] of one part, `<bos> … <eos>` around every document, and the size of the text they stand for.

    A part that begins inside a document begins with `<bos>` all the same; one that ends inside has no `<eos>`.
    """

    ids: NDArray[np.integer]
    characters: int
    bytes: int
    documents: int


@dataclass(frozen=True)
class Corpus:
    """A tokenized text in a folder. `note` says in a sentence where the vocabulary differs from what was asked."""

    folder: Path
    train: TextPart
    heldout: TextPart | None
    tokenizer: Tokenizer
    reports: tuple[FileReport, ...]
    note: str | None


def build_corpus(
    folder: Path,
    files: Sequence[Path],
    settings: TextSettings,
    *,
    tokenizer: Tokenizer | None = None,
    heldout_files: Sequence[Path] = (),
    seed: int = 0,
    progress: ProgressCallback = ignore_progress,
) -> Corpus:
    """Tokenizes `files` into `folder`, replacing what is there.

    Without a `tokenizer` one is trained, on the training part only. `heldout_files` stand in for a held-out share.
    Memory stays bounded whatever the size of the files. Raises `NoText`, `NotText`, `UnreadableText`, `MissingFile`,
    `InvalidSetting` or `CannotWrite`; the old content of the folder then stays.
    """
    sources = [_Source(open_text(path, encoding=settings.encoding), settings.split, False) for path in files]
    sources += [_Source(open_text(path, encoding=settings.encoding), settings.split, True) for path in heldout_files]
    survey = _survey(sources, progress)
    division = _Division(sources, survey, 0.0 if heldout_files else settings.heldout, settings.heldout_by, seed)
    note = None
    if tokenizer is None:
        texts = (segment.text for segment, heldout in division.segments() if not heldout)
        training = train_tokenizer(texts, kind=settings.tokenizer, vocab_size=settings.vocab_size, progress=progress)
        tokenizer, note = training.tokenizer, training.note
    vocabulary = tokenizer

    def fill(new: Path) -> None:
        parts = _encode(new, division, vocabulary, progress)
        if not parts[_TRAIN]["characters"]:
            raise NoText("training text", "nothing", "a few sentences")
        reports = [asdict(report) for report in survey.reports]
        content = {
            "format_version": FORMAT_VERSION,
            "tokenizer_sha256": vocabulary.sha256,
            "parts": parts,
            "reports": reports,
            "note": note,
        }
        (new / _TOKENIZER).write_bytes(vocabulary.to_bytes())
        (new / _CORPUS).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    replace_folder(folder, fill)
    return open_corpus(folder)


def open_corpus(folder: Path) -> Corpus:
    """Opens what `build_corpus` wrote; raises `BadCorpus` naming the file when something is missing or contradicts."""
    recover_folder(folder)
    try:
        content = json.loads((folder / _CORPUS).read_text(encoding="utf-8"))
        if content["format_version"] != FORMAT_VERSION:
            raise BadCorpus(_CORPUS, f"format version {content['format_version']!r} is unknown")
        tokenizer = Tokenizer.load(folder / _TOKENIZER)
        if tokenizer.sha256 != content["tokenizer_sha256"]:
            raise BadCorpus(_TOKENIZER, "not the vocabulary that the token ids were made with")
        parts = {name: _open_part(folder, name, values) for name, values in content["parts"].items()}
        reports = tuple(
            FileReport(**{**report, "first_lines": tuple(report["first_lines"])}) for report in content["reports"]
        )
        return Corpus(folder, parts[_TRAIN], parts.get(_HELDOUT), tokenizer, reports, content["note"])
    except OSError as error:
        raise BadCorpus(_CORPUS, f"cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, BadCorpus):
            raise
        raise BadCorpus(_CORPUS, f"damaged ({error})") from None


def _open_part(folder: Path, name: str, values: dict[str, Any]) -> TextPart:
    path = folder / f"{name}.bin"
    dtype = np.dtype({"uint16": np.uint16, "uint32": np.uint32}[values["dtype"]])
    tokens = int(values["tokens"])
    if path.stat().st_size != tokens * dtype.itemsize:
        raise BadCorpus(path.name, f"{path.stat().st_size} bytes where {tokens} tokens were written")
    ids: NDArray[np.integer] = np.memmap(path, dtype=dtype, mode="r", shape=(tokens,))
    return TextPart(ids, int(values["characters"]), int(values["bytes"]), int(values["documents"]))


class _Source(NamedTuple):
    file: TextFile
    split: str
    heldout: bool

    def segments(self) -> Iterator[Segment]:
        return split_documents(self.file.blocks(), self.split)


@dataclass(frozen=True)
class _Survey:
    reports: tuple[FileReport, ...]

    @property
    def characters(self) -> int:
        return sum(report.characters for report in self.reports)

    @property
    def documents(self) -> int:
        return sum(report.documents for report in self.reports)


def _survey(sources: Sequence[_Source], progress: ProgressCallback) -> _Survey:
    """The first pass: everything is decoded once, so that errors come before work, and counted."""
    seen: set[bytes] = set()
    total = sum(source.file.size_bytes for source in sources)
    done = 0
    reports = []
    for source in sources:
        characters = documents = duplicates = 0
        digest = hashlib.blake2b(digest_size=8)
        first_lines: list[str] = []
        for segment in source.segments():
            characters += len(segment.text)
            digest.update(segment.text.encode())
            if len(first_lines) < _REPORTED_LINES:
                first_lines += [line[:200] for line in segment.text[:2000].splitlines() if line.strip()]
            if segment.ends_document:
                documents += 1
                if digest.digest() in seen:
                    duplicates += 1
                elif len(seen) < _MAX_REMEMBERED_DOCUMENTS:
                    seen.add(digest.digest())
                digest = hashlib.blake2b(digest_size=8)
            if characters % 64 == 0 or len(segment.text) > 1000:
                progress(Progress("reading", done + characters, total, "bytes"))
        done += source.file.size_bytes
        progress(Progress("reading", done, total, "bytes"))
        file = source.file
        shown = tuple(first_lines[:_REPORTED_LINES])
        report = FileReport(
            file.name, file.encoding, file.guessed, file.size_bytes, characters, documents, duplicates, shown
        )
        reports.append(report)
    if not sum(report.characters for report in reports):
        raise NoText("text", "nothing", "a few sentences")
    return _Survey(tuple(reports))


class _Division:
    """Which text is trained on and which is held out; the same at every pass."""

    def __init__(self, sources: Sequence[_Source], survey: _Survey, share: float, by: str, seed: int) -> None:
        self._sources = sources
        self._survey = survey
        self._share = share
        self._by = by
        self._seed = seed
        if share and by == "document" and survey.documents < 2:
            raise NoText("documents to hold one out", f"{survey.documents}", "two; or hold out a share of the text")

    def segments(self) -> Iterator[tuple[Segment, bool]]:
        """Every segment and whether it is held out; a segment across the border comes in two."""
        if self._share and self._by == "document":
            yield from self._by_document()
            return
        left = int((1.0 - self._share) * self._survey.characters)
        for source, report in zip(self._sources, self._survey.reports, strict=True):
            if self._by == "file":
                left = int((1.0 - self._share) * report.characters)
            for segment in source.segments():
                if source.heldout or left <= 0:
                    yield segment, not self._trains_all or source.heldout
                elif self._trains_all or len(segment.text) <= left:
                    yield segment, False
                else:
                    yield Segment(segment.text[:left], False), False
                    yield Segment(segment.text[left:], segment.ends_document), True
                left -= len(segment.text)

    @property
    def characters(self) -> int:
        """Characters of both parts."""
        return self._survey.characters

    @property
    def _trains_all(self) -> bool:
        return self._share == 0.0

    def _by_document(self) -> Iterator[tuple[Segment, bool]]:
        chosen = [self._is_chosen(index) for index in range(min(self._survey.documents, 10_000))]
        index = 0
        for source in self._sources:
            for segment in source.segments():
                heldout = self._is_chosen(index)
                # A handful of documents may all fall on one side; each side needs one.
                if index == len(chosen) - 1 and len(chosen) == self._survey.documents and len(set(chosen)) == 1:
                    heldout = not chosen[0]
                yield segment, heldout
                index += segment.ends_document

    def _is_chosen(self, index: int) -> bool:
        digest = hashlib.blake2b(f"{self._seed}:{index}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self._share * 2**64


class _PartWriter:
    """Appends documents to one part's file."""

    def __init__(self, path: Path, tokenizer: Tokenizer) -> None:
        self._dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
        self._tokenizer = tokenizer
        self._stream = path.open("wb")
        self._inside = False
        self._tokens = self._characters = self._bytes = self._documents = 0

    def write(self, segment: Segment) -> None:
        if not self._inside:
            self._documents += 1
            self._append([BOS_ID])
            self._inside = True
        self._append(self._tokenizer.encode(segment.text))
        self._characters += len(segment.text)
        self._bytes += len(segment.text.encode())
        if segment.ends_document:
            self._append([EOS_ID])
            self._inside = False

    def close_document(self) -> None:
        """The rest of the document goes to the other part."""
        self._inside = False

    def close(self) -> dict[str, Any]:
        self._stream.close()
        return {
            "dtype": self._dtype.name,
            "tokens": self._tokens,
            "characters": self._characters,
            "bytes": self._bytes,
            "documents": self._documents,
        }

    def _append(self, ids: list[int]) -> None:
        self._stream.write(np.array(ids, self._dtype).tobytes())
        self._tokens += len(ids)


def _encode(new: Path, division: _Division, tokenizer: Tokenizer, progress: ProgressCallback) -> dict[str, Any]:
    total = division.characters
    writers = {name: _PartWriter(new / f"{name}.bin", tokenizer) for name in (_TRAIN, _HELDOUT)}
    done = 0
    before = False
    for segment, heldout in division.segments():
        if heldout != before:
            writers[_HELDOUT if before else _TRAIN].close_document()
            before = heldout
        if segment.text:
            writers[_HELDOUT if heldout else _TRAIN].write(segment)
        done += len(segment.text)
        progress(Progress("encoding", done, total, "characters"))
    parts = {name: writer.close() for name, writer in writers.items()}
    if not parts[_HELDOUT]["tokens"]:
        (new / f"{_HELDOUT}.bin").unlink()
        del parts[_HELDOUT]
    return parts
