"""Cross-entropy and its gradient by bf16 logits as machine code: two passes over a row that stays in the cache.

PyTorch's takes float32, and so six passes over memory for twice as many bytes. Here too all is computed in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from textgen.compiled import compiled, inner_loop, part
from textgen.compiled_numbers import power_of_two
from textgen.compiled_parts import bounds_of_part, in_parts, threads_for
from textgen.model.half_precision import Halves, narrowed, widened

_Floats = NDArray[np.float32]
_Numbers = NDArray[np.int64]

# Entries that take a thread many times as long as it takes to wake it.
_EACH = 1 << 15
_float = np.float32
_LOG2_E = _float(1.44269504088896341)
# In bits of bf16: all but the sign, the least that is no finite number, and one that is none.
_MAGNITUDE, _INFINITY, _NAN = np.int16(0x7FFF), np.uint16(0x7F80), np.uint16(0x7FC0)
_ONE = _float(1.0)


@part
def _ordered(bits: Any) -> Any:
    """Of two numbers the greater has the greater one, as an integer; and back again."""
    signed = np.int16(bits)
    return signed ^ ((signed >> np.int16(15)) & _MAGNITUDE)


@part
def _highest(logits: Halves) -> Any:
    """Integers, unlike numbers of which one may be nan, are compared several at once."""
    highest = np.int16(-0x8000)
    for j in range(logits.size):
        highest = max(highest, np.int16(_ordered(logits[j])))
    return widened(np.uint16(_ordered(highest)))


@inner_loop
def _powers(logits: Halves, highest: Any, powers: _Floats) -> Any:
    total = _float(0.0)
    for j in range(logits.size):
        power = power_of_two((widened(logits[j]) - highest) * _LOG2_E)
        powers[j] = power
        total += power
    return total


@part
def _are_finite(numbers: Halves) -> bool:
    largest = np.uint16(0)
    for j in range(numbers.size):
        largest = max(largest, np.uint16(numbers[j] & _MAGNITUDE))
    return bool(largest < _INFINITY)


@part
def _lose(
    number: int, parts: int, logits: Halves, targets: _Numbers, share: Any, losses: _Floats, by_logits: Halves
) -> None:
    rows, size = logits.shape
    first, last = bounds_of_part(number, parts, rows, 1)
    powers, factor = np.empty(size, np.float32), _float(share)
    for row in range(first, last):
        given, found, target = logits[row], by_logits[row], targets[row]
        if target < 0:
            losses[row] = _float(0.0)
            found[:] = 0
        elif target >= size or not _are_finite(given):
            losses[row] = np.nan
            found[:] = _NAN
        else:
            highest = _highest(given)
            total = _powers(given, highest, powers)
            losses[row] = np.log(total) + highest - widened(given[target])
            scale = factor / total
            for j in range(size):
                found[j] = narrowed(powers[j] * scale)
            found[target] = narrowed((powers[target] / total - _ONE) * factor)


@compiled
def lose(threads: int, *arguments: Any) -> None:
    """Writes each row's cross-entropy in nats to `losses` [rows], and the gradient of `share` times their sum.

    Arguments are those of `_lose`: `logits` and `by_logits`, which is written, are [rows, vocab], `targets` [rows].
    Where a target is below 0 there is no loss; where it is no entry, or a logit is no finite number, it is nan.
    """
    in_parts(_lose, threads, arguments)


def threads_of_loss(logits: Halves) -> int:
    """How many threads share the rows of `logits`."""
    return min(max(1, len(logits)), threads_for(logits.size, each=_EACH))
