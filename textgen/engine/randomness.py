"""Random numbers that depend on a seed and on a place in the text, and on nothing else."""

from __future__ import annotations

import numpy as np

_WORD_BITS = 64


class UniformStream:
    """Uniform numbers in [0, 1), one for each token index, from a counter-based generator.

    Philox4x64 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). The key is the seed and, in its
    second word, the number of the sample; the counter is the token index, and the upper 53 bits of the first of its
    four words make the number. Number i is therefore the same whatever was drawn before it and whoever else is drawing.
    """

    _BLOCK = 64  # making a generator costs as much as drawing a block from it

    def __init__(self, seed: int, sample: int = 0) -> None:
        self._key = seed | sample << _WORD_BITS
        self._start = -self._BLOCK
        self._block: list[float] = []

    def at(self, index: int) -> float:
        """The number of token `index` (from 0)."""
        if not 0 <= index - self._start < self._BLOCK:
            self._start = index - index % self._BLOCK
            words = np.random.Philox(key=self._key, counter=self._start).random_raw(4 * self._BLOCK)[::4]
            self._block = ((words >> np.uint64(11)) * 2.0**-53).tolist()
        return self._block[index - self._start]
