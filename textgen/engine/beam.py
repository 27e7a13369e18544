"""Beam search over one request."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from textgen.engine.decoding import Advance, Logits
from textgen.engine.requests import BeamsEvent, FinishReason, GenerationRequest, Hypothesis, hypothesis_score
from textgen.engine.sampling import log_normalizer
from textgen.errors import BrokenModel


@dataclass(frozen=True)
class _Beam:
    """A partial or finished hypothesis; `logprob_sum` is over its tokens and `parent` the row it grew from."""

    token_ids: tuple[int, ...]
    logprob_sum: float
    parent: int = 0
    reason: FinishReason | None = None


class BeamSearch:
    """Beam search by the definitions of `transformers` 5 with `early_stopping=False`.

    - A step takes the 2 · num_beams best continuations of all running beams by Σ log p. log p is the model's own:
      forbidden tokens are left out, the rest is not renormalised.
    - Those among the best num_beams that end (end token, `stop_condition`, length) enter the finished ones, which keep
      the num_beams best by score = Σ log p / length^length_penalty; length counts new tokens, the end token included.
      The best num_beams of those that do not end run on.
    - The search ends at max_new_tokens, when nothing runs on, or when there are num_beams finished hypotheses and the
      best running beam, scored at its present length, beats none of them. With a positive length penalty that last
      rule may miss a hypothesis that would still have overtaken.

    Only one beam runs at first; `transformers` starts num_beams copies, all but one at -1e9, to the same effect.
    Ties: the beam with the better sum, then the lower token id.
    """

    def __init__(self, request: GenerationRequest) -> None:
        self._request = request
        self._settings = request.settings
        self._banned = sorted(request.forbidden_ids)
        self._running = [_Beam((), 0.0)]
        self._finished: list[_Beam] = []
        self._done = False

    @property
    def rows(self) -> int:
        return self._settings.num_beams

    def advance(self, logits: Logits) -> Advance:
        """Grows every running beam by a token, from logits [running, vocab] in the order of the last `Advance`.

        Raises `BrokenModel` when they are no numbers.
        """
        length = len(self._running[0].token_ids) + 1
        self._sort_in(self._continuations(logits, length), length)
        reason: FinishReason | None = None
        if not self._running or self._unbeatable(length):
            self._done = True
            reason = self._finished[0].reason
        return Advance(
            BeamsEvent(self._best(self._settings.num_beams, running_too=True)),
            np.array([beam.token_ids[-1] for beam in self._running], dtype=np.int64),
            parents=[beam.parent for beam in self._running],
            reason=reason,
        )

    def hypotheses(self) -> tuple[Hypothesis, ...]:
        return self._best(self._settings.num_return, running_too=not self._done)

    def _continuations(self, logits: Logits, length: int) -> list[_Beam]:
        """The 2 · num_beams best continuations, by falling Σ log p; `parent` is the row of the beam they continue."""
        sums = np.array([beam.logprob_sum for beam in self._running])
        totals = logits + (sums[:, None] - log_normalizer(logits))  # [running, vocab], float64
        totals[:, self._banned] = -np.inf
        if self._request.eos_id is not None and length <= self._settings.min_new_tokens:
            totals[:, self._request.eos_id] = -np.inf
        # Only a ban may be infinite, and never all of a row is banned.
        if not np.isfinite(totals.max(axis=1)).all():
            raise BrokenModel(length - 1)
        flat = totals.ravel()
        count = min(2 * self._settings.num_beams, flat.size)
        lowest = np.partition(flat, flat.size - count)[flat.size - count]
        places = np.flatnonzero((flat >= lowest) & (flat > -math.inf))
        places = places[np.argsort(-flat[places], kind="stable")][:count]
        found: list[_Beam] = []
        for place in places.tolist():
            row, token_id = divmod(place, logits.shape[1])
            found.append(_Beam((*self._running[row].token_ids, token_id), float(flat[place]), row))
        return found

    def _sort_in(self, continuations: list[_Beam], length: int) -> None:
        num_beams = self._settings.num_beams
        self._running = []
        for rank, beam in enumerate(continuations):
            if rank >= num_beams and len(self._running) == num_beams:
                break  # the rest can neither finish nor run on; their stop conditions may be dear
            reason = self._reason(beam.token_ids, length)
            if reason is None:
                self._running.append(beam)
            elif rank < num_beams:
                self._finished.append(replace(beam, reason=reason))
        self._running = self._running[:num_beams]
        self._finished = sorted(self._finished, key=self._score, reverse=True)[:num_beams]

    def _unbeatable(self, length: int) -> bool:
        if len(self._finished) < self._settings.num_beams:
            return False
        best_running = hypothesis_score(self._running[0].logprob_sum, length, self._settings.length_penalty)
        return best_running <= self._score(self._finished[-1])

    def _best(self, count: int, *, running_too: bool) -> tuple[Hypothesis, ...]:
        beams = self._finished + self._running if running_too else self._finished
        best = sorted(beams, key=self._score, reverse=True)[:count]
        return tuple(Hypothesis(beam.token_ids, self._score(beam), beam.reason is not None) for beam in best)

    def _score(self, beam: _Beam) -> float:
        return hypothesis_score(beam.logprob_sum, len(beam.token_ids), self._settings.length_penalty)

    def _reason(self, token_ids: tuple[int, ...], length: int) -> FinishReason | None:
        if token_ids[-1] == self._request.eos_id:
            return "eos"
        if self._request.stop_condition is not None and self._request.stop_condition(token_ids):
            return "stop"
        return "length" if length >= self._settings.max_new_tokens else None
