"""The indexes of all texts that a model has learned from: its own and those of the models that it was tuned from."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from textgen.errors import BadCheckpoint
from textgen.text.copying import NgramIndex, Span
from textgen.text.ngrams import Ids

_MAGIC = b"TGCOPY*N"
_COUNT = struct.Struct("<8sH")
_LENGTH = struct.Struct("<Q")
_MOST = 64


@dataclass(frozen=True, eq=False)
class CopyIndexes:
    """At least one index, of texts in one vocabulary; the model's own text comes first.

    The file of a single one is that of `NgramIndex`. That of several names their sizes and holds one after the other.
    """

    parts: tuple[NgramIndex, ...]

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
        parts = [part.to_bytes() for part in self.parts]
        if len(parts) == 1:
            return parts[0]
        lengths = b"".join(_LENGTH.pack(len(part)) for part in parts)
        return _COUNT.pack(_MAGIC, len(parts)) + lengths + b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes, *, tokenizer_sha256: str, file: str = "copy_index.bin") -> CopyIndexes:
        """Raises `BadCheckpoint` for bytes that are no indexes, damaged ones, or ones for another tokenizer."""
        pieces = _pieces(data, file) if data.startswith(_MAGIC) else [data]
        return cls(tuple(NgramIndex.from_bytes(part, tokenizer_sha256=tokenizer_sha256, file=file) for part in pieces))


def _pieces(data: bytes, file: str) -> Sequence[bytes]:
    problem = BadCheckpoint(file, "lengths", "the file is damaged")
    if len(data) < _COUNT.size:
        raise problem
    _, count = _COUNT.unpack_from(data)
    start = _COUNT.size + count * _LENGTH.size
    if not 1 <= count <= _MOST or len(data) < start:
        raise problem
    lengths = [_LENGTH.unpack_from(data, _COUNT.size + number * _LENGTH.size)[0] for number in range(count)]
    if start + sum(lengths) != len(data):
        raise problem
    pieces = []
    for length in lengths:
        pieces.append(data[start : start + length])
        start += length
    return pieces
