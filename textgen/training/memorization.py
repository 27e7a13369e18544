"""How much of what a model writes is copied from the text that it was trained on: counted, not estimated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textgen.text.copying import NGRAM_TOKENS
from textgen.text.ngrams import Hashes, hash_ngrams

# Blocks that the caches of a processor hold.
_BLOCK_TOKENS = 1 << 15
_TABLE_BITS = 16


@dataclass(frozen=True)
class Memorization:
    """Of some samples: the longest passage that stands in the training text, and the share of their sequences of eight
    tokens that do (0 where the samples have none)."""

    longest_tokens: int
    longest_text: str
    copied_share: float


def measure_memorization(
    samples: Sequence[Sequence[int]], training_ids: NDArray[np.integer], decode: Callable[[Sequence[int]], str]
) -> Memorization:
    """Figures of `samples`, the tokens that a model has added, against `training_ids` [tokens].

    No passage reaches over the end of a document. The ids may be memory-mapped: they are read in blocks, a few times,
    and memory is needed for one block and the samples only. Sequences are compared by hashes of 64 bits: that two
    different ones are taken for the same, in a text of a hundred million tokens, happens less than once in a million
    evaluations.
    """
    search = _Search(samples, training_ids)
    copied, hit_blocks = search.common(NGRAM_TOKENS, search.all_blocks())
    size, hashes, blocks = (NGRAM_TOKENS, copied, hit_blocks) if len(copied) else (0, copied, search.all_blocks())
    too_long = 1 + max(map(len, samples), default=0) if size else NGRAM_TOKENS
    while too_long - size > 1:
        # A passage begins with shorter ones: it is looked for only in the blocks where those were found.
        middle = min((size + too_long) // 2, max(NGRAM_TOKENS // 2, 2 * size))
        found, hit_blocks = search.common(middle, blocks)
        if len(found):
            size, hashes, blocks = middle, found, hit_blocks
        else:
            too_long = middle
    text = decode(search.sequence(size, hashes)) if size else ""
    sequences = search.sequences(NGRAM_TOKENS)
    return Memorization(size, text, float(np.isin(sequences, copied).mean()) if len(sequences) else 0.0)


class _Search:
    """Looks up all sequences of a length that stand in samples in a long text."""

    def __init__(self, samples: Sequence[Sequence[int]], ids: NDArray[np.integer]) -> None:
        self._samples = [np.array(sample, np.int64) for sample in samples]
        self._ids = ids

    def all_blocks(self) -> Sequence[int]:
        """Where the blocks of the text begin."""
        return range(0, len(self._ids), _BLOCK_TOKENS)

    def sequences(self, size: int) -> Hashes:
        """Hashes of all sequences of `size` tokens in the samples, without specials."""
        return np.concatenate([np.zeros(0, np.uint64), *(_text_hashes(sample, size) for sample in self._samples)])

    def sequence(self, size: int, hashes: Hashes) -> list[int]:
        """The first of the samples' sequences of `size` tokens that is among `hashes`."""
        for sample in self._samples:
            found, is_text = hash_ngrams(sample, size)
            places = np.flatnonzero(is_text & np.isin(found, hashes))
            if len(places):
                return [int(token_id) for token_id in sample[places[0] : places[0] + size]]
        return []

    def common(self, size: int, blocks: Sequence[int]) -> tuple[Hashes, Sequence[int]]:
        """The samples' sequences of `size` tokens that begin in `blocks` of the text, and in which of them any do."""
        wanted = np.unique(self.sequences(size))
        table = np.zeros(1 << _TABLE_BITS, np.bool_)
        table[wanted.astype(np.uint16)] = True
        found: list[Hashes] = [wanted[:0]]
        hit_blocks: list[int] = []
        for start in blocks if len(wanted) else ():
            hashes = _text_hashes(np.asarray(self._ids[start : start + _BLOCK_TOKENS + size - 1]), size)
            # Few of them agree with a wanted one in their last bits, and only these are looked up.
            likely = hashes[table[hashes.astype(np.uint16)]]
            here = np.unique(likely[np.isin(likely, wanted)])
            if len(here):
                found.append(here)
                hit_blocks.append(start)
        return np.unique(np.concatenate(found)), hit_blocks


def _text_hashes(ids: NDArray[np.integer], size: int) -> Hashes:
    hashes, is_text = hash_ngrams(ids, size)
    return hashes if is_text.all() else hashes[is_text]
