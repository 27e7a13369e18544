from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.engine.helpers import PATIENCE_SECONDS, HeldBackend, ManualClock, read, request, text
from textgen.engine import Backend, Engine
from textgen.engine.statistics import (
    FIRST_TOKEN_BOUNDS_SECONDS,
    GAP_BOUNDS_SECONDS,
    EngineFigures,
    EngineStatistics,
    Pace,
)
from textgen.errors import Busy
from textgen.limits import Limits
from textgen.model import LanguageModel


@pytest.fixture
def statistics() -> EngineStatistics:
    return EngineStatistics()


def until(statistics: EngineStatistics, condition: Callable[[EngineFigures], bool]) -> EngineFigures:
    """The figures once they are so: a round is counted when all of it has been passed on."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition(figures := statistics.figures()):
        assert time.monotonic() < deadline, figures
        time.sleep(0.001)
    return figures


class TestPace:
    """Rows are named by texts; what each was asked for at is 0."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def pace(self, statistics: EngineStatistics, clock: ManualClock) -> Pace:
        """One whose rows "a", "b" and "c" have begun, within two seconds."""
        pace = Pace(statistics, clock)
        pace.begin_round()
        clock.seconds = 2.0
        for row in "abc":
            pace.wrote(row, 0, asked=0.0)
        pace.end_round(3)
        return pace

    def test_what_comes_before_a_text_is_no_gap(self, pace: Pace, statistics: EngineStatistics) -> None:
        figures = statistics.figures()
        assert (figures.generated_tokens, sum(figures.gaps), figures.gap_seconds) == (3, 0, 0.0)
        assert figures.first_tokens[FIRST_TOKEN_BOUNDS_SECONDS.index(2.5)] == sum(figures.first_tokens) == 3
        assert figures.first_token_seconds == pytest.approx(6.0)

    def test_every_row_waits_for_the_round(self, pace: Pace, clock: ManualClock, statistics: EngineStatistics) -> None:
        for index, seconds in ((1, 0.02), (2, 0.03)):
            pace.begin_round()
            clock.seconds += seconds
            for row in "abc":
                pace.wrote(row, index, asked=0.0)
            pace.end_round(3)
        figures = statistics.figures()
        assert figures.generated_tokens == 9
        assert figures.gaps[GAP_BOUNDS_SECONDS.index(0.025)] == 3
        assert figures.gaps[GAP_BOUNDS_SECONDS.index(0.05)] == 3
        assert figures.gap_seconds == pytest.approx(3 * 0.02 + 3 * 0.03)

    def test_one_that_begins_holds_up_the_others_only(
        self, pace: Pace, clock: ManualClock, statistics: EngineStatistics
    ) -> None:
        pace.begin_round()
        clock.seconds += 0.4
        pace.wrote("a", 1, asked=0.0)
        for index in range(4):
            pace.wrote("d", index, asked=1.9)
        pace.end_round(2)
        figures = statistics.figures()
        assert (figures.generated_tokens, sum(figures.gaps)) == (8, 1)
        assert figures.gap_seconds == pytest.approx(0.4)
        assert figures.first_token_seconds == pytest.approx(6.5)

    def test_tokens_of_one_row_share_its_round(
        self, pace: Pace, clock: ManualClock, statistics: EngineStatistics
    ) -> None:
        pace.begin_round()
        clock.seconds += 0.072
        for index in range(1, 17):
            pace.wrote("a", index, asked=0.0)
        pace.end_round(1)
        figures = statistics.figures()
        assert figures.gaps[GAP_BOUNDS_SECONDS.index(0.005)] == 16
        assert figures.gap_seconds == pytest.approx(0.072)

    def test_a_pause_in_which_nobody_writes_is_no_gap(
        self, pace: Pace, clock: ManualClock, statistics: EngineStatistics
    ) -> None:
        pace.begin_round()
        pace.end_round(0)
        clock.seconds = 1_000.0
        pace.begin_round()
        clock.seconds += 0.001
        pace.wrote("a", 1, asked=0.0)
        pace.end_round(1)
        assert statistics.figures().gap_seconds == pytest.approx(0.001)


def test_a_text_is_counted(backend: Backend, statistics: EngineStatistics) -> None:
    prompt = (1, *text(1, size=30))
    with Engine(backend, statistics=statistics) as engine:
        tokens, finished = read(engine.submit(request(*prompt, max_new_tokens=50, eos_id=None)))
        figures = until(statistics, lambda it: it.generated_tokens >= len(tokens))
        assert figures.generated_tokens == len(tokens)
        assert sum(figures.first_tokens) == 1
        assert 0 < sum(figures.gaps) < len(tokens)
        assert 0 < figures.first_token_seconds < PATIENCE_SECONDS
        assert figures.prompt_tokens == len(prompt) - 1
        assert figures.ended == {finished.reason: 1}
        assert 0 < figures.gap_seconds < PATIENCE_SECONDS
        engine.score(prompt)
        assert statistics.figures().prompt_tokens == 2 * (len(prompt) - 1)


def test_a_search_is_counted_step_by_step(backend: Backend, statistics: EngineStatistics) -> None:
    with Engine(backend, statistics=statistics) as engine:
        list(engine.submit(request(num_beams=4, max_new_tokens=6, eos_id=None)))
        figures = until(statistics, lambda it: it.generated_tokens >= 6)
    assert (figures.generated_tokens, dict(figures.ended)) == (6, {"length": 1})
    assert (sum(figures.first_tokens), sum(figures.gaps)) == (1, 5)


def test_several_engines_count_together(
    onnx_backend: Backend, torch_backend: Backend, model: LanguageModel, statistics: EngineStatistics
) -> None:
    for backend in (onnx_backend, torch_backend):
        with Engine(backend, source=lambda: model, statistics=statistics) as engine:
            read(engine.submit(request(max_new_tokens=8, num_samples=2, eos_id=None)))
    figures = until(statistics, lambda it: it.generated_tokens >= 32)
    assert (figures.generated_tokens, dict(figures.ended)) == (32, {"length": 2})


def test_what_ended_otherwise_is_counted_too(
    held: HeldBackend, model: LanguageModel, statistics: EngineStatistics
) -> None:
    limits = Limits(max_rows=1, max_waiting_requests=1)
    with Engine(held, limits=limits, statistics=statistics) as engine:
        first, second = engine.submit(request()), engine.submit(request())
        with pytest.raises(Busy):
            engine.submit(request())
        held.wait_for_call(1)
        assert (engine.live_requests, engine.waiting_requests) == (1, 1)
        first.cancel()
        held.open()
        list(second)
        figures = until(statistics, lambda it: sum(it.ended.values()) == 3)
        assert (engine.live_requests, engine.waiting_requests) == (0, 0)
    assert figures.ended["cancelled"] == figures.ended["refused"] == 1
