"""`token_choice.choose_plainly` as machine code: it finds the few tokens that may be drawn without sorting them all.

Sums over a whole row of the vocabulary may add up in any order; everything after them is in float64, in order.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from textgen.compiled import compiled, part
from textgen.engine.compiled_search import BLOCK, ID_MASK, block_maxima, gather, is_broken, sum_of_exp
from textgen.engine.decoding import Logits, Scores, TokenIds
from textgen.engine.token_choice import Answer, Asked

# How many candidates to look at first, where no setting says how many it takes; then more and more.
_USUAL = 64
_MORE = 16
_NOTHING, _TOO_FEW = -1, -2


class _Room(NamedTuple):
    """Where candidates are put, by falling score, all [vocab].

    `gaps` are how far they are below the best, in units of the temperature, `weights` exp(-gap), `mass` their running
    sum; `keys` is for `gather`.
    """

    keys: TokenIds
    ids: TokenIds
    gaps: Scores
    weights: Scores
    mass: Scores


class _Pick(NamedTuple):
    """The `place` of the token, `_NOTHING` if there is none, or `_TOO_FEW` if the candidates do not settle it.

    The first `end` candidates may be drawn, with `is_open` all others too; `total` is the mass of all these.
    """

    place: int
    end: int
    is_open: bool
    total: float


def choose_compiled(logits: Logits, asked: Asked, answer: Answer) -> None:
    """As `choose_plainly`."""
    if not (logits.flags.c_contiguous and logits.flags.writeable):  # all that it was compiled for
        logits = logits.copy()
    _choose(logits, *asked, *answer)


@part
def _first_reaching(rising: Scores, end: int, value: float) -> int:
    """The place of the first of rising[:end] that is at least `value`; `end` if there is none."""
    low = 0
    while low < end:
        middle = (low + end) >> 1
        if rising[middle] < value:
            low = middle + 1
        else:
            end = middle
    return low


@part
def _first_beyond(rising: Scores, end: int, value: float) -> int:
    """The place of the first of rising[:end] that is above `value`; `end` if there is none."""
    low = 0
    while low < end:
        middle = (low + end) >> 1
        if rising[middle] <= value:
            low = middle + 1
        else:
            end = middle
    return low


@part
def _entropy(gaps: Scores, weights: Scores, end: int, total: float) -> float:
    """In nats, of tokens whose probability is weight / total, and weight exp(-gap)."""
    weighted = 0.0
    for place in range(end):
        weighted += weights[place] * gaps[place]
    return math.log(total) + weighted / total


@part
def _keep_typical(room: _Room, end: int, total: float, typical_p: float) -> int:
    """`warpers.keep_typical` on the first `end` tokens; what stays moves to the front, and is counted.

    Gaps rise, so the surprise comes closer to its expectation up to some token and goes away from it behind that: what
    stays lies around it.
    """
    ids, gaps, weights = room.ids, room.gaps, room.weights
    expected = _entropy(gaps, weights, end, total) - math.log(total)
    right = _first_reaching(gaps, end, expected)
    left = right - 1
    mass, most = 0.0, 0.0
    while mass < typical_p and (left >= 0 or right < end):
        if right == end or (left >= 0 and expected - gaps[left] <= gaps[right] - expected):
            farthest = left
            left -= 1
        else:
            farthest = right
            right += 1
        mass += weights[farthest] / total
        most = abs(gaps[farthest] - expected)
    kept = 0
    for place in range(end):
        if abs(gaps[place] - expected) <= most:
            ids[kept], gaps[kept], weights[kept] = ids[place], gaps[place], weights[place]
            kept += 1
    return kept


@part
def _accumulate(weights: Scores, end: int, mass: Scores) -> float:
    """Fills `mass` with the running sum; returns the whole."""
    total = 0.0
    for place in range(end):
        total += weights[place]
        mass[place] = total
    return total


@part
def _ban(row: Logits, row_maxima: Logits, banned: TokenIds, maxima: Logits) -> Logits:
    """Makes the ids `banned` of a row -inf, and from its blocks' `row_maxima` those without them.

    Returns what was there [banned].
    """
    before = np.empty(banned.size, np.float32)
    for number in range(banned.size):
        before[number] = row[banned[number]]
    for number in range(banned.size):
        row[banned[number]] = -np.inf
    for column in range(maxima.size):
        maxima[column] = row_maxima[column]
    for token_id in banned:
        if token_id < BLOCK * maxima.size:
            column = token_id % maxima.size
            maxima[column] = -np.inf
            for place in range(column, BLOCK * maxima.size, maxima.size):
                maxima[column] = max(maxima[column], row[place])
    return before


@part
def _draw(
    row: Logits, settings: Scores, uniform: float, count: int, highest: np.float32, maxima: Logits, room: _Room
) -> _Pick:
    """Draws from the `count` highest of a row of scores [vocab] without nan and +inf, none above `highest`."""
    keys, ids, gaps, weights, mass = room
    temperature, top_k, top_p, min_p = settings[0], settings[1], settings[2], settings[3]
    typical_p, epsilon, eta = settings[4], settings[5], settings[6]
    end, is_all = gather(row, count, highest, maxima, np.int64(0), keys)
    if end == 0:
        return _Pick(_NOTHING, 0, False, 0.0)
    best = np.float64(row[keys[end - 1] & ID_MASK])
    for place in range(end):
        token_id = keys[end - 1 - place] & ID_MASK
        ids[place] = token_id
        # How far below the best, in units of the temperature.
        gaps[place] = (best - np.float64(row[token_id])) / temperature
    # top-k does not ask for others: here are at least as many as it takes.
    is_open = not is_all and top_k == 0
    if top_k > 0 and top_k < end:
        last = gaps[int(top_k) - 1]
        end = _first_beyond(gaps, end, last)
    for place in range(end):
        weights[place] = math.exp(-gaps[place])
    total = _accumulate(weights, end, mass)
    if is_open and (top_p < 1.0 or min_p == 0.0):  # min-p looks at the highest score alone
        total = sum_of_exp(row, np.float32(best), np.float32(1.0 / temperature))
    if top_p < 1.0:
        # What is dropped from the end has a mass of at most (1 - top_p) · total: what is before it has the rest.
        reached = _first_reaching(mass, end, top_p * total)
        if is_open and reached >= end - 1:
            return _Pick(_TOO_FEW, 0, False, 0.0)
        end, is_open = min(end, reached + 1), False
        total = mass[end - 1]
    if min_p > 0.0:
        kept = _first_beyond(gaps, end, -math.log(min_p))
        if is_open and kept == end:
            return _Pick(_TOO_FEW, 0, False, 0.0)
        end, is_open = kept, False
        total = mass[end - 1]
    if typical_p < 1.0 or epsilon > 0.0 or eta > 0.0:
        if is_open:
            return _Pick(_TOO_FEW, 0, False, 0.0)
        if typical_p < 1.0:
            end = _keep_typical(room, end, total, typical_p)
            total = _accumulate(weights, end, mass)
        if epsilon > 0.0:
            end = max(_first_beyond(gaps, end, -math.log(epsilon * total)), _first_beyond(gaps, end, gaps[0]))
            total = mass[end - 1]
        if eta > 0.0:
            threshold = min(eta, math.sqrt(eta) * math.exp(-_entropy(gaps, weights, end, total)))
            end = max(_first_beyond(gaps, end, -math.log(threshold * total)), _first_beyond(gaps, end, gaps[0]))
            total = mass[end - 1]
    place = _first_beyond(mass, end, uniform * total)
    if place == end:
        if is_open:
            return _Pick(_TOO_FEW, 0, False, 0.0)
        place = end - 1  # the sum over the whole row was rounded up
    return _Pick(place, end, is_open, total)


@part
def _pick(row: Logits, settings: Scores, uniform: float, highest: np.float32, maxima: Logits, room: _Room) -> _Pick:
    """The token of a row of scores [vocab], none above `highest`, from as many candidates as it takes."""
    if settings[0] == 0.0:
        best = 0
        for place in range(row.size):
            best = place if row[place] > row[best] else best
        room.ids[0], room.gaps[0] = best, 0.0
        return _Pick(0 if row[best] > -np.inf else _NOTHING, 1, False, 1.0)
    count = min(row.size, int(settings[1]) if settings[1] > 0 else _USUAL)
    while True:
        pick = _draw(row, settings, uniform, count, highest, maxima, room)
        if pick.place != _TOO_FEW:
            return pick
        count = min(row.size, count * _MORE)


@part
def _gap_of(token_id: int, scores: Logits, banned: TokenIds, temperature: float, pick: _Pick, room: _Room) -> float:
    """How far any token is below the best, in units of the temperature; infinite if it could not be drawn."""
    gap = np.inf
    for place in range(pick.end):
        if room.ids[place] == token_id:
            return room.gaps[place]
    if pick.is_open:
        gap = (np.float64(scores[room.ids[0]]) - np.float64(scores[token_id])) / temperature
        for banned_id in banned:
            if banned_id == token_id:
                gap = np.inf
    return gap


@part
def _choose_one(
    row: Logits,
    processed: Logits,
    settings: Scores,
    uniform: float,
    banned: TokenIds,
    answer: Scores,
    others: Scores,
    room: _Room,
) -> None:
    """Fills `answer` [3] and `others` [n, 3] from a row [vocab], without the ids `banned` or by scores `processed`.

    One of these two is empty.
    """
    answer[0] = -1
    for rank in range(len(others)):
        others[rank, 0] = -1
    row_maxima, maxima = np.empty(row.size // BLOCK, np.float32), np.empty(row.size // BLOCK, np.float32)
    if is_broken(row):
        return
    highest = block_maxima(row, row_maxima)
    if highest == -np.inf:
        return
    normalizer = highest + math.log(sum_of_exp(row, highest, np.float32(1.0)))

    before = _ban(row, row_maxima, banned, maxima)
    scores, most = row, highest
    if processed.size:
        scores = processed
        most = block_maxima(scores, maxima)
    pick = _pick(scores, settings, uniform, most, maxima, room)
    for number in range(banned.size):
        row[banned[number]] = before[number]
    if pick.place == _NOTHING:
        return
    token_id = room.ids[pick.place]
    answer[0] = token_id
    answer[1] = np.float64(row[token_id]) - normalizer
    answer[2] = -room.gaps[pick.place] - math.log(pick.total)

    wanted = min(row.size, int(settings[7]))
    found = gather(row, wanted, highest, row_maxima, np.int64(ID_MASK), room.keys)[0] if wanted > 0 else 0
    for rank in range(min(wanted, found)):
        other = (room.keys[found - 1 - rank] & ID_MASK) ^ ID_MASK
        others[rank, 0] = other
        others[rank, 1] = np.float64(row[other]) - normalizer
        others[rank, 2] = -_gap_of(other, scores, banned, settings[0], pick, room) - math.log(pick.total)


@compiled
def _choose(
    logits: Logits,
    settings: Scores,
    uniforms: Scores,
    banned_ids: TokenIds,
    banned_ends: TokenIds,
    processed: Logits,
    processed_rows: TokenIds,
    chosen: Scores,
    others: Scores,
) -> None:
    vocab = logits.shape[1]
    room = _Room(
        np.empty(vocab + 1, np.int64), np.empty(vocab, np.int64), np.empty(vocab), np.empty(vocab), np.empty(vocab)
    )
    nothing = np.empty(0, np.float32)
    start = 0
    for row in range(logits.shape[0]):
        banned = banned_ids[start : banned_ends[row]]
        start = banned_ends[row]
        own = processed[processed_rows[row]] if processed_rows[row] >= 0 else nothing
        _choose_one(logits[row], own, settings[row], uniforms[row], banned, chosen[row], others[row], room)
