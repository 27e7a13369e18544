"""`CopyGuard`'s search through the vocabulary as machine code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from textgen.compiled import compiled
from textgen.text.fuse_filter import FINGERPRINT_MULTIPLIER, PLACE_MULTIPLIER, SEGMENT_BITS, Fingerprints
from textgen.text.ngrams import FIRST_MULTIPLIER, MULTIPLIER, SECOND_MULTIPLIER, Hashes, mixed

if TYPE_CHECKING:
    from textgen.text.copying import NgramIndex

# Arithmetic of a uint64 with a plain number would be in floating point.
_2, _33, _64 = (np.uint64(number) for number in (2, 33, 64))
_1ST, _2ND, _3RD, _4TH = (np.uint64(64 - part * SEGMENT_BITS) for part in (1, 2, 3, 4))
_FIRST, _SECOND = np.uint64(FIRST_MULTIPLIER), np.uint64(SECOND_MULTIPLIER)
_PLACE, _FINGERPRINT = np.uint64(PLACE_MULTIPLIER), np.uint64(FINGERPRINT_MULTIPLIER)


def search_compiled(index: NgramIndex, before: int, candidates: Hashes) -> NDArray[np.int64]:
    """As `copying.search_plainly`, for an index whose filter is grouped."""
    group = mixed(np.array([before], np.uint64))
    found = np.empty(len(candidates), np.int64)
    count = _search(
        np.uint64(before * MULTIPLIER % 2**64),
        candidates,
        np.uint64(index.limit),
        np.uint64(index.filter.seed),
        np.uint64(index.filter.bits),
        index.filter.segments_of(group),
        found,
    )
    return found[:count]


@compiled
def _search(
    before: np.uint64,
    candidates: Hashes,
    limit: np.uint64,
    seed: np.uint64,
    bits: np.uint64,
    segments: Fingerprints,
    found: NDArray[np.int64],
) -> int:
    """Writes the places into `found`; how many. `segments` [4, segment length] are those where such n-grams lie."""
    mask, place = np.uint64(segments.shape[1] - 1), _PLACE + _2 * seed
    shift = _64 - bits
    count = 0
    for number in range(candidates.size):
        key = before + candidates[number]
        key ^= key >> _33
        key *= _FIRST
        key ^= key >> _33
        key *= _SECOND
        key ^= key >> _33
        places = key * place
        value = (key * _FINGERPRINT) >> shift
        value ^= np.uint64(segments[0, (places >> _1ST) & mask])
        value ^= np.uint64(segments[1, (places >> _2ND) & mask])
        value ^= np.uint64(segments[2, (places >> _3RD) & mask])
        value ^= np.uint64(segments[3, (places >> _4TH) & mask])
        found[count] = number
        count += (value == 0) & (key <= limit)
    return count
