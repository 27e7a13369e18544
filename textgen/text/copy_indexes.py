"""The indexes of all texts that a model has learned from: its own and those of the models that it was tuned from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from textgen.errors import BadCheckpoint
from textgen.text.copying import NgramIndex, Span
from textgen.text.ngrams import Ids

_MOST = 64
_NAME = "text-{}"


@dataclass(frozen=True, eq=False)
class CopyIndexes:
    """At least one index, of texts in one vocabulary; the model's own text comes first.

    Their file is one of safetensors, with the bytes of each as the tensor "text-0", "text-1" and so on.
    """

    parts: tuple[NgramIndex, ...]

    @property
    def first(self) -> CopyIndexes:
        """That of the model's own text alone."""
        return CopyIndexes(self.parts[:1])

    @property
    def fewest_tokens(self) -> int:
        """The shortest passage that any of them can find."""
        return min(part.fewest_tokens for part in self.parts)

    def copied_spans(self, token_ids: Ids, *, context: Ids = ()) -> list[Span]:
        """As `NgramIndex.copied_spans`, from any of the texts; passages that overlap are one."""
        spans: list[Span] = []
        for start, end in sorted(span for part in self.parts for span in part.copied_spans(token_ids, context=context)):
            if spans and start < spans[-1][1]:
                first, last = spans.pop()
                start, end = first, max(last, end)
            spans.append((start, end))
        return spans

    def copied_share(self, token_ids: Ids, *, context: Ids = ()) -> float:
        """The share of `token_ids` that lies in copied passages; 0 where there are none."""
        return sum(end - start for start, end in self.copied_spans(token_ids, context=context)) / max(1, len(token_ids))

    def within(self, max_bytes: int) -> CopyIndexes:
        """Its first parts, as many as a file of that size holds; the first of all in any case."""
        kept = list(self.parts[:1])
        for part in self.parts[1:_MOST]:
            if len(CopyIndexes((*kept, part)).to_bytes()) > max_bytes:
                break
            kept.append(part)
        return CopyIndexes(tuple(kept))

    def to_bytes(self) -> bytes:
        """What `from_bytes` reads."""
        parts = (np.frombuffer(part.to_bytes(), np.uint8) for part in self.parts)
        return save({_NAME.format(number): part for number, part in enumerate(parts)})

    @classmethod
    def from_bytes(cls, data: bytes, *, tokenizer_sha256: str, file: str = "copy_index.safetensors") -> CopyIndexes:
        """Raises `BadCheckpoint` for bytes that are no indexes, damaged ones, or ones for another tokenizer."""
        try:
            tensors = load(data)
        except (SafetensorError, ValueError, KeyError) as error:
            raise BadCheckpoint(file, "header", "not an index of copies") from error
        names = [_NAME.format(number) for number in range(len(tensors))]
        if not 1 <= len(names) <= _MOST or set(names) != tensors.keys():
            raise BadCheckpoint(file, "header", "not an index of copies")
        parts = []
        for part in (tensors[name] for name in names):
            if part.dtype != np.uint8 or part.ndim != 1:
                raise BadCheckpoint(file, "header", "not an index of copies")
            parts.append(NgramIndex.from_bytes(part.tobytes(), tokenizer_sha256=tokenizer_sha256, file=file))
        return cls(tuple(parts))
