"""Writes one part of a corpus: documents as token ids, and what has to be known about them."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np

from textgen.text.documents import Segment
from textgen.text.tokenizer import BOS_ID, EOS_ID, Tokenizer

_BUFFER_CHARS = 1 << 18


class PartWriter:
    """Appends `<bos>` ids… `<eos>` for every document to a file of uint16, or of uint32 for large vocabularies.

    Text waits until there is enough of it to be encoded in one go, which is much faster for short documents.
    """

    def __init__(self, path: Path, tokenizer: Tokenizer) -> None:
        self.tokens = self.characters = self.bytes = self.documents = 0
        self.dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
        self._tokenizer = tokenizer
        self._stream = path.open("wb")
        self._inside = False
        self._waiting: list[int | str] = []
        self._waiting_chars = 0

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._write()
        finally:
            self._stream.close()

    def add(self, segment: Segment) -> None:
        """Appends a segment, which begins a document unless one is open."""
        if not self._inside:
            self._waiting.append(BOS_ID)
            self._inside = True
            self.documents += 1
        self._waiting.append(segment.text)
        self._waiting_chars += len(segment.text)
        self.characters += len(segment.text)
        if segment.ends_document:
            self._waiting.append(EOS_ID)
            self._inside = False
        if self._waiting_chars >= _BUFFER_CHARS:
            self._write()

    def leave_document(self) -> None:
        """The rest of the document goes to the other part: no `<eos>` here, and another `<bos>` there."""
        self._inside = False

    def _write(self) -> None:
        texts = [item for item in self._waiting if isinstance(item, str)]
        encoded = iter(self._tokenizer.encode_many(texts))
        for item in self._waiting:
            ids = next(encoded) if isinstance(item, str) else [item]
            self._stream.write(np.array(ids, self.dtype).tobytes())
            self.tokens += len(ids)
        self.bytes += sum(len(text) if text.isascii() else len(text.encode()) for text in texts)
        self._waiting, self._waiting_chars = [], 0
