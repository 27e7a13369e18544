"""The continuations that a step of a beam search may choose from: the best ones, or ones drawn by chance."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from textgen.engine.decoding import Logits, Scores, TokenIds

# Long enough to leave few maxima to sort, short enough that the best seldom share a block and hide one another.
_BLOCK = 16
# The bits of 1.0: a number from 1 to 2 has the same but for the lower 52. Converting integers takes twice as long.
_ONE = np.float64(1.0).view(np.uint64)
_BEAM_DRAWS = 0xBEA  # second half of the key: no sample of a sampled request has so high a number


class Candidates(NamedTuple):
    """Continuations in the order in which they were chosen.

    `rows` [n] are the rows of the scores they continue, `token_ids` [n] what they add and `totals` [n] their Σ log p,
    all finite.
    """

    rows: TokenIds
    token_ids: TokenIds
    totals: Scores


def log_softmax(logits: Logits) -> Logits:
    """Log-probabilities of logits [rows, vocab], as a new array; a row with a nan or +inf among them is all nan."""
    with np.errstate(invalid="ignore", over="ignore"):
        shifted = logits - logits.max(axis=1, keepdims=True)
        shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    result: Logits = shifted
    return result


def best_candidates(scores: Logits, sums: Scores, count: int) -> Candidates:
    """The `count` best continuations of beams with Σ log p = sums [rows] by scores [rows, vocab], best first.

    What scores -inf is no continuation, so there may be fewer, even none. Ties: the lower row, then the lower id. The
    scores must not be nan or +inf.
    """
    rows, vocab_size = scores.shape
    blocks = vocab_size // _BLOCK
    bound = -math.inf
    if rows * blocks > count:
        # The count-th highest of the blocks' maxima cannot be above the count-th highest of all, and hardly any others
        # reach it. Finding it sorts one number in sixteen, and adds `sums` to no more either.
        maxima = scores[:, : _BLOCK * blocks].reshape(rows, _BLOCK, blocks).max(axis=1) + sums[:, None]
        bound = np.partition(maxima.ravel(), maxima.size - count)[maxima.size - count]
    if bound > -math.inf:
        # Lower by what rounding can have added to the bound and adds to the difference.
        lowest = bound - sums - 4 * np.spacing(np.maximum(np.abs(sums), abs(bound)))
        mask = scores >= np.nextafter(lowest.astype(np.float32), np.float32(-math.inf))[:, None]
    else:
        mask = scores > -math.inf
    places = np.flatnonzero(mask)
    totals = scores.ravel()[places] + sums[places // vocab_size]
    order = np.argsort(-totals, kind="stable")[:count]
    return Candidates(places[order] // vocab_size, places[order] % vocab_size, totals[order])


def drawn_candidates(
    scores: Logits | Scores, sums: Scores, count: int, *, seed: int, step: int, group: int
) -> Candidates:
    """`count` continuations drawn without replacement with probabilities ∝ exp(Σ log p), in the order they were drawn.

    Shapes as for `best_candidates`; where fewer score above -inf, all of them. Adding a Gumbel number to each total and
    taking the highest is such a draw (Gumbel-top-k, Kool et al. 2019, https://arxiv.org/abs/1903.06059). The n-th that
    can be drawn gets the n-th number of (seed, step, group).
    """
    vocab_size = scores.shape[1]
    totals = (scores + sums[:, None]).ravel()
    places = np.flatnonzero(totals > -math.inf)
    totals = totals[places]
    keys = totals + _gumbels(places.size, seed=seed, step=step, group=group)
    if count < keys.size:
        chosen = np.argpartition(-keys, count)[:count]
        places, totals, keys = places[chosen], totals[chosen], keys[chosen]
    order = np.argsort(-keys)
    return Candidates(places[order] // vocab_size, places[order] % vocab_size, totals[order])


def narrowed(scores: Logits, kept: int) -> tuple[Scores, TokenIds]:
    """The `kept` highest scores of each row of [rows, vocab] and what ties with the lowest of them, and their ids.

    Both [rows, most of any row], by rising id; rows that have fewer end in -inf.
    """
    place = scores.shape[1] - kept
    lowest = np.partition(scores, place, axis=1)[:, place, None]
    mask = scores >= lowest
    counts = mask.sum(axis=1)
    # [rows, width]: as many places from the left as the row has scores. Both masks run through them in the same order.
    filled = np.arange(counts.max()) < counts[:, None]
    values = np.full(filled.shape, -math.inf)
    token_ids = np.zeros(filled.shape, dtype=np.int64)
    values[filled] = scores[mask]
    token_ids[filled] = np.nonzero(mask)[1]
    return values, token_ids


def _gumbels(count: int, *, seed: int, step: int, group: int) -> Scores:
    """Standard Gumbel numbers [count], from the upper 52 bits of the words of Philox4x64."""
    words = np.random.Philox(
        key=np.array([seed, _BEAM_DRAWS], dtype=np.uint64), counter=np.array([0, step, group, 0], dtype=np.uint64)
    ).random_raw(count)
    words >>= np.uint64(12)
    words |= _ONE
    numbers = words.view(np.float64)  # from 1 up to 2, at multiples of 2^-52
    numbers -= 1.0 - 2.0**-53  # uniform, halfway between those multiples: neither logarithm is ever infinite
    for _ in range(2):
        np.log(numbers, out=numbers)
        np.negative(numbers, out=numbers)
    return numbers
