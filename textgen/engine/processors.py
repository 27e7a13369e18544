"""What changes the scores of tokens because of the text so far: biases, penalties, bans."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from textgen.config import GenerationSettings
from textgen.engine.decoding import TokenIds
from textgen.engine.requests import GenerationRequest
from textgen.engine.token_history import SuffixRepeats, TokenCounts
from textgen.engine.warpers import WARPERS

ScoresT = TypeVar("ScoresT", bound=NDArray[np.floating[Any]])

# Settings that act on something else than scores before temperature, or are looked at by themselves. Any other that is
# not at its default is taken to matter here: whoever adds one need not say so.
_ELSEWHERE = frozenset(
    {
        *WARPERS,
        *("temperature", "seed", "num_samples", "top_logprobs", "adapt"),
        *("banned", "avoid_copying", "ignore_eos", "logit_bias", "min_new_tokens", "max_new_tokens", "stop"),
        *("num_beams", "beam_sampling", "num_beam_groups", "diversity_penalty", "early_stopping", "length_penalty"),
        *("num_return", "dry_base", "dry_allowed_length"),
    }
)
# The largest change to a score: beyond all scores that models give, and far from what float32 cannot hold.
_MOST = 1e30


class History:
    """The text so far of one sequence, as far as the processors of its request look at it."""

    def __init__(
        self, new_ids: list[int], seen: TokenCounts | None, written: TokenCounts | None, repeats: SuffixRepeats | None
    ) -> None:
        self.new_ids = new_ids
        self.seen = seen  # context and new tokens
        self.written = written  # new tokens only
        self.repeats = repeats  # context and new tokens

    def append(self, token_id: int) -> None:
        self.new_ids.append(token_id)
        for part in (self.seen, self.written, self.repeats):
            if part is not None:
                part.append(token_id)

    def copy(self) -> History:
        return History(
            self.new_ids.copy(),
            None if self.seen is None else self.seen.copy(),
            None if self.written is None else self.written.copy(),
            None if self.repeats is None else self.repeats.copy(),
        )


class Processors:
    """The processors of one request, in this order, those of `transformers` by its definitions.

    - Logit bias: added.
    - Repetition penalty (Keskar et al. 2019, https://arxiv.org/abs/1909.05858): the scores of all tokens in the context
      and the new text are divided by it, or multiplied where they are below 0.
    - Frequency and presence penalty (OpenAI's API): score - count · frequency - [count > 0] · presence; counts are of
      new tokens.
    - DRY ("don't repeat yourself", p-e-w 2024, text-generation-webui #5677): where the last n tokens, n at least
      `dry_allowed_length`, stood before in context or new text, the token that followed there loses multiplier ·
      base^(n - allowed_length), n being the longest such repeat. No token breaks a repeat, and none is too long.
    - No repeated n-gram in context and new text: banned.
    - `forbidden_next`, `avoided_next` and `forbidden_ids`: banned. The end token before `min_new_tokens`: banned.

    Banned is -inf. Where that leaves a sequence nothing, repeated n-grams are allowed after all; if that is not enough,
    so is what `avoided_next` names, and in the end what `forbidden_next` does. Penalties act on the scores they are
    given: on logits when sampling, on log-probabilities in beams, as in `transformers`.
    """

    def __init__(self, request: GenerationRequest) -> None:
        settings = request.settings
        self._settings = settings
        self._context_ids = request.context_ids
        # The stricter first: it is the last to be lifted.
        self._forbidding = [ask for ask in (request.forbidden_next, request.avoided_next) if ask is not None]
        self._bias_ids = np.array(list(settings.logit_bias), dtype=np.int64)
        self._biases = np.clip(np.array(list(settings.logit_bias.values()), dtype=np.float64), -_MOST, _MOST)
        self.banned_ids = _sorted_ids(request.forbidden_ids)
        end = frozenset[int]() if request.eos_id is None else frozenset({request.eos_id})
        self._banned_at_first = _sorted_ids(request.forbidden_ids | end)
        self._counts_seen = settings.repetition_penalty != 1.0 or settings.no_repeat_ngram_size == 1
        self._counts_written = settings.frequency_penalty != 0.0 or settings.presence_penalty != 0.0
        self._finds_repeats = settings.no_repeat_ngram_size > 1 or settings.dry_multiplier > 0.0
        self._follows = self._counts_seen or self._counts_written or self._finds_repeats
        self._changes = any(
            getattr(settings, name) != field.default
            for name, field in GenerationSettings.model_fields.items()
            if name not in _ELSEWHERE
        )
        self._start: History | None = None
        self._known: list[History] = []

    @property
    def active(self) -> bool:
        """Whether `apply` may change anything."""
        return self.banned_ids.size > 0 or not self.only_forbid

    @property
    def only_forbid(self) -> bool:
        """Whether all that `apply` ever does is to ban `forbidden_ids`."""
        ends_late = self._settings.min_new_tokens > 0 and self._banned_at_first.size > 0
        return not (self._bias_ids.size > 0 or ends_late or self._changes or self._forbidding)

    def history(self) -> History:
        """That of a sequence without new tokens."""
        if self._start is None:
            self._start = History(
                [],
                TokenCounts(self._context_ids) if self._counts_seen else None,
                TokenCounts() if self._counts_written else None,
                SuffixRepeats(self._context_ids) if self._finds_repeats else None,
            )
        return self._start.copy()

    def apply(self, scores: ScoresT, new_ids: Sequence[Sequence[int]]) -> ScoresT:
        """Processed copies of scores [rows, vocab], floats of any size, of sequences with `new_ids` [rows][tokens].

        The result depends on the arguments alone. It is found faster when each sequence is one of the call before with
        a token more.
        """
        processed: ScoresT = scores.copy()
        self._known = [self._history_of(list(ids)) for ids in new_ids]
        for row, history in zip(processed, self._known, strict=True):
            self.apply_to(row, history)
        return processed

    def apply_to(self, row: NDArray[np.floating[Any]], history: History) -> None:
        """Processes one row of scores [vocab] in place."""
        self._penalize(row, history)
        early = len(history.new_ids) < self._settings.min_new_tokens
        row[self._banned_at_first if early else self.banned_ids] = -math.inf
        repeating = self._repeating(history)
        for token_ids in (*(np.asarray(ask(history.new_ids), np.int64) for ask in self._forbidding), repeating):
            if token_ids is not None and len(token_ids):
                _ban_unless_nothing_is_left(row, token_ids)

    def _penalize(self, row: NDArray[np.floating[Any]], history: History) -> None:
        settings = self._settings
        if self._bias_ids.size:
            row[self._bias_ids] += self._biases
        if settings.repetition_penalty != 1.0 and history.seen is not None:
            row[history.seen.ids] = _repetition_penalized(row[history.seen.ids], settings.repetition_penalty)
        if history.written is not None:
            counts = history.written.counts
            row[history.written.ids] -= counts * settings.frequency_penalty + settings.presence_penalty
        if settings.dry_multiplier > 0.0 and history.repeats is not None:
            token_ids, lengths = _longest(*history.repeats.following(settings.dry_allowed_length))
            with np.errstate(over="ignore"):
                growth = np.power(settings.dry_base, (lengths - settings.dry_allowed_length).astype(np.float64))
            row[token_ids] -= np.minimum(settings.dry_multiplier * growth, _MOST)

    def _repeating(self, history: History) -> TokenIds | None:
        """What would complete an n-gram that stands in the text already."""
        size = self._settings.no_repeat_ngram_size
        if size == 1 and history.seen is not None:
            return history.seen.ids
        if size > 1 and history.repeats is not None:
            return history.repeats.following(size - 1)[0]
        return None

    def _history_of(self, new_ids: list[int]) -> History:
        if not self._follows:
            return History(new_ids, None, None, None)
        before = new_ids[:-1]
        known = next((history for history in self._known if new_ids and history.new_ids == before), None)
        history, rest = (self.history(), new_ids) if known is None else (known.copy(), new_ids[-1:])
        for token_id in rest:
            history.append(token_id)
        return history


def _sorted_ids(token_ids: frozenset[int]) -> TokenIds:
    return np.array(sorted(token_ids), dtype=np.int64)


def _repetition_penalized(values: NDArray[np.floating[Any]], penalty: float) -> NDArray[np.floating[Any]]:
    penalty = max(penalty, 1 / _MOST)  # in float32, less might be 0
    with np.errstate(over="ignore"):
        return np.minimum(np.where(values < 0, values * penalty, values / penalty), _MOST)


def _longest(token_ids: TokenIds, lengths: NDArray[np.int64]) -> tuple[TokenIds, NDArray[np.int64]]:
    """Each of `token_ids` [places] once, with the greatest of its `lengths` [places]."""
    order = np.lexsort((lengths, token_ids))
    token_ids, lengths = token_ids[order], lengths[order]
    last = np.append(token_ids[1:] != token_ids[:-1], True)[: token_ids.size]
    return token_ids[last], lengths[last]


def _ban_unless_nothing_is_left(row: NDArray[np.floating[Any]], token_ids: TokenIds) -> None:
    before = row[token_ids]
    row[token_ids] = -math.inf
    if row.max() == -math.inf:
        row[token_ids] = before
