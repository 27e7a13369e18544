"""One token after another: greedy, temperature, top-k, top-p, with random numbers that depend on the seed alone."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from textgen.engine.decoding import Advance, Logits, TokenIds
from textgen.engine.requests import FinishReason, GenerationRequest, Hypothesis, TokenEvent, hypothesis_score
from textgen.errors import BrokenModel


class UniformStream:
    """Uniform numbers in [0, 1), one for each token index, from a counter-based generator.

    Philox4x64 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") keyed by the seed; the counter is the
    token index, and the upper 53 bits of the first of its four words make the number. Number i is therefore the same
    whatever was drawn before it and whoever else is drawing.
    """

    _BLOCK = 64  # making a generator costs as much as drawing a block from it

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._start = -self._BLOCK
        self._block: list[float] = []

    def at(self, index: int) -> float:
        """The number of token `index` (from 0)."""
        if not 0 <= index - self._start < self._BLOCK:
            self._start = index - index % self._BLOCK
            words = np.random.Philox(key=self._seed, counter=self._start).random_raw(4 * self._BLOCK)[::4]
            self._block = ((words >> np.uint64(11)) * 2.0**-53).tolist()
        return self._block[index - self._start]


def log_normalizer(logits: Logits) -> NDArray[np.float64]:
    """log Σ exp over the last axis of logits [..., vocab]: [..., 1]. Not finite where the logits are no numbers."""
    highest = logits.max(axis=-1, keepdims=True)
    # A value of inf or nan is passed on, for the caller to name the token it happened at.
    with np.errstate(invalid="ignore", over="ignore"):
        total = np.exp(logits - highest).sum(axis=-1, keepdims=True, dtype=np.float64)
    result: NDArray[np.float64] = highest + np.log(total)
    return result


def top_k_ids(logits: Logits, top_k: int) -> TokenIds:
    """Ascending ids of the `top_k` highest logits [vocab] that are not -inf, and of ties with the k-th; 0 takes all."""
    lowest = -math.inf
    if 0 < top_k < logits.size:
        lowest = np.partition(logits, logits.size - top_k)[logits.size - top_k]
    # -inf marks what is banned: it must not come back in as a tie.
    return np.flatnonzero((logits >= lowest) & (logits > -math.inf))


def top_p_mask(probabilities: NDArray[np.float64], top_p: float) -> NDArray[np.bool_]:
    """Which of `probabilities` [n] nucleus sampling keeps (Holtzman et al. 2020, https://arxiv.org/abs/1904.09751).

    Sorted ascending, what lies within a cumulative mass of 1 - top_p is dropped, but never the last one. Of equal
    probabilities the one with the lower index is dropped first.
    """
    ascending = np.sort(probabilities)
    dropped = int(np.searchsorted(np.cumsum(ascending), 1.0 - top_p, side="right"))
    dropped = min(dropped, probabilities.size - 1)
    lowest = ascending[dropped]
    kept: NDArray[np.bool_] = probabilities >= lowest
    surplus = int(np.count_nonzero(kept)) - (probabilities.size - dropped)
    if surplus:
        kept[np.flatnonzero(probabilities == lowest)[:surplus]] = False
    return kept


def candidates(
    logits: Logits, *, temperature: float, top_k: int = 0, top_p: float = 1.0
) -> tuple[TokenIds, NDArray[np.float64]]:
    """What may be drawn from logits [vocab]: ascending ids [n] and their probabilities [n], which sum to 1.

    Temperature (above 0), then top-k, then top-p. At least one logit must be finite.
    """
    # Dividing by the temperature changes neither order nor ties, so top-k may come first and spare most of the work.
    ids = top_k_ids(logits, top_k)
    kept = logits[ids].astype(np.float64)
    # A temperature near zero sends all but the highest to -inf, which is what it asks for.
    with np.errstate(over="ignore"):
        weights = np.exp((kept - kept.max()) / temperature)
    probabilities = weights / weights.sum()
    if top_p < 1.0:
        mask = top_p_mask(probabilities, top_p)
        ids, probabilities = ids[mask], probabilities[mask]
        probabilities /= probabilities.sum()
    return ids, probabilities


def draw(ids: TokenIds, probabilities: NDArray[np.float64], uniform: float) -> int:
    """The id at `uniform` in [0, 1) of the cumulative distribution, in the order of `ids` [n]."""
    cumulative = np.cumsum(probabilities)
    place = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    if place == ids.size:  # uniform * total was rounded up to the total
        place = int(np.flatnonzero(probabilities)[-1])
    return int(ids[place])


class SampledSequence:
    """Decodes one request by sampling, or greedily at temperature 0 (ties: the lowest id)."""

    rows = 1

    def __init__(self, request: GenerationRequest, seed: int) -> None:
        self._request = request
        self._settings = request.settings
        self._uniforms = UniformStream(seed)
        self._banned = np.array(sorted(request.forbidden_ids), dtype=np.int64)
        without_eos = request.forbidden_ids if request.eos_id is None else request.forbidden_ids | {request.eos_id}
        self._banned_at_first = np.array(sorted(without_eos), dtype=np.int64)
        self._token_ids: list[int] = []
        self._logprob_sum = 0.0
        self._finished = False

    def advance(self, logits: Logits) -> Advance:
        """Chooses the next token from logits [1, vocab]; raises `BrokenModel` when they are no numbers."""
        row = logits[0]
        index = len(self._token_ids)
        token_id = self._choose(row, index)
        logprob = float(row[token_id] - log_normalizer(row)[0])
        if not math.isfinite(logprob):
            raise BrokenModel(index)
        self._token_ids.append(token_id)
        self._logprob_sum += logprob
        reason = self._reason(token_id)
        self._finished = reason is not None
        return Advance(TokenEvent(token_id, logprob, index), np.array([token_id], dtype=np.int64), reason=reason)

    def hypotheses(self) -> tuple[Hypothesis, ...]:
        length = len(self._token_ids)
        score = hypothesis_score(self._logprob_sum, length, self._settings.length_penalty)
        return (Hypothesis(tuple(self._token_ids), score, self._finished),)

    def _choose(self, row: Logits, index: int) -> int:
        banned = self._banned_at_first if index < self._settings.min_new_tokens else self._banned
        if banned.size:
            row = row.copy()
            row[banned] = -np.inf
        highest = int(row.argmax())
        if not math.isfinite(row[highest]):  # argmax finds nan and inf too
            raise BrokenModel(index)
        if self._settings.temperature == 0.0:
            return highest
        settings = self._settings
        kept = candidates(row, temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p)
        return draw(*kept, self._uniforms.at(index))

    def _reason(self, token_id: int) -> FinishReason | None:
        if token_id == self._request.eos_id:
            return "eos"
        if self._request.stop_condition is not None and self._request.stop_condition(self._token_ids):
            return "stop"
        return "length" if len(self._token_ids) >= self._settings.max_new_tokens else None
