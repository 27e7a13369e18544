from __future__ import annotations

import math

import pytest

from textgen.training.verdict import Verdict, verdict

FALLING = [(step, 5.0 - step / 100) for step in range(0, 400, 10)]


def evaluations(*values: float) -> list[tuple[int, float]]:
    return [(100 * (number + 1), value) for number, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "kind", "since"),
    [
        ((), "too_early", None),
        ((2.0,), "too_early", None),
        ((2.0, 1.8), "improving", None),
        ((2.0, 1.8, 1.7, 1.701), "improving", None),
        ((2.0, 1.8, 1.801, 1.7995), "flat", 200),
        ((2.0, 1.8, 1.82, 1.85), "overfitting", 200),
        ((2.0, 1.8, 1.9), "flat", 200),
        ((2.0, 1.8, 1.9, 1.7), "improving", None),
    ],
)
def test_the_course_of_the_heldout_loss_is_named(values: tuple[float, ...], kind: str, since: int | None) -> None:
    judged = verdict(evaluations(*values), FALLING)
    assert (judged.kind, judged.since_step) == (kind, since)
    if values:
        assert judged.best == min(values)
        assert judged.latest == values[-1]


def test_a_rise_of_both_losses_is_no_overfitting() -> None:
    rising = [(step, 3.0 + step / 1000) for step in range(0, 400, 10)]
    assert verdict(evaluations(2.0, 1.8, 1.82, 1.85), rising).kind == "flat"


def test_a_training_loss_far_above_its_lowest_has_diverged_since_then() -> None:
    losses = [(step, 3.0) for step in range(0, 100, 10)] + [(step, 6.0) for step in range(100, 200, 10)]
    assert verdict(evaluations(2.0, 5.0), losses) == Verdict("diverged", 120, 100, 2.0, 5.0)
    assert verdict([], [(1, 3.0), (2, math.nan)]) == Verdict("diverged", 2)


def test_a_single_bad_report_is_no_divergence() -> None:
    losses = [*FALLING[:20], (195, 9.0), *FALLING[20:]]
    assert verdict(evaluations(2.0, 1.8), losses).kind == "improving"


def test_worse_than_by_chance_has_diverged_whatever_came_before() -> None:
    assert verdict(evaluations(52.6, 37.1), []) == Verdict("diverged", 100, 200, 37.1, 37.1)
    assert verdict(evaluations(11.0, 9.0), []).kind == "improving"
