from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgen.config import TrainingBudget
from textgen.errors import InvalidSetting
from textgen.training.schedule import Horizon, ScheduleName, learning_rate_factor

schedules = st.sampled_from(["cosine", "triangular", "trapezoidal"])


@given(progress=st.floats(0, 1), warmup=st.floats(0, 1), schedule=schedules)
def test_the_learning_rate_stays_between_zero_and_its_peak(
    progress: float, warmup: float, schedule: ScheduleName
) -> None:
    assert 0.0 <= learning_rate_factor(progress, warmup, schedule) <= 1.0


def test_the_learning_rate_rises_then_falls_along_a_cosine() -> None:
    assert learning_rate_factor(0.05, 0.1) == pytest.approx(0.5)
    assert learning_rate_factor(0.1, 0.1) == 1.0
    assert learning_rate_factor(0.55, 0.1) == pytest.approx(0.5)
    assert learning_rate_factor(1.0, 0.1) == pytest.approx(0.0)
    assert learning_rate_factor(0.0, 0.1) > 0


def test_a_triangle_falls_along_a_line_to_a_32nd() -> None:
    assert learning_rate_factor(0.05, 0.1, "triangular") == pytest.approx(0.5)
    assert learning_rate_factor(0.1, 0.1, "triangular") == 1.0
    middle, end = (learning_rate_factor(progress, 0.1, "triangular") for progress in (0.55, 1.0))
    assert end == pytest.approx(1 / 32)
    assert middle == pytest.approx((1 + end) / 2)


def test_a_trapezoid_stays_at_its_peak_and_falls_late() -> None:
    def at(progress: float) -> float:
        return learning_rate_factor(progress, 0.1, "trapezoidal")

    assert at(0.05) == pytest.approx(0.5)
    assert at(0.1) == at(0.4) == at(0.6) == 1.0
    assert at(0.8) == pytest.approx(0.5)
    assert at(1.0) == 0.0
    assert learning_rate_factor(0.95, 0.9, "trapezoidal") == pytest.approx(0.5)


def test_a_horizon_counts_from_where_it_begins() -> None:
    longer = Horizon.of(TrainingBudget(epochs=1.5), steps_per_epoch=10, steps=40, seconds=9.0)
    assert longer.total_steps == 55
    assert [longer.progress(steps=step, seconds=0.0) for step in (40, 46, 55, 60)] == [0.0, 0.4, 1.0, 1.0]
    timed = Horizon.of(TrainingBudget(minutes=2), steps_per_epoch=10, steps=40, seconds=30.0)
    assert timed.total_steps is None
    assert [timed.progress(steps=0, seconds=seconds) for seconds in (30.0, 90.0, 150.0)] == [0.0, 0.5, 1.0]
    assert Horizon(**timed.as_dict()) == timed


def test_a_horizon_needs_a_budget() -> None:
    with pytest.raises(InvalidSetting, match="one of steps, epochs and minutes"):
        Horizon.of(TrainingBudget(), steps_per_epoch=1)
