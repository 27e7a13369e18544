"""What penalties need to know of the text so far, kept up to date token by token instead of read anew at each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textgen.engine.decoding import TokenIds

Counts = NDArray[np.int64]


class TokenCounts:
    """The distinct tokens of a text and how often each was written."""

    def __init__(self, token_ids: Sequence[int] = ()) -> None:
        self._ids, self._counts = np.unique(np.array(token_ids, dtype=np.int64), return_counts=True)
        self._size = self._ids.size
        self._places = {token_id: place for place, token_id in enumerate(self._ids.tolist())}

    def append(self, token_id: int) -> None:
        place = self._places.setdefault(token_id, self._size)
        if place == self._size:
            self._ids = _with_room(self._ids, place)
            self._counts = _with_room(self._counts, place)
            self._ids[place], self._counts[place] = token_id, 0
            self._size += 1
        self._counts[place] += 1

    @property
    def ids(self) -> TokenIds:
        """[distinct], in no order."""
        return self._ids[: self._size]

    @property
    def counts(self) -> Counts:
        """[distinct], each 1 or more."""
        return self._counts[: self._size]

    def copy(self) -> TokenCounts:
        other = TokenCounts.__new__(TokenCounts)
        other._ids, other._counts = self._ids.copy(), self._counts.copy()
        other._size, other._places = self._size, self._places.copy()
        return other


class SuffixRepeats:
    """Where the end of a text has stood before, and what came next there.

    Let r[i] be the length of the longest common suffix of tokens 0 … i - 1 and the whole text, for every i short of its
    length. Token i is then what followed a repeat of r[i] tokens. When a token is appended, r[i + 1] becomes r[i] + 1
    where token i is the same, and 0 elsewhere: one pass over an array, exact for any length.
    """

    def __init__(self, token_ids: Sequence[int] = ()) -> None:
        self._size = len(token_ids)
        self._ids = np.array(token_ids, dtype=np.int64)
        self._repeated = _suffix_lengths(list(token_ids))

    def append(self, token_id: int) -> None:
        size = self._size
        self._ids = _with_room(self._ids, size)
        self._repeated = _with_room(self._repeated, size)
        longer = (self._repeated[:size] + 1) * (self._ids[:size] == token_id)
        self._repeated[0] = 0
        self._repeated[1 : size + 1] = longer
        self._ids[size] = token_id
        self._size += 1

    def following(self, least: int) -> tuple[TokenIds, Counts]:
        """What came after the last `least` tokens, or more, wherever they stood before.

        Token ids [places] and for each the number of tokens, `least` or more, that were repeated before it. A token
        comes up as often as it followed.
        """
        repeated = self._repeated[: self._size]
        places = np.flatnonzero(repeated >= least)
        return self._ids[places], repeated[places]

    def copy(self) -> SuffixRepeats:
        other = SuffixRepeats.__new__(SuffixRepeats)
        other._size, other._ids, other._repeated = self._size, self._ids.copy(), self._repeated.copy()
        return other


def _suffix_lengths(token_ids: list[int]) -> Counts:
    """r of `SuffixRepeats` [tokens] in linear time: the Z function (Gusfield 1997, chapter 1) of the reversed text."""
    backwards = token_ids[::-1]
    size = len(backwards)
    lengths = [0] * size
    left = right = 0  # the match found so far that reaches furthest
    for place in range(1, size):
        length = min(right - place, lengths[place - left]) if place < right else 0
        while place + length < size and backwards[length] == backwards[place + length]:
            length += 1
        lengths[place] = length
        if place + length > right:
            left, right = place, place + length
    # Place k of the reversed text is where tokens 0 … size - 1 - k end.
    return np.array(([*lengths[1:], 0] if size else [])[::-1], dtype=np.int64)


def _with_room(values: NDArray[Any], place: int) -> NDArray[Any]:
    """`values` themselves if they have a `place`, else in a longer array."""
    if place < values.size:
        return values
    longer = np.empty(max(16, 2 * values.size), dtype=values.dtype)
    longer[: values.size] = values
    return longer
