"""Hashes of token sequences, many at once: the same sequence has the same 64 bits wherever it stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textgen.text.tokenizer import PAD_ID

Hashes = NDArray[np.uint64]
Ids = Sequence[int] | NDArray[np.integer[Any]]

MULTIPLIER = 0x9E3779B97F4A7C15
FIRST_MULTIPLIER, SECOND_MULTIPLIER = 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53
_TOKEN_SEED = 0xD1B54A32D192ED03


def mixed(values: Hashes) -> Hashes:
    """Each bit of the result depends on all bits of a value (the finaliser of MurmurHash3, Appleby 2011)."""
    values = values ^ (values >> np.uint64(33))
    values *= np.uint64(FIRST_MULTIPLIER)
    values ^= values >> np.uint64(33)
    values *= np.uint64(SECOND_MULTIPLIER)
    values ^= values >> np.uint64(33)
    return values


def token_hashes(ids: Ids) -> Hashes:
    """A number for each id of `ids` [tokens], as random as ids allow."""
    return mixed(np.asarray(ids).astype(np.uint64) + np.uint64(_TOKEN_SEED))


def hash_ngrams(ids: Ids, size: int) -> tuple[Hashes, NDArray[np.bool_]]:
    """Hashes [tokens - size + 1] of all sequences of `size` tokens, and which of them are text without specials.

    The hash of w_1 … w_n is `mixed` of Σ h(w_i) · M^(n-i) modulo 2^64, put together from sums over 1, 2, 4 … tokens.
    """
    count = max(0, len(ids) - size + 1)
    sums = token_hashes(ids)
    special = np.asarray(ids) <= PAD_ID
    total, bad, length, block = np.zeros(len(sums), np.uint64), np.zeros(len(sums), np.bool_), 0, 1
    while True:
        if size & block:
            later, later_bad = sums[length:], special[length:]
            end = min(len(total), len(later))
            total = total[:end] * np.uint64(pow(MULTIPLIER, block, 2**64)) + later[:end]
            bad = bad[:end] | later_bad[:end]
            length += block
        if length == size:
            return mixed(total[:count]), ~bad[:count]
        rest = max(0, len(sums) - block)
        sums = sums[:rest] * np.uint64(pow(MULTIPLIER, block, 2**64)) + sums[block:]
        special = special[:rest] | special[block:]
        block *= 2
