from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.engine.helpers import PATIENCE_SECONDS, HeldBackend, ManualClock, read, request, text
from textgen.engine import Backend, Engine
from textgen.engine.statistics import GAP_BOUNDS_SECONDS, EngineFigures, EngineStatistics, Pace
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
    def test_every_row_waits_for_the_round(self, statistics: EngineStatistics) -> None:
        clock = ManualClock()
        pace = Pace(statistics, clock)
        pace.begin_round()
        clock.seconds = 0.02
        pace.tokens += 3
        pace.end_round(3)
        pace.begin_round()
        clock.seconds = 0.05
        pace.tokens += 3
        pace.end_round(3)
        figures = statistics.figures()
        assert figures.generated_tokens == 6
        assert figures.gaps[GAP_BOUNDS_SECONDS.index(0.025)] == 3
        assert figures.gaps[GAP_BOUNDS_SECONDS.index(0.05)] == 3
        assert figures.gap_seconds == pytest.approx(3 * 0.02 + 3 * 0.03)

    def test_tokens_of_one_row_share_its_round(self, statistics: EngineStatistics) -> None:
        clock = ManualClock()
        pace = Pace(statistics, clock)
        pace.begin_round()
        clock.seconds = 0.08
        pace.tokens += 16
        pace.end_round(1)
        figures = statistics.figures()
        assert figures.gaps[GAP_BOUNDS_SECONDS.index(0.005)] == 16
        assert figures.gap_seconds == pytest.approx(0.08)

    def test_a_pause_in_which_nobody_writes_is_no_gap(self, statistics: EngineStatistics) -> None:
        clock = ManualClock()
        pace = Pace(statistics, clock)
        pace.begin_round()
        pace.end_round(0)
        clock.seconds = 1_000.0
        pace.begin_round()
        clock.seconds += 0.001
        pace.tokens += 1
        pace.end_round(1)
        assert statistics.figures().gap_seconds == pytest.approx(0.001)


def test_a_text_is_counted(backend: Backend, statistics: EngineStatistics) -> None:
    prompt = (1, *text(1, size=30))
    with Engine(backend, statistics=statistics) as engine:
        tokens, finished = read(engine.submit(request(*prompt, max_new_tokens=50)))
        figures = until(statistics, lambda it: it.generated_tokens >= len(tokens))
        assert figures.generated_tokens == sum(figures.gaps) == len(tokens)
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
