"""What engines have done, as plain numbers for whoever watches."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

GAP_BOUNDS_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
FIRST_TOKEN_BOUNDS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


@dataclass(frozen=True)
class EngineFigures:
    """Totals since the beginning.

    `prompt_tokens` are those that were read, remembered ones not counted. `ended` counts generations by why they ended:
    a `FinishReason`, "error", or "refused" where too many were waiting. `gaps` counts new tokens by the time since the
    one before: up to each of GAP_BOUNDS_SECONDS but above the bound before it, the last above all of them.
    `gap_seconds` is their sum. `first_tokens` and `first_token_seconds` are the same for the first token of each text,
    by the time since it was asked for and by FIRST_TOKEN_BOUNDS_SECONDS.
    """

    generated_tokens: int
    prompt_tokens: int
    ended: Mapping[str, int]
    gaps: tuple[int, ...]
    gap_seconds: float
    first_tokens: tuple[int, ...]
    first_token_seconds: float


class EngineStatistics:
    """Counts for any number of engines, from their threads: once for each round, whatever that has written."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._generated = 0
        self._read = 0
        self._ended: Counter[str] = Counter()
        self._gaps = [0] * (len(GAP_BOUNDS_SECONDS) + 1)
        self._gap_seconds = 0.0
        self._first_tokens = [0] * (len(FIRST_TOKEN_BOUNDS_SECONDS) + 1)
        self._first_token_seconds = 0.0

    def wrote(self, tokens: int, *, gaps: int, gap_seconds: float, first_seconds: Sequence[float]) -> None:
        """New tokens, `gaps` of them each so long after the one before it.

        `first_seconds` is how long each of those that are the first of their text was waited for.
        """
        with self._lock:
            self._generated += tokens
            self._gaps[bisect_left(GAP_BOUNDS_SECONDS, gap_seconds)] += gaps
            self._gap_seconds += gaps * gap_seconds
            for seconds in first_seconds:
                self._first_tokens[bisect_left(FIRST_TOKEN_BOUNDS_SECONDS, seconds)] += 1
                self._first_token_seconds += seconds

    def read(self, tokens: int) -> None:
        with self._lock:
            self._read += tokens

    def ended(self, reason: str) -> None:
        with self._lock:
            self._ended[reason] += 1

    def figures(self) -> EngineFigures:
        """All of them at one moment."""
        with self._lock:
            return EngineFigures(
                self._generated,
                self._read,
                dict(self._ended),
                tuple(self._gaps),
                self._gap_seconds,
                tuple(self._first_tokens),
                self._first_token_seconds,
            )


class Pace:
    """How fast the rows of one scheduler write: it counts tokens as they are passed on, and tells once a round.

    All rows wait for the same round. Of several tokens that a row gets in one, each counts an equal part of it. In the
    round in which a row begins, its prompt may have been read and its model compiled: there it has no gaps.
    """

    def __init__(self, statistics: EngineStatistics, clock: Callable[[], float]) -> None:
        self._tokens = 0
        self._begun: dict[int, float] = {}  # by row: when its text was asked for
        self._begun_tokens = 0  # theirs
        self._statistics = statistics
        self._clock = clock
        self._began: float | None = None

    def begin_round(self) -> None:
        """A round follows on the one before, unless nobody wrote in that."""
        if self._began is None:
            self._began = self._clock()

    def wrote(self, row: object, index: int, *, asked: float) -> None:
        """A row's token is passed on, the `index`-th of its text from 0, which somebody `asked` for at that time."""
        self._tokens += 1
        if index == 0:
            self._begun[id(row)] = asked
        if id(row) in self._begun:
            self._begun_tokens += 1

    def end_round(self, rows: int) -> None:
        """So many rows have written."""
        tokens, begun, gaps = self._tokens, self._begun, self._tokens - self._begun_tokens
        self._tokens, self._begun, self._begun_tokens = 0, {}, 0
        if not tokens or self._began is None:
            self._began = None
            return
        now = self._clock()
        gap_seconds = (now - self._began) * (rows - len(begun)) / gaps if gaps else 0.0
        first_seconds = [now - asked for asked in begun.values()]
        self._statistics.wrote(tokens, gaps=gaps, gap_seconds=gap_seconds, first_seconds=first_seconds)
        self._began = now
