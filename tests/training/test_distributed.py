from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.training.conftest import CPU, ManualClock
from tests.training.test_gradients import limit_rows
from tests.training.test_trainer import of_type, until_step, worse_and_worse
from tests.training.together import run_ranks
from textgen.config import TrainingBudget
from textgen.errors import Abandoned, InvalidSetting, OutOfMemory, TrainingDiverged
from textgen.training import distributed
from textgen.training.distributed import Ranks, is_lost_rank, join_ranks
from textgen.training.estimate import estimate_training
from textgen.training.events import (
    BatchSplitEvent,
    CheckpointEvent,
    EndEvent,
    EvaluationEvent,
    Event,
    SampleEvent,
    Samples,
    StepEvent,
)
from textgen.training.snapshot import TrainingSnapshot
from textgen.training.trainer import Trainer

MakeTrainer = Callable[..., Trainer]
Curve = list[tuple[int, float]]


@dataclasses.dataclass(frozen=True)
class Trained:
    """What is left of a training, as it goes from one process to another."""

    events: list[Event]
    weights: list[list[float]]

    @property
    def losses(self) -> Curve:
        return [(event.step, event.loss) for event in of_type(self.events, StepEvent)]

    @property
    def evaluations(self) -> Curve:
        return [(event.step, event.evaluation.nats_per_char) for event in of_type(self.events, EvaluationEvent)]


def trained(trainer: Trainer, events: Iterator[Event] | None = None) -> Trained:
    told = list(events or trainer.events())
    weights = [*trainer.model.parameters(), *trainer.average.parameters()]
    return Trained(told, [weight.flatten().tolist() for weight in weights])


def assert_same(one: Trained, other: Trained) -> None:
    """But for the order in which floats are added up."""
    for name in ("losses", "evaluations"):
        first, second = dict(getattr(one, name)), dict(getattr(other, name))
        assert first
        assert first == pytest.approx(second, abs=2e-4)
    for mine, theirs in zip(one.weights, other.weights, strict=True):
        assert mine == pytest.approx(theirs, abs=2e-4)


def every_step() -> ManualClock:
    """A clock by which every step is worth a report."""
    return ManualClock(1.0)


CASES: dict[str, dict[str, Any]] = {
    "dropout, more than an epoch": {"steps": 40},
    "documents apart, two windows a step": {"reset_at_document_ends": True, "accumulation": 2},
    "two members": {"members": 2},
    "a Mogrifier": {"cell": "mogrifier-lstm"},
    "two layers of another cell, tuned": {"cell": "gru", "tuned": True, "base_share": 0.3, "layer_decay": 0.5},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_give_the_curve_of_one(make_trainer: MakeTrainer, case: str) -> None:
    settings = {"save_seconds": 5.0, **CASES[case]}
    one = trained(make_trainer(clock=every_step(), **settings))
    leading, following = run_ranks(2, lambda ranks: trained(make_trainer(clock=every_step(), ranks=ranks, **settings)))
    assert len(one.losses) == settings.get("steps", 12)
    assert_same(leading, one)
    # Between ranks there is no rounding: they would drift apart.
    assert leading.weights == following.weights
    assert [type(event) for event in leading.events] == [type(event) for event in following.events]
    assert (leading.losses, leading.evaluations) == (following.losses, following.evaluations)


@pytest.mark.slow
def test_shares_may_differ_by_a_row(make_trainer: MakeTrainer) -> None:
    settings = {"batch_size": 5, "reset_at_document_ends": True}
    one = trained(make_trainer(clock=every_step(), **settings))
    for result in run_ranks(3, lambda ranks: trained(make_trainer(clock=every_step(), ranks=ranks, **settings))):
        assert_same(result, one)


def test_every_row_is_one_ranks() -> None:
    for size in (1, 2, 3, 5):
        for rows in range(size, 12):
            shares = [Ranks(rank, size).share(rows) for rank in range(size)]
            assert [row for share in shares for row in share] == list(range(rows))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.slow
def test_what_ranks_save_any_number_of_them_goes_on_from(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 16, "batch_size": 6, "save_seconds": 3.0}
    whole = trained(make_trainer(clock=every_step(), **settings))

    def until(step: int) -> Callable[[Ranks], tuple[int, list[list[float]]]]:
        def work(ranks: Ranks) -> tuple[int, list[list[float]]]:
            trainer = make_trainer(clock=every_step(), ranks=ranks, **settings)
            if (tmp_path / "average.safetensors").exists():
                trainer.restore(load_file(tmp_path / "average.safetensors"), TrainingSnapshot.load(tmp_path))
            ranks.exchange()  # all have read before one writes
            for event in until_step(trainer, step):
                if isinstance(event, CheckpointEvent) and ranks.leads:
                    trainer.snapshot().save(tmp_path)
                    save_file(trainer.average.state_dict(), tmp_path / "average.safetensors")
            return trainer.step, [weight.flatten().tolist() for weight in trainer.average.parameters()]

        return work

    run_ranks(2, until(5))
    until(8)(Ranks())
    run_ranks(3, until(13))
    results = run_ranks(2, until(16))
    assert results[0] == results[1]
    assert results[0][0] == 16
    assert TrainingSnapshot.load(tmp_path).tensors["state.0.0"].shape[0] == 6
    for found, expected in zip(results[0][1], whole.weights[len(whole.weights) // 2 :], strict=True):
        assert found == pytest.approx(expected, abs=2e-4)


@pytest.mark.slow
def test_one_that_is_asked_to_stop_stops_all(make_trainer: MakeTrainer) -> None:
    def work(ranks: Ranks) -> Trained:
        trainer = make_trainer(ranks=ranks, steps=10_000, evaluations=1)
        if ranks.rank == 1:
            # As a signal handler or a watching thread would, at any time.
            threading.Timer(0.05, trainer.stop).start()
        return trained(trainer)

    ends = [of_type(result.events, EndEvent)[0] for result in run_ranks(2, work)]
    assert ends[0].reason == "stopped"
    assert ends[0] == ends[1]


@pytest.mark.slow
def test_the_clock_of_rank_0_is_everyones(make_trainer: MakeTrainer) -> None:
    def work(ranks: Ranks) -> Trained:
        clock = ManualClock(0.1 if ranks.leads else 1e6)
        return trained(make_trainer(ranks=ranks, minutes=0.1, clock=clock, sampler=lambda _: Samples(("a",))))

    leading, following = run_ranks(2, work)
    assert of_type(leading.events, EndEvent)[0].elapsed_seconds >= 6.0
    assert of_type(leading.events, SampleEvent)[0].step == 0
    assert not of_type(following.events, SampleEvent)
    told = [event for event in leading.events if not isinstance(event, SampleEvent)]
    assert [(type(event), event.step) for event in told] == [(type(event), event.step) for event in following.events]
    assert leading.weights == following.weights


@pytest.mark.slow
def test_ranks_lose_patience_together(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(ranks: Ranks) -> EndEvent:
        trainer = make_trainer(ranks=ranks, steps=100, evaluations=20, patience=3)
        if ranks.leads:
            worse_and_worse(trainer, monkeypatch, 20)
        return of_type(list(trainer.events()), EndEvent)[0]

    ends = run_ranks(2, work)
    assert ends[0] == ends[1]
    assert (ends[0].step, ends[0].early) == (35, True)


@pytest.mark.slow
def test_where_one_rank_is_short_of_memory_all_read_in_parts(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"batch_size": 6, "accumulation": 2, "clock": every_step()}
    one = trained(make_trainer(**settings))

    def work(ranks: Ranks) -> tuple[Trained, Any]:
        if ranks.rank == 1:
            limit_rows(monkeypatch, 1, MemoryError())
        trainer = make_trainer(ranks=ranks, **settings)
        result = trained(trainer)
        return result, trainer.snapshot().values["parts"] if ranks.leads else None

    (leading, parts), (following, _) = run_ranks(2, work)
    assert_same(leading, one)
    assert leading.weights == following.weights
    assert of_type(leading.events, BatchSplitEvent) == [BatchSplitEvent(1, 3, 1)]
    assert parts == 6  # each row alone, for whoever goes on


@pytest.mark.slow
def test_rows_that_fit_nowhere_end_all(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(ranks: Ranks) -> bool:
        if ranks.rank == 1:
            limit_rows(monkeypatch, 0, MemoryError())
        with pytest.raises(OutOfMemory):
            list(make_trainer(ranks=ranks).events())
        return True

    assert run_ranks(2, work) == [True, True]


@pytest.mark.slow
def test_all_see_that_training_has_diverged(make_trainer: MakeTrainer) -> None:
    def work(ranks: Ranks) -> int:
        trainer = make_trainer(ranks=ranks, clock=every_step())
        if ranks.rank == 1:
            # Weights are alike again after the first step, and spoilt everywhere.
            with torch.no_grad():
                trainer.model.embedding.fill_(float("nan"))
        with pytest.raises(TrainingDiverged):
            list(trainer.events())
        return trainer.step

    assert run_ranks(2, work) == [1, 1]


@pytest.mark.slow
def test_a_rank_that_gives_up_lets_the_others_go(make_trainer: MakeTrainer) -> None:
    def sampler(_: object) -> Samples:
        raise InvalidSetting("field", "value", "another")

    def work(ranks: Ranks) -> str:
        try:
            list(make_trainer(ranks=ranks, sampler=sampler).events())
        except InvalidSetting:
            ranks.abandon()
            return "why"
        except Abandoned:
            return "abandoned"
        return "finished"

    assert run_ranks(3, work) == ["why", "abandoned", "abandoned"]


def test_nobody_leaves_before_all_are_done(tmp_path: Path) -> None:
    def work(ranks: Ranks) -> list[str]:
        (tmp_path / f"done-{ranks.rank}").touch()
        ranks.part()
        return sorted(path.name for path in tmp_path.iterdir())

    assert run_ranks(3, work) == [["done-0", "done-1", "done-2"]] * 3


@pytest.mark.slow
def test_nobody_waits_for_ever_for_one_that_has_fallen_silent(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    def work(ranks: Ranks) -> str:
        vars(distributed)["_SILENCE"] = timedelta(seconds=1)
        trainer = make_trainer(ranks=ranks)
        if not ranks.leads:
            deadline = time.monotonic() + 60
            while not (tmp_path / "noticed").exists():
                assert time.monotonic() < deadline
            return "silent"
        with pytest.raises(RuntimeError) as raised:
            list(trainer.events())
        assert is_lost_rank(raised.value), raised.value
        (tmp_path / "noticed").touch()
        return "noticed"

    assert run_ranks(2, work) == ["noticed", "silent"]


@pytest.mark.slow
def test_ranks_are_timed_together(make_trainer: MakeTrainer) -> None:
    def work(ranks: Ranks) -> tuple[int, float]:
        trainer = make_trainer(ranks=ranks)
        before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
        # A rank that looked at its own clock would take another number of steps, and wait for ever.
        clock = ManualClock(1.0 if ranks.leads else 100.0)
        found = estimate_training(
            trainer.model, trainer._batches, trainer._settings, CPU, max_seconds=3.5, clock=clock, ranks=ranks
        )
        assert all(map(torch.equal, before, trainer.model.parameters()))
        return found.steps, found.tokens_per_second

    results = run_ranks(2, work)
    assert [steps for steps, _ in results] == [12, 12]
    assert results[0][1] > 0


@pytest.mark.slow
def test_a_longer_training_is_longer_for_all(make_trainer: MakeTrainer) -> None:
    first = make_trainer()
    list(first.events())

    def work(ranks: Ranks) -> tuple[int, int]:
        again = make_trainer(ranks=ranks)
        again.restore(first.average.state_dict(), first.snapshot())
        again.extend(TrainingBudget(steps=5))
        rows = len(again.snapshot().tensors["state.0.0"])
        list(again.events())
        return again.step, rows

    assert run_ranks(2, work) == [(17, 4), (17, 4)]


def test_without_torchrun_there_is_nobody_to_join() -> None:
    ranks, device = join_ranks({"RANK": "1", "WORLD_SIZE": "2"}, "cpu")
    assert (ranks.alone, ranks.leads, device) == (True, True, "cpu")
    assert ranks.exchange(1.0, 2.0) == [1.0, 2.0]
    ranks.abandon()
    ranks.close()


def test_batches_that_cannot_be_shared_out_are_refused() -> None:
    with pytest.raises(InvalidSetting, match="batch_size: 16 was given; allowed: a multiple of 3, the number of"):
        Ranks(0, 3).check_batch(16)
    with pytest.raises(InvalidSetting, match="processes: 3 was given; allowed: at most 2, since the text"):
        Ranks(0, 3).check_rows(2)
