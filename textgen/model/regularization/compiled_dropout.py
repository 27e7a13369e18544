"""`weight_dropout` as machine code: what is dropped follows from a number, so that no mask is kept.

Numbered words come from SplitMix64 (Steele, Lea & Flood 2014, https://doi.org/10.1145/2714064.2660195), whose n-th
word is a function of n. Each word is four times 16 bits; the lowest are those of the first entry.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from textgen.compiled import compiled, part
from textgen.compiled_parts import bounds_of_part, in_parts, threads_for
from textgen.model.half_precision import Halves, narrowed, widened

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_BY_30, _BY_27, _BY_31 = np.uint64(30), np.uint64(27), np.uint64(31)
# Entries at a time: what is drawn for them stays in the nearest cache.
_ENTRIES = 4096
# What takes a thread many times as long as it takes to wake it.
_EACH = 1 << 16

_Floats = NDArray[np.float32]


@part
def _draw(seed: Any, start: int, dropped: Any, scale: float, words: Any, factors: Any) -> None:
    """What the entries from `start` on, a multiple of four, are multiplied with: `scale`, or nothing."""
    for place in range(words.size):
        word = seed + np.uint64(start // 4 + place + 1) * _STEP
        word = (word ^ (word >> _BY_30)) * _FIRST
        word = (word ^ (word >> _BY_27)) * _SECOND
        words[place] = word ^ (word >> _BY_31)
    bits, factor, nothing = words.view(np.uint16), np.float32(scale), np.float32(0.0)
    for place in range(factors.size):
        factors[place] = factor if bits[place] >= dropped else nothing


@part
def _drop(number: int, parts: int, weight: _Floats, seed: Any, dropped: int, scale: float, kept: Halves) -> None:
    words, factors = np.empty(_ENTRIES // 4, np.uint64), np.empty(_ENTRIES, np.float32)
    first, last = bounds_of_part(number, parts, weight.size, _ENTRIES)
    for start in range(first, last, _ENTRIES):
        _draw(np.uint64(seed), start, np.uint16(dropped), scale, words, factors)
        entries, found = weight[start : start + _ENTRIES], kept[start : start + _ENTRIES]
        for j in range(entries.size):
            found[j] = narrowed(entries[j] * factors[j])


@compiled
def drop(threads: int, *arguments: Any) -> None:
    """Writes `weight`, `scale` times as large or dropped, to `kept`; both are flat.

    An entry is dropped where its 16 bits are below `dropped`.
    """
    in_parts(_drop, threads, arguments)


@part
def _drop_gradient(
    number: int, parts: int, by_kept: Halves, seed: Any, dropped: int, scale: float, by_weight: _Floats
) -> None:
    words, factors = np.empty(_ENTRIES // 4, np.uint64), np.empty(_ENTRIES, np.float32)
    first, last = bounds_of_part(number, parts, by_kept.size, _ENTRIES)
    for start in range(first, last, _ENTRIES):
        _draw(np.uint64(seed), start, np.uint16(dropped), scale, words, factors)
        entries, found = by_kept[start : start + _ENTRIES], by_weight[start : start + _ENTRIES]
        for j in range(entries.size):
            found[j] = widened(entries[j]) * factors[j]


@compiled
def drop_gradient(threads: int, *arguments: Any) -> None:
    """Writes the gradient by the weight that `drop` was given."""
    in_parts(_drop_gradient, threads, arguments)


def threads_of_drop(entries: int) -> int:
    """How many threads share the dropping of so many."""
    return threads_for(entries, each=_EACH)
