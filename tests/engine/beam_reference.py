"""Beam searches written down with lists and no thought of speed, and what drives the real one beside them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from textgen.engine.beam import BeamSearch
from textgen.engine.requests import BeamsEvent, GenerationRequest, Hypothesis

LogitsOf = Callable[[tuple[int, ...]], np.ndarray]
Scored = tuple[float, tuple[int, ...]]


def random_model(seed: int, vocab_size: int, spread: float = 2.0) -> LogitsOf:
    """Logits that are a fixed random function of all tokens so far."""

    @functools.cache
    def logits_of(tokens: tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng([seed, len(tokens), *tokens])
        return (rng.standard_normal(vocab_size) * spread).astype(np.float32)

    return logits_of


def log_softmax(logits: np.ndarray) -> list[float]:
    values = [float(value) for value in logits]
    highest = max(values)
    norm = highest + math.log(math.fsum(math.exp(value - highest) for value in values))
    return [value - norm for value in values]


def search(
    logits_of: LogitsOf, wanted: GenerationRequest, seed: int = 0
) -> tuple[str, list[Hypothesis], list[BeamsEvent], BeamSearch]:
    """Drives a `BeamSearch` as the scheduler does, but re-reads each hypothesis from its beginning."""
    decoder = BeamSearch(wanted, seed)
    prefixes: list[tuple[int, ...]] = [()]
    events: list[BeamsEvent] = []
    while True:
        advance = decoder.advance(np.stack([logits_of(prefix) for prefix in prefixes]))
        events.append(advance.event)
        assert len(advance.parents) <= decoder.rows
        pairs = zip(advance.parents, advance.token_ids.tolist(), strict=True)
        prefixes = [(*prefixes[parent], token) for parent, token in pairs]
        if advance.reason is not None:
            assert not prefixes
            return advance.reason, list(decoder.hypotheses()), events, decoder


class PlainGroup:
    """One search among `size` beams as `transformers` defines it, dead beams at -1e9 included."""

    def __init__(self, wanted: GenerationRequest, size: int) -> None:
        self.wanted, self.size = wanted, size
        self.running: list[Scored] = [(0.0, ()), *[(-1e9, ())] * (size - 1)]
        self.finished: list[Scored] = []
        self.done = False

    def step(self, logits_of: LogitsOf, length: int, lowered: Sequence[int]) -> list[int]:
        """One step, the log p of each token lowered for each time it is in `lowered`; the tokens taken."""
        settings, wanted = self.wanted.settings, self.wanted
        grown = []
        for total, tokens in self.running:
            for token, logprob in enumerate(log_softmax(logits_of(tokens))):
                early_end = token == wanted.eos_id and length <= settings.min_new_tokens
                if token not in wanted.forbidden_ids and not early_end:
                    penalty = settings.diversity_penalty * lowered.count(token)
                    grown.append((total + logprob - penalty, (*tokens, token)))
        grown = sorted(grown, key=lambda beam: -beam[0])[: 2 * self.size]
        ends = [
            tokens[-1] == wanted.eos_id
            or (wanted.stop_condition is not None and wanted.stop_condition(tokens))
            or length == settings.max_new_tokens
            for _, tokens in grown
        ]
        ended = [beam for beam, end in list(zip(grown, ends, strict=True))[: self.size] if end and beam[0] > -1e8]
        self.finished += [(total / length**settings.length_penalty, tokens) for total, tokens in ended]
        self.finished = sorted(self.finished, key=lambda beam: -beam[0])[: self.size]
        pairs = zip(grown, ends, strict=True)
        alive = [(total - 1e9 if end else total, tokens) for (total, tokens), end in pairs]
        self.running = sorted(alive, key=lambda beam: -beam[0])[: self.size]
        self.done = all(ends) or self._nothing_better(length)
        return [tokens[-1] for total, tokens in [*ended, *self.running] if total > -1e8]

    def _nothing_better(self, length: int) -> bool:
        settings = self.wanted.settings
        if len(self.finished) < self.size:
            return False
        if settings.early_stopping == "yes":
            return True
        horizon = length
        if settings.early_stopping == "never" and settings.length_penalty > 0:
            horizon = settings.max_new_tokens
        return self.running[0][0] / horizon**settings.length_penalty <= self.finished[-1][0]


def plain_beam_search(logits_of: LogitsOf, wanted: GenerationRequest) -> list[Scored]:
    """(score, tokens) of what is found, best first: groups one after the other at each step, each lowering what the
    earlier ones took."""
    settings = wanted.settings
    groups = [
        PlainGroup(wanted, settings.num_beams // settings.num_beam_groups) for _ in range(settings.num_beam_groups)
    ]
    for length in range(1, settings.max_new_tokens + 1):
        taken: list[int] = []
        for group in groups:
            if not group.done:
                taken += group.step(logits_of, length, tuple(taken))
    found: dict[tuple[int, ...], float] = {}
    for score, tokens in sorted((beam for group in groups for beam in group.finished), key=lambda beam: -beam[0]):
        found.setdefault(tokens, score)
    return [(score, tokens) for tokens, score in found.items()][: settings.num_return]


def assert_same(found: Sequence[Hypothesis], expected: Sequence[Scored]) -> None:
    assert [hypothesis.token_ids for hypothesis in found] == [tokens for _, tokens in expected]
    assert [h.score for h in found] == pytest.approx([score for score, _ in expected], rel=1e-5, abs=1e-5)
