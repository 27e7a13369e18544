"""Drawing tokens where the logits are: what a `Sampler` does, for the usual settings, as tensor operations."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from textgen.engine.warpers import LOWEST_TEMPERATURE


class RowSettings(NamedTuple):
    """Of each row, [rows]: `top_k` int64 (0: all), the others float64; and what it must not write, bool [rows, vocab].

    `sampled` is False where every row is at temperature 0, which saves most of the work.
    """

    sampled: bool
    top_k: Tensor
    temperature: Tensor
    top_p: Tensor
    min_p: Tensor
    banned: Tensor


def draw(logits: Tensor, settings: RowSettings, uniforms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A token for each row of fp32 logits [rows, vocab], with float64 uniforms [rows] in [0, 1).

    Returns token ids, their float64 log-probabilities under the model, nan where a row has no logits to choose from,
    and those under the distribution that they were drawn from, each [rows].
    """
    scores = logits.masked_fill(settings.banned, -math.inf)
    broken = ~(logits.amax(1).isfinite() & scores.amax(1).isfinite())
    scores = scores.masked_fill(broken[:, None], 0.0)  # no nan may lead to a place that is not there
    token_ids = scores.argmax(1)  # ties: the lowest id
    warped = torch.zeros_like(uniforms)
    if settings.sampled:
        greedy = settings.temperature == 0.0
        drawn, drawn_warped = _drawn(scores, settings, uniforms)
        token_ids = torch.where(greedy, token_ids, drawn)
        warped = torch.where(greedy, warped, drawn_warped)
    logprobs = (_at(logits, token_ids) - logits.logsumexp(1)).double()
    return token_ids, logprobs.masked_fill(broken, math.nan), warped


def _drawn(scores: Tensor, settings: RowSettings, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids and their log-probabilities in the warped distribution of scores [rows, vocab]; see `token_choice`.

    Tokens stand in the order of falling scores, of equal ones the higher id first; what a setting keeps is always the
    beginning. Everything is in float64, as it is there.
    """
    vocab_size = scores.shape[1]
    ordered, order = scores.flip(1).sort(dim=1, descending=True, stable=True)
    wide = ordered.double()
    # How far below the best, in units of the temperature: rising from 0, inf for what is banned.
    gaps = (wide[:, :1] - wide) / settings.temperature.clamp(min=LOWEST_TEMPERATURE)[:, None]
    mass = (-gaps).exp().cumsum(1)
    ends = _end_of_top_k(gaps, settings.top_k)
    ends = torch.where(settings.top_p < 1.0, _end_of_top_p(mass, ends, settings.top_p), ends)
    ends = torch.minimum(ends, _places(gaps, -settings.min_p.log(), right=True))  # min-p 0: inf, which keeps all
    total = _at(mass, ends - 1)
    # No float64 below 1 gives a product that is rounded up to the total, so there is always such a place.
    places = _places(mass, uniforms * total, right=True)
    return vocab_size - 1 - _at(order, places), -_at(gaps, places) - total.log()


def _end_of_top_k(gaps: Tensor, top_k: Tensor) -> Tensor:
    """Behind the k-th, and what ties with it; 0 keeps all."""
    vocab_size = gaps.shape[1]
    lowest = _at(gaps, (top_k - 1).clamp(0, vocab_size - 1))
    return _places(gaps, lowest, right=True).masked_fill(top_k == 0, vocab_size)


def _end_of_top_p(mass: Tensor, ends: Tensor, top_p: Tensor) -> Tensor:
    """Behind the first with which mass reaches its share of what is before `ends`."""
    reached = _places(mass, top_p * _at(mass, ends - 1), right=False) + 1
    return torch.minimum(reached, ends)


def _places(rising: Tensor, values: Tensor, *, right: bool) -> Tensor:
    """Where `values` [rows] belong in `rising` [rows, vocab], `right` of what equals them or left of it: [rows]."""
    return torch.searchsorted(rising, values[:, None], right=right)[:, 0]


def _at(table: Tensor, places: Tensor) -> Tensor:
    """table [rows, vocab] at `places` [rows]: [rows]."""
    return table.gather(1, places[:, None])[:, 0]
