"""What narrows the choice when sampling, over the whole vocabulary: the definitions, for beams and for tests.

Each warper takes scores [rows, vocab], logits or log-probabilities, and gives a copy in which what it drops is -inf;
probabilities are always those of the tokens that are left (softmax of the scores), and at least `least` tokens stay.
Definitions are those of `transformers` 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textgen.config import GenerationSettings
from textgen.engine.decoding import Logits, Scores

# Below it, tokens that differ at all have no chance against the best; and no score divided by it is infinite.
LOWEST_TEMPERATURE = 1e-30


def warp(scores: Logits | Scores, settings: GenerationSettings, least: int = 1) -> Scores:
    """Temperature, then `WARPERS` in their order, on scores [rows, vocab].

    At temperature 0 the highest alone stays (ties: the lowest id), its score as it was. `least`: tokens that the
    others must leave; beam sampling needs one beside the end token. A row must have a finite score and neither nan nor
    +inf.
    """
    warped = scores.astype(np.float64)
    if settings.temperature == 0.0:
        return _drop(warped, np.arange(warped.shape[1]) != warped.argmax(axis=1)[:, None])
    warped /= max(settings.temperature, LOWEST_TEMPERATURE)
    for name in warpers_on(settings):
        warped = WARPERS[name](warped, getattr(settings, name), least)
    return warped


def warpers_on(settings: GenerationSettings) -> list[str]:
    """Those of `WARPERS` that do anything: whose settings are not at their defaults."""
    fields = GenerationSettings.model_fields
    return [name for name in WARPERS if getattr(settings, name) != fields[name].default]


def keep_top_k(scores: Scores, top_k: int, least: int = 1) -> Scores:
    """The `top_k` highest and what ties with the lowest of them (Fan et al. 2018, https://arxiv.org/abs/1805.04833)."""
    return _drop(scores, scores < _nth_highest(scores, max(top_k, least)))


def keep_top_p(scores: Scores, top_p: float, least: int = 1) -> Scores:
    """Nucleus sampling (Holtzman et al. 2020, https://arxiv.org/abs/1904.09751).

    From the least likely token up, those within a cumulative mass of 1 - top_p are dropped. Of equal scores the one
    with the lower id is dropped first.
    """
    order = scores.argsort(axis=1, kind="stable")
    ascending = np.take_along_axis(probabilities(scores), order, axis=1)
    dropped = ascending.cumsum(axis=1) <= 1.0 - top_p
    dropped[:, -least:] = False
    return _drop(scores, _in_order_of(order, dropped))


def keep_min_p(scores: Scores, min_p: float, least: int = 1) -> Scores:
    """Probabilities of at least `min_p` times the highest one (Nguyen et al. 2024, https://arxiv.org/abs/2407.01082)."""
    likely = probabilities(scores)
    below = likely < min_p * likely.max(axis=1, keepdims=True)
    return _drop(scores, below & (scores < _nth_highest(scores, least)))


def keep_typical(scores: Scores, typical_p: float, least: int = 1) -> Scores:
    """Locally typical sampling (Meister et al. 2023, https://arxiv.org/abs/2202.00666).

    The tokens whose surprise -log p is closest to its expectation, the entropy, as many as make a mass of `typical_p`,
    and what ties with the last of them.
    """
    logprobs = _log_probabilities(scores)
    unexpected = np.abs(-logprobs - _entropy(logprobs))
    order = unexpected.argsort(axis=1, kind="stable")
    ascending = np.take_along_axis(unexpected, order, axis=1)
    mass = np.exp(np.take_along_axis(logprobs, order, axis=1)).cumsum(axis=1)
    last = np.minimum((mass < typical_p).sum(axis=1, keepdims=True), scores.shape[1] - 1)
    dropped = ascending > np.take_along_axis(ascending, last, axis=1)
    dropped[:, :least] = False
    return _drop(scores, _in_order_of(order, dropped))


def keep_above(scores: Scores, threshold: float | Scores, least: int = 1) -> Scores:
    """Probabilities of at least `threshold`, a number or [rows, 1]; and what ties with the highest."""
    return _drop(scores, (probabilities(scores) < threshold) & (scores < _nth_highest(scores, least)))


def keep_above_eta(scores: Scores, eta: float, least: int = 1) -> Scores:
    """The same for `eta_threshold`."""
    return keep_above(scores, eta_threshold(scores, eta), least)


def eta_threshold(scores: Scores, eta: float) -> Scores:
    """min(eta, sqrt(eta) · exp(-entropy)), [rows, 1] (Hewitt et al. 2022, https://arxiv.org/abs/2210.15191)."""
    threshold: Scores = np.minimum(eta, math.sqrt(eta) * np.exp(-_entropy(_log_probabilities(scores))))
    return threshold


def probabilities(scores: Scores) -> Scores:
    """Softmax of scores [rows, vocab]."""
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: Scores = weights / weights.sum(axis=1, keepdims=True)
    return result


def _log_probabilities(scores: Scores) -> Scores:
    shifted = scores - scores.max(axis=1, keepdims=True)
    result: Scores = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _entropy(logprobs: Scores) -> Scores:
    """Of log-probabilities [rows, vocab], in nats: [rows, 1]."""
    finite = np.where(logprobs > -math.inf, logprobs, 0.0)  # 0 · log 0 = 0
    entropy: Scores = -(finite * np.exp(logprobs)).sum(axis=1, keepdims=True)
    return entropy


def _nth_highest(scores: Scores, n: int) -> Scores:
    """[rows, 1]; the lowest where there are fewer than `n`."""
    place = max(scores.shape[1] - n, 0)
    return np.partition(scores, place, axis=1)[:, place : place + 1]


def _in_order_of(order: NDArray[np.int64], ordered: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Puts flags [rows, vocab] that were found in `order` [rows, vocab] back where they belong."""
    flags = np.empty_like(ordered)
    np.put_along_axis(flags, order, ordered, axis=1)
    return flags


def _drop(scores: Scores, dropped: NDArray[np.bool_]) -> Scores:
    return np.where(dropped, -math.inf, scores)


# What narrows the choice, in this order, by its setting. Rows whose request has one on that choosers have no faster way
# for are warped here before (see `sampling`), so that an entry and its setting are all that a new one takes.
WARPERS: Mapping[str, Callable[[Scores, Any, int], Scores]] = {
    "top_k": keep_top_k,
    "top_p": keep_top_p,
    "min_p": keep_min_p,
    "typical_p": keep_typical,
    "epsilon_cutoff": keep_above,
    "eta_cutoff": keep_above_eta,
}
