"""One token after another: greedy or drawn, for many rows at once, with numbers that depend on the seed alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from textgen.config import GenerationSettings
from textgen.engine.backends import Draws
from textgen.engine.decoding import Choice, Logits, Scores, TokenIds
from textgen.engine.processors import Processors
from textgen.engine.randomness import UniformStream
from textgen.engine.requests import (
    Alternative,
    FinishReason,
    GenerationRequest,
    Hypothesis,
    TokenEvent,
    hypothesis_score,
)
from textgen.engine.token_choice import ANY_VOCABULARY, CHOSEN_BY, Answer, Asked, best_chooser, settings_row
from textgen.engine.warpers import warp, warpers_on
from textgen.errors import BrokenModel

_NOTHING = np.array([], dtype=np.int64)
# The warpers that a `DrawingPool` knows.
_DRAWN_BY = ("top_k", "top_p", "min_p")


class SampledSequence:
    """One sample of a request: its tokens so far, and what decides on the next one, by a `Sampler`.

    Where it is `plain`, a `DrawingPool` can decide as well. At temperature 0 the highest score is taken (ties: the
    lowest id). Else a token is drawn from the processed and warped distribution, whose tokens stand in the order of
    falling scores: it is the one at the uniform number of its (seed, sample, index). Where a warper is on that no
    chooser knows, processing a row warps it, too.
    """

    def __init__(
        self, request: GenerationRequest, seed: int, sample: int = 0, processors: Processors | None = None
    ) -> None:
        """`processors`: those of the request, which its samples may share; made here when not given."""
        self.request = request
        self.settings = request.settings
        self.sample = sample
        self.processors = Processors(request) if processors is None else processors
        warpers = set(warpers_on(self.settings)) if self.settings.temperature else set()
        self._warps = not warpers.issubset(CHOSEN_BY)
        self.processes = self._warps or not self.processors.only_forbid
        as_warped = GenerationSettings(temperature=1.0, top_logprobs=self.settings.top_logprobs)
        self.settings_row = settings_row(as_warped if self._warps else self.settings)
        self.plain = not self.processes and warpers.issubset(_DRAWN_BY) and self.settings.top_logprobs == 0
        self._history = self.processors.history()
        self._uniforms = UniformStream(seed, sample)
        self._logprob_sum = 0.0
        self._reason: FinishReason | None = None

    @property
    def token_ids(self) -> list[int]:
        """The new ones; not to be changed."""
        return self._history.new_ids

    @property
    def finished(self) -> bool:
        return self._reason is not None

    def hypothesis(self) -> Hypothesis:
        token_ids = tuple(self.token_ids)
        score = hypothesis_score(self._logprob_sum, len(token_ids), self.settings.length_penalty)
        return Hypothesis(token_ids, score, self._reason is not None, self._reason)

    def process(self, row: Logits) -> None:
        """Applies the processors to a row of logits [vocab], in place, and where it must, the warpers."""
        self.processors.apply_to(row, self._history)
        if self._warps and math.isfinite(row.max()):
            warped = warp(row[None], self.settings)[0]
            row[:] = warped - warped.max()

    @property
    def tokens_left(self) -> int:
        """How many it may still get."""
        return self.settings.max_new_tokens - len(self.token_ids)

    def uniform(self, ahead: int = 0) -> float:
        """The random number of the next token, or of one behind it."""
        return self._uniforms.at(len(self.token_ids) + ahead)

    def uniforms(self, count: int) -> list[float]:
        """Those of the next `count` tokens."""
        return [self.uniform(ahead) for ahead in range(count)]

    def accept(self, token_id: int, logprob: float, warped_logprob: float, others: tuple[Alternative, ...]) -> Choice:
        """Appends a token."""
        event = TokenEvent(token_id, logprob, len(self.token_ids), self.sample, warped_logprob, others)
        self._history.append(token_id)
        self._logprob_sum += logprob
        self._reason = self._reason_after(token_id)
        return Choice(event, self._reason)

    def _reason_after(self, token_id: int) -> FinishReason | None:
        if token_id == self.request.eos_id:
            return "eos"
        if self.request.stop_condition is not None and self.request.stop_condition(self.token_ids):
            return "stop"
        return "length" if len(self.token_ids) >= self.settings.max_new_tokens else None


class Ahead(NamedTuple):
    """What was drawn step by step, and what went wrong after that."""

    answers: list[Answer]
    error: Exception | None


class Sampler:
    """Chooses the next token of some sequences, step after step, for as long as none of them has finished.

    What a row gives depends, to the bit, on it and its sequence alone.
    """

    def __init__(self, sequences: Sequence[SampledSequence]) -> None:
        # Whether what is drawn depends on the logits alone, and it can be seen from a token whether it is the last.
        self.runs_ahead = not any(row.processes or row.request.stop_condition is not None for row in sequences)
        self._sequences = sequences
        self._end_ids = [row.request.eos_id for row in sequences]
        self._processing = [row for row, sequence in enumerate(sequences) if sequence.processes]
        # Those that do more than ban get their bans from their processors.
        banned = [_NOTHING if sequence.processes else sequence.processors.banned_ids for sequence in sequences]
        places = np.full(len(sequences), -1)
        places[self._processing] = np.arange(len(self._processing))
        settings = np.array([sequence.settings_row for sequence in sequences], dtype=np.float64).reshape(-1, 8)
        self._asked = Asked(
            settings,
            np.zeros(len(sequences)),
            np.concatenate([_NOTHING, *banned]),
            np.array([ids.size for ids in banned], dtype=np.int64).cumsum(),
            np.zeros((0, 1), dtype=np.float32),
            places,
        )
        self._answer = Answer.room(settings)
        self._choose = best_chooser()

    def choose(self, logits: Logits) -> list[Choice | Exception]:
        """A token for each sequence from its row of logits [rows, vocab], appended to it.

        A row whose logits are no numbers, or leave nothing to choose from, gives a `BrokenModel`; what a request's own
        functions raise is given too.
        """
        failures: dict[int, Exception] = {}
        processed = None
        if self._processing:
            processed, failures = self._process(logits)
        return self._accept(self._draw(logits, processed), failures)

    def run_ahead(self, token_ids: TokenIds, step: Callable[[TokenIds], Logits], goes_on: Callable[[], bool]) -> Ahead:
        """Tokens one after another until one may be the last, or for as long as it `goes_on` after each.

        `step` reads token_ids [rows] and gives logits [rows, vocab]. Nothing is appended yet.
        """
        answers: list[Answer] = []
        for _ in range(min(sequence.tokens_left for sequence in self._sequences)):
            try:
                answer = self._draw(step(token_ids), ahead=len(answers))
            except Exception as error:
                return Ahead(answers, error)
            answers.append(answer._replace(chosen=answer.chosen.copy(), others=answer.others.copy()))
            token_ids = answer.chosen[:, 0].astype(np.int64)
            if any(found < 0 or found == end for found, end in zip(token_ids.tolist(), self._end_ids, strict=True)):
                break
            if not goes_on():
                break
        return Ahead(answers, None)

    def accept(self, answer: Answer) -> list[Choice | Exception]:
        """Appends what was drawn ahead, one step after another; gives what `choose` gives."""
        return self._accept(answer, {})

    def _draw(self, logits: Logits, processed: Logits | None = None, *, ahead: int = 0) -> Answer:
        """An answer that the next one overwrites."""
        asked = self._asked if processed is None else self._asked._replace(processed=processed)
        asked.uniforms[:] = [sequence.uniform(ahead) for sequence in self._sequences]
        self._choose(logits, asked, self._answer)
        return self._answer

    def _accept(self, answer: Answer, failures: dict[int, Exception]) -> list[Choice | Exception]:
        chosen = zip(self._sequences, answer.chosen.tolist(), strict=True)
        return [
            failures.get(row) or _accepted(sequence, found, _others(sequence, answer.others[row]))
            for row, (sequence, found) in enumerate(chosen)
        ]

    def _process(self, logits: Logits) -> tuple[Logits, dict[int, Exception]]:
        """Scores of the rows that process them; and what was raised, by row."""
        scores: Logits = logits[self._processing]
        tried = {
            row: _process(self._sequences[row], processed)
            for row, processed in zip(self._processing, scores, strict=True)
        }
        return scores, {row: error for row, error in tried.items() if error is not None}


def draws_for(sequences: Sequence[SampledSequence], steps: int) -> Draws:
    """What a `DrawingPool` is to know of plain sequences for their next `steps` tokens."""
    settings = [sequence.settings for sequence in sequences]
    return Draws(
        np.array([row.temperature for row in settings], dtype=np.float64),
        np.array([min(row.top_k, ANY_VOCABULARY) for row in settings], dtype=np.int64),
        np.array([row.top_p for row in settings], dtype=np.float64),
        np.array([row.min_p for row in settings], dtype=np.float64),
        [sequence.request.forbidden_ids for sequence in sequences],
        np.array([sequence.uniforms(steps) for sequence in sequences], dtype=np.float64),
    )


def take_drawn(
    sequence: SampledSequence, token_ids: Sequence[int], logprobs: Sequence[float], warped_logprobs: Sequence[float]
) -> Iterator[Choice | Exception]:
    """Appends what a `DrawingPool` drew for a sequence, up to its end; yields as `Sampler.choose` gives."""
    for token_id, logprob, warped in zip(token_ids, logprobs, warped_logprobs, strict=True):
        if math.isnan(logprob):
            yield BrokenModel(len(sequence.token_ids))
            return
        try:
            choice = sequence.accept(token_id, logprob, warped, ())
        except Exception as error:
            yield error
            return
        yield choice
        if sequence.finished:
            return


def _others(sequence: SampledSequence, table: Scores) -> tuple[Alternative, ...]:
    """From a row of `Answer.others`."""
    count = sequence.settings.top_logprobs
    if not count:
        return ()
    return tuple(Alternative(int(found[0]), found[1], found[2]) for found in table[:count].tolist() if found[0] >= 0)


def _process(sequence: SampledSequence, row: Logits) -> Exception | None:
    """Processes a row of logits [vocab] in place; what was raised, if anything was."""
    try:
        sequence.process(row)
    except Exception as error:
        return error
    return None


def _accepted(sequence: SampledSequence, found: Sequence[float], others: tuple[Alternative, ...]) -> Choice | Exception:
    """Appends what was `found`: see `Answer.chosen`."""
    token_id, logprob, warped_logprob = found
    if token_id < 0:
        return BrokenModel(len(sequence.token_ids))
    try:
        return sequence.accept(int(token_id), logprob, warped_logprob, others)
    except Exception as error:
        return error
