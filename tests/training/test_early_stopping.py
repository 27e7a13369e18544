from __future__ import annotations

import json

from textgen.training.early_stopping import BestSoFar
from textgen.training.evaluation import Evaluation


def scored(nats: float) -> Evaluation:
    return Evaluation(nats, nats, 1.0, 2.0, 0.5, 10, 10, 10)


def test_patience_ends_after_so_many_evaluations_without_a_better_one() -> None:
    best = BestSoFar(patience=2)
    assert [best.add(step, scored(nats)) for step, nats in enumerate([3.0, 2.0, 2.5])] == [True, True, False]
    assert not best.exhausted
    assert not best.add(3, scored(2.5))  # as good is not better
    assert best.exhausted
    assert (best.step, best.evaluation) == (1, scored(2.0))


def test_a_better_evaluation_gives_all_patience_back() -> None:
    best = BestSoFar(patience=2)
    for step, nats in enumerate([3.0, 4.0, 2.0, 4.0]):
        best.add(step, scored(nats))
    assert not best.exhausted
    assert best.step == 2


def test_what_is_getting_better_again_may_go_on() -> None:
    best = BestSoFar(patience=2)
    # A model that was tuned too fast at first: worse than it was, but on its way back.
    for step, nats in enumerate([2.0, 2.4, 2.3, 2.2, 2.1, 2.05]):
        assert best.add(step, scored(nats)) == (step == 0)
    assert not best.exhausted
    best.add(6, scored(2.06))
    assert best.exhausted


def test_no_patience_means_no_end() -> None:
    best = BestSoFar(patience=0)
    for step in range(100):
        best.add(step, scored(1.0 + step))
    assert not best.exhausted


def test_what_was_saved_goes_on_counting() -> None:
    best, other = BestSoFar(patience=2), BestSoFar(patience=2)
    for step, nats in enumerate([3.0, 4.0]):
        best.add(step, scored(nats))
    other.restore(json.loads(json.dumps(best.values())))
    assert other == best
    other.add(2, scored(4.0))
    assert other.exhausted
    other.wait_anew()
    assert not other.exhausted
