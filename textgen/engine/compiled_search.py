"""Loops over a row of the vocabulary, as machine code: sums, maxima, and the highest of it in order."""

from __future__ import annotations

import numpy as np

from textgen.compiled import inner_loop, part
from textgen.compiled_numbers import power_of_two
from textgen.engine.decoding import Logits, TokenIds

# Long blocks leave few maxima to search; but the best must seldom share one, or too many others reach the bound.
BLOCK = 16
_COLUMNS_PER_CANDIDATE = 2
# A key is a float's bits above the complement or the number of a place, which is less than 2^31.
_ID_BITS = 31
ID_MASK = 2**_ID_BITS - 1
# From here on, sorting digit by digit takes less time.
_MANY = 512
_LOWEST = float(np.finfo(np.float32).min)
_INFINITY_BITS = 0x7F800000


@inner_loop
def sum_of_exp(row: Logits, highest: np.float32, scale: np.float32) -> float:
    """Σ exp((row - highest) · scale) over a row [vocab], to about 1e-6; `highest` is that of the row."""
    total = 0.0
    factor = scale * np.float32(1.4426950408889634)
    for start in range(0, row.size, 512):
        some = np.float32(0.0)
        for place in range(start, min(start + 512, row.size)):
            some += power_of_two((row[place] - highest) * factor)
        total += some
    return total


@inner_loop
def block_maxima(row: Logits, maxima: Logits) -> np.float32:
    """Of `BLOCK` numbers of a row, vocab // BLOCK apart, for each of the first so many; returns the row's.

    That a block's length is known beforehand makes this several times faster.
    """
    columns = row.size // BLOCK
    highest = row[0]
    for column in range(columns):
        most = row[column]
        for number in range(1, BLOCK):
            value = row[number * columns + column]
            most = value if value > most else most
        maxima[column] = most
    for column in range(columns):
        highest = maxima[column] if maxima[column] > highest else highest
    for place in range(BLOCK * columns, row.size):
        highest = row[place] if row[place] > highest else highest
    return highest


@part
def _short_block_maxima(row: Logits, block: int, maxima: Logits) -> None:
    """The same for shorter blocks."""
    columns = row.size // block
    for column in range(columns):
        most = row[column]
        for place in range(column + columns, block * columns, columns):
            most = max(most, row[place])
        maxima[column] = most


@part
def is_broken(row: Logits) -> bool:
    """Whether there is a nan or +inf among the numbers, by their bits."""
    bits = row.view(np.int32)
    magnitude, value = np.int32(0), np.int32(0)
    for place in range(bits.size):
        magnitude = max(magnitude, bits[place] & np.int32(0x7FFFFFFF))
        value = max(value, bits[place])
    return magnitude > _INFINITY_BITS or value == _INFINITY_BITS


@inner_loop
def _count_reaching(values: Logits, bound: np.float32) -> int:
    count = 0
    for place in range(values.size):
        count += 1 if values[place] >= bound else 0
    return count


@part
def _bound(values: Logits, count: int, highest: np.float32) -> np.float32:
    """A number that at least `count` of `values` reach, and hardly any others unless they tie.

    `highest` is not below any of them. Found by halving: quickselect would have the processor guess wrongly at every
    other comparison. Where not so many are finite it is the lowest number there is.
    """
    high = low = max(highest, np.float32(_LOWEST))
    width = np.float32(4.0)
    while _count_reaching(values, low) < count:
        if low == np.float32(_LOWEST):
            return low
        high = low
        low = max(low - width, np.float32(_LOWEST))
        width *= np.float32(4.0)
    while _count_reaching(values, low) > count + (count >> 3):
        middle = low + (high - low) * np.float32(0.5)
        if middle <= low or middle >= high:
            break
        if _count_reaching(values, middle) < count:
            high = middle
        else:
            low = middle
    return low


@part
def _sort(keys: TokenIds, size: int) -> None:
    """Sorts keys[:size] in place: quicksort, insertion sort for what is short (Sedgewick 1978)."""
    starts, ends = np.empty(64, np.int64), np.empty(64, np.int64)  # of what is left to do: the shorter part goes first
    depth, low, high = 0, 0, size - 1
    while True:
        if high - low < 16:
            for place in range(low + 1, high + 1):
                key = keys[place]
                before = place - 1
                while before >= low and keys[before] > key:
                    keys[before + 1] = keys[before]
                    before -= 1
                keys[before + 1] = key
            if depth == 0:
                return
            depth -= 1
            low, high = starts[depth], ends[depth]
            continue
        first, middle, last = keys[low], keys[(low + high) >> 1], keys[high]
        pivot = max(min(first, middle), min(max(first, middle), last))
        left, right = low, high
        while left <= right:
            while keys[left] < pivot:
                left += 1
            while keys[right] > pivot:
                right -= 1
            if left <= right:
                keys[left], keys[right] = keys[right], keys[left]
                left += 1
                right -= 1
        if right - low < high - left:
            starts[depth], ends[depth] = left, high
            high = right
        else:
            starts[depth], ends[depth] = low, right
            low = left
        depth += 1


@part
def _sort_many(keys: TokenIds, size: int) -> None:
    """Sorts keys[:size] by their 32 bits above the id, leaving equal ones in order: a radix sort, 11 bits at a time."""
    source, target = keys, np.empty(size, np.int64)
    for digit in range(3):
        shift = _ID_BITS + 11 * digit
        starts = np.zeros(2049, np.int64)
        for place in range(size):
            starts[(source[place] >> shift & 2047) + 1] += 1
        for value in range(2048):
            starts[value + 1] += starts[value]
        for place in range(size):
            value = source[place] >> shift & 2047
            target[starts[value]] = source[place]
            starts[value] += 1
        source, target = target, source
    for place in range(size):  # they are not in `keys` after three passes
        keys[place] = source[place]


@part
def _key(bits: np.int32, low: int) -> int:
    """A whole number that rises with the float of these bits, then with `low`, from 0 to `ID_MASK`."""
    if bits == np.int32(-(2**31)):
        bits = np.int32(0)  # -0.0 is 0.0
    return (np.int64(bits ^ (bits >> np.int32(31) & np.int32(0x7FFFFFFF))) + 2**31) << _ID_BITS | low


@part
def gather(
    row: Logits, count: int, highest: np.float32, maxima: Logits, flips: int, keys: TokenIds
) -> tuple[int, bool]:
    """Fills the beginning of `keys` with those of at least the `count` highest of a row, or all there are; sorts them.

    None are -inf. Returns their number and whether they are all. Of equal numbers, the higher id has the higher key;
    with `flips` = `ID_MASK` instead of 0, the lower one. `maxima`: those of blocks of `BLOCK`; nothing is higher than
    `highest`. `keys` has room for one more than the row has.
    """
    vocab = row.size
    bits = row.view(np.int32)
    block, bound = BLOCK, np.float32(_LOWEST)
    if count < vocab:
        if _COLUMNS_PER_CANDIDATE * count * block > vocab:
            block = max(1, vocab // (_COLUMNS_PER_CANDIDATE * count))
            maxima = np.empty(vocab // block, np.float32)
            _short_block_maxima(row, block, maxima)
        # As many as have a block with a maximum that reaches it: at least so many numbers do.
        bound = _bound(maxima, count, highest)
    # What follows writes each number, and keeps its place only if it counts: branches would often be guessed wrongly.
    found = np.int64(0)
    if block == 1 or bound == np.float32(_LOWEST):
        for step in range(vocab):
            place = vocab - 1 - step if flips else step
            keys[found] = _key(bits[place], place ^ flips)
            found += 1 if row[place] >= bound else 0
        is_ordered = True
    else:
        columns = vocab // block
        for column in range(columns):
            if maxima[column] >= bound:
                for place in range(column, block * columns, columns):
                    keys[found] = _key(bits[place], place ^ flips)
                    found += 1 if row[place] >= bound else 0
        for place in range(block * columns, vocab):
            keys[found] = _key(bits[place], place ^ flips)
            found += 1 if row[place] >= bound else 0
        is_ordered = False
    if is_ordered and found > _MANY:
        _sort_many(keys, found)
    else:
        _sort(keys, found)
    return found, bound == np.float32(_LOWEST)
