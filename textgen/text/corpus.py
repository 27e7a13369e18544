"""Files of text → token ids on disk, memory-mapped, with a part held out. Everything is streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textgen.config import TextSettings
from textgen.errors import BadCorpus, BadTokenizer, InvalidSetting, NoText
from textgen.files import recover_folder, replace_folder
from textgen.progress import Progress, ProgressCallback, ignore_progress
from textgen.text.batches import Batch, StreamBatches
from textgen.text.division import Division, Source, survey_sources
from textgen.text.part_writer import PartWriter
from textgen.text.readers import FileReport, open_text
from textgen.text.tokenizer import Tokenizer
from textgen.text.tokenizer_training import TokenizerKind, TokenizerTraining, train_tokenizer
from textgen.text.vocabulary import choose_vocabulary

__all__ = ["Batch", "Corpus", "StreamBatches", "TextPart", "build_corpus", "open_corpus"]

FORMAT_VERSION = 1
_CORPUS, _TOKENIZER = "corpus.json", "tokenizer.model"
_TRAIN, _HELDOUT = "train", "heldout"
_PROGRESS_CHARS = 1 << 18


@dataclass(frozen=True, eq=False)
class TextPart:
    """Token ids [tokens] of one part, `<bos> … <eos>` around every document, and the size of the text they stand for.

    A part that begins inside a document begins with `<bos>` all the same; one that ends inside has no `<eos>`.
    """

    ids: NDArray[np.integer]
    characters: int
    bytes: int
    documents: int


@dataclass(frozen=True, eq=False)
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
    """Tokenizes `files` into `folder`, replacing what is there in one step.

    Without a `tokenizer` one is trained, on the training part only; one that is given is that of a base and kept,
    extended or replaced as `settings.base_vocabulary` says. `heldout_files` stand in for a held-out share.
    Memory stays bounded whatever the size of the files: they are read once to be counted, once to be encoded, and once
    in between for the vocabulary.

    Raises `NoText`, `NotText`, `UnreadableText`, `MissingFile`, `InvalidSetting` or `CannotWrite`; the old content of
    the folder then stays.
    """
    sources = [Source(open_text(path, settings.encoding), settings.split, False) for path in files]
    sources += [Source(open_text(path, settings.encoding), settings.split, True) for path in heldout_files]
    survey = survey_sources(sources, seed, progress)
    division = Division(sources, survey, 0.0 if heldout_files else settings.heldout, settings.heldout_by, seed)

    def train(kind: TokenizerKind | None) -> TokenizerTraining:
        texts = _training_texts(division)
        return train_tokenizer(
            texts, kind=kind or settings.tokenizer, vocab_size=settings.vocab_size, progress=progress
        )

    vocabulary, note = choose_vocabulary(tokenizer, settings.base_vocabulary, train)

    def fill(new: Path) -> None:
        content = {
            "format_version": FORMAT_VERSION,
            "tokenizer_sha256": vocabulary.sha256,
            "vocab_size": vocabulary.vocab_size,
            "parts": _encode(new, division, vocabulary, progress),
            "reports": [asdict(report) for report in survey.reports],
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
    except BadCorpus:
        raise
    except BadTokenizer as error:
        raise BadCorpus(_TOKENIZER, str(error.params["problem"])) from None
    except OSError as error:
        raise BadCorpus(str(error.filename or folder), f"cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadCorpus(_CORPUS, f"damaged ({error})") from None


def _open_part(folder: Path, name: str, values: dict[str, Any]) -> TextPart:
    path = folder / f"{name}.bin"
    dtype = np.dtype({"uint16": np.uint16, "uint32": np.uint32}[values["dtype"]])
    tokens = int(values["tokens"])
    if path.stat().st_size != tokens * dtype.itemsize:
        raise BadCorpus(path.name, f"{path.stat().st_size} bytes where {tokens} tokens were written")
    ids: NDArray[np.integer] = np.memmap(path, dtype=dtype, mode="r", shape=(tokens,))
    return TextPart(ids, int(values["characters"]), int(values["bytes"]), int(values["documents"]))


def _training_texts(division: Division) -> Iterator[str]:
    """The training part in blocks; short documents come together, a line each."""
    waiting: list[str] = []
    waiting_chars = 0
    for segment, heldout in division.segments():
        if heldout:
            continue
        waiting.append(segment.text)
        waiting_chars += len(segment.text)
        if segment.ends_document:
            waiting.append("\n")
        if waiting_chars >= _PROGRESS_CHARS:
            yield "".join(waiting)
            waiting, waiting_chars = [], 0
    if waiting:
        yield "".join(waiting)


def _encode(new: Path, division: Division, tokenizer: Tokenizer, progress: ProgressCallback) -> dict[str, Any]:
    done, due, before = 0, _PROGRESS_CHARS, False
    with PartWriter(new / f"{_TRAIN}.bin", tokenizer) as train, PartWriter(new / f"{_HELDOUT}.bin", tokenizer) as held:
        for segment, heldout in division.segments():
            if heldout != before:
                (held if before else train).leave_document()
                before = heldout
            (held if heldout else train).add(segment)
            done += len(segment.text)
            if done >= due:
                progress(Progress("encoding", done, division.characters, "characters"))
                due += _PROGRESS_CHARS
    progress(Progress("encoding", done, division.characters, "characters"))
    if done != division.characters:
        raise InvalidSetting("files", "files that changed while they were read", "files that stay as they are")
    if not train.tokens:
        raise NoText("training text", "nothing", "a few sentences")
    if not held.tokens:
        (new / f"{_HELDOUT}.bin").unlink()
    return {
        name: {
            "dtype": part.dtype.name,
            "tokens": part.tokens,
            "characters": part.characters,
            "bytes": part.bytes,
            "documents": part.documents,
        }
        for name, part in ((_TRAIN, train), (_HELDOUT, held))
        if part.tokens
    }
