"""Where in a text its copied passages are, in characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textgen.text.copy_indexes import CopyIndexes
from textgen.text.copying import NgramIndex, Span
from textgen.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Copied:
    """The copied passages of a text, (start, end) in characters by rising start, and the `share` of it that they are.

    A passage that begins before the text begins with it. `share` is 0 for an empty text.
    """

    spans: tuple[Span, ...]
    share: float

    def holds(self, start: int, end: int) -> bool:
        """Whether any of the characters from `start` to `end` are in a passage."""
        return any(first < end and start < last for first, last in self.spans)


@dataclass(frozen=True, eq=False)
class CopyFinder:
    """Finds copies in texts that continue `context_ids`, as far as an index can tell: see `NgramIndex`."""

    index: NgramIndex | CopyIndexes
    tokenizer: Tokenizer
    context_ids: tuple[int, ...] = ()

    def find(self, token_ids: Sequence[int], text: str) -> Copied:
        """`text` is that of `token_ids`, or its beginning."""
        spans = self.index.copied_spans(token_ids, context=self.context_ids)
        found: list[Span] = []
        if spans:
            decoder, ends = self.tokenizer.stream(), [0]
            for token_id in token_ids:
                ends.append(ends[-1] + len(decoder.push(token_id)))
            limits = ((min(len(text), ends[start]), min(len(text), ends[end])) for start, end in spans)
            found = [(start, end) for start, end in limits if start < end]
        return Copied(tuple(found), sum(end - start for start, end in found) / max(1, len(text)))


def share_of_all(copied: Sequence[Copied | None], texts: Sequence[str]) -> float | None:
    """The share of all `texts` together that is copied; None where nothing is known of any."""
    known = [(one, text) for one, text in zip(copied, texts, strict=True) if one is not None]
    characters = sum(len(text) for _, text in known)
    return sum(one.share * len(text) for one, text in known) / max(1, characters) if known else None
