from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.conftest import ManualClock
from textgen.config import TrainingBudget, TrainingSettings, parse_settings
from textgen.errors import BadCheckpoint, InvalidSetting, TrainingDiverged
from textgen.model.cells import cell_types
from textgen.training.device import DeviceChoice
from textgen.training.evaluation import Evaluation
from textgen.training.events import (
    CheckpointEvent,
    EndEvent,
    EvaluationEvent,
    Event,
    SampleEvent,
    Samples,
    StartEvent,
    StepEvent,
)
from textgen.training.snapshot import TrainingSnapshot
from textgen.training.trainer import HeldOut, Trainer

MakeTrainer = Callable[..., Trainer]


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [*trainer.model.parameters(), *trainer.average.parameters()]


def until_step(trainer: Trainer, step: int) -> Iterator[Event]:
    for event in trainer.events():
        yield event
        if trainer.step >= step:
            trainer.stop()


def of_type(events: list[Event], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


@pytest.mark.slow
@pytest.mark.parametrize("cell", sorted(cell_types()))
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_resumed_run_ends_with_the_same_bits(
    cell: str, accumulation: int, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    whole = make_trainer(cell, accumulation=accumulation)
    list(whole.events())
    first = make_trainer(cell, accumulation=accumulation)
    list(until_step(first, 5))
    assert 5 <= first.step < 12
    first.snapshot().save(tmp_path)
    second = make_trainer(cell, accumulation=accumulation)
    average = {name: value.clone() for name, value in first.average.state_dict().items()}
    second.restore(average, TrainingSnapshot.load(tmp_path))
    events = list(second.events())
    assert second.step == whole.step == 12
    assert all(torch.equal(a, b) for a, b in zip(weights(second), weights(whole), strict=True))
    assert second.best == whole.best
    assert of_type(events, StartEvent)[0].step == first.step


TUNING = {
    "schedule": "triangular",
    "layer_decay": 0.5,
    "embedding_rate": 0.3,
    "base_share": 0.3,
    "patience": 2,
    "evaluations": 6,
}


@pytest.mark.parametrize("members", [1, 2])
def test_a_run_resumed_with_every_setting_for_tuning_ends_with_the_same_bits(
    make_trainer: MakeTrainer, tmp_path: Path, members: int
) -> None:
    whole = make_trainer(tuned=True, members=members, **TUNING)
    expected = of_type(list(whole.events()), EvaluationEvent)
    first = make_trainer(tuned=True, members=members, **TUNING)
    told = of_type(list(until_step(first, 5)), EvaluationEvent)
    first.snapshot().save(tmp_path)
    second = make_trainer(tuned=True, members=members, **TUNING)
    with torch.no_grad():
        # What training began with is not what a resumed run happens to begin with.
        second.model.embedding.zero_()
    second.restore(first.average.state_dict(), TrainingSnapshot.load(tmp_path))
    told += of_type(list(second.events()), EvaluationEvent)
    assert all(torch.equal(a, b) for a, b in zip(weights(second), weights(whole), strict=True))
    assert [(event.step, event.evaluation) for event in told] == [(e.step, e.evaluation) for e in expected]


def test_what_training_began_with_keeps_its_share(make_trainer: MakeTrainer) -> None:
    def moved(trainer: Trainer) -> float:
        before = [parameter.detach().clone() for parameter in trainer.average.parameters()]
        list(trainer.events())
        pairs = zip(trainer.average.parameters(), before, strict=True)
        return sum((after - start).square().sum().item() for after, start in pairs) ** 0.5

    assert moved(make_trainer(base_share=0.4)) == pytest.approx(0.6 * moved(make_trainer()), rel=1e-3)


DROPPING = {"embedding_dropout": 0.1, "input_dropout": 0.3, "output_dropout": 0.4, "weight_dropout": 0.2}


def test_dropouts_rise_with_the_passes(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    def after(steps: int, **settings: Any) -> list[torch.Tensor]:
        trainer = make_trainer(steps=12, **settings)
        for _ in range(steps):
            trainer.train_step()
        return weights(trainer)

    def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
        return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))

    none = dict.fromkeys(DROPPING, 0.0)
    rising = {**DROPPING, "dropout_passes": 0.04}
    assert equal(after(1, **rising), after(1, **none))
    assert not equal(after(2, **rising), after(2, **none))
    # From a trainer that has had these passes on, they are what the settings say.
    first = make_trainer(steps=12, **rising)
    list(until_step(first, 6))
    ends = []
    for settings in (rising, DROPPING):
        second = make_trainer(steps=12, **settings)
        second.restore(first.average.state_dict(), first.snapshot())
        list(second.events())
        ends.append(weights(second))
    assert equal(*ends)
    half = make_trainer(steps=12, **{**DROPPING, "dropout_passes": 100})
    half.restore(first.average.state_dict(), first.snapshot())
    list(half.events())
    assert not equal(weights(half), ends[0])


@pytest.mark.slow
def test_no_weights_are_evaluated_twice_however_long_that_takes(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock(0.01)
    trainer = make_trainer(
        minutes=1, evaluations=10, clock=clock, sampler=lambda model: Samples(("Mira",), None, ("",))
    )
    real = trainer.evaluate_average

    def slow() -> Evaluation:
        clock.now += 15.0
        return real()

    monkeypatch.setattr(trainer, "evaluate_average", slow)
    events = list(trainer.events())
    steps = [event.step for event in of_type(events, EvaluationEvent)]
    assert 3 <= len(steps) <= 4
    assert steps == sorted(set(steps))
    sampled = [event.step for event in of_type(events, SampleEvent)]
    assert sampled == [0, *steps]
    end = events[-1]
    assert isinstance(end, EndEvent)
    assert end.reason == "finished"


def worse_and_worse(trainer: Trainer, monkeypatch: pytest.MonkeyPatch, best_at: int) -> None:
    """Makes every evaluation after step `best_at` worse than the one before."""
    real = trainer.evaluate_average

    def evaluation() -> Evaluation:
        nats = 3.0 + abs(trainer.step - best_at) / 100
        return dataclasses.replace(real(), nats_per_char=nats)

    monkeypatch.setattr(trainer, "evaluate_average", evaluation)


def test_a_run_that_gets_no_better_ends_early(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trainer = make_trainer(steps=100, evaluations=20, patience=3)
    worse_and_worse(trainer, monkeypatch, 20)
    events = list(trainer.events())
    end = events[-1]
    assert isinstance(end, EndEvent)
    assert (end.step, end.reason, end.early, end.best_step) == (35, "finished", True, 20)
    assert [event.step for event in of_type(events, CheckpointEvent) if event.kind == "best"][-1] == 20
    trainer.snapshot().save(tmp_path)
    again = make_trainer(steps=100, evaluations=20, patience=3)
    again.restore(trainer.average.state_dict(), TrainingSnapshot.load(tmp_path))
    (ended,) = of_type(list(again.events()), EndEvent)
    assert dataclasses.replace(ended, elapsed_seconds=0.0) == dataclasses.replace(end, elapsed_seconds=0.0)


def test_patience_goes_on_where_it_was_interrupted(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (make_trainer(steps=100, evaluations=20, patience=3) for _ in range(2))
    for trainer in (first, second):
        worse_and_worse(trainer, monkeypatch, 20)
    list(until_step(first, 32))
    second.restore(first.average.state_dict(), first.snapshot())
    list(second.events())
    assert second.step == 35


def test_without_patience_the_whole_budget_is_spent(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(steps=60, evaluations=20, patience=0)
    worse_and_worse(trainer, monkeypatch, 0)
    end = list(trainer.events())[-1]
    assert isinstance(end, EndEvent)
    assert (end.step, end.early) == (60, False)


def test_a_tuned_model_is_judged_before_it_learns(make_trainer: MakeTrainer, ids: Any) -> None:
    kept = HeldOut(ids[200:300], chars=100, bytes=100)
    trainer = make_trainer(tuned=True, kept=kept)
    events = list(trainer.events())
    evaluations = of_type(events, EvaluationEvent)
    assert [event.step for event in evaluations] == [0, 4, 8, 12]
    assert evaluations[0].best
    assert evaluations[0].kept != evaluations[-1].kept
    assert evaluations[0].kept is not None
    assert evaluations[0].kept.chars == 100
    assert of_type(events, CheckpointEvent)[0] == CheckpointEvent(0, "best")


@pytest.mark.parametrize(
    ("before", "longer", "end", "evaluations"),
    [
        ({"steps": 12}, {"steps": 8}, 20, 2),
        ({"steps": 12}, {"steps": 24}, 36, 6),
        ({"steps": 12}, {"steps": 1}, 13, 1),
        ({"epochs": 0.5}, {"epochs": 0.2}, None, 1),
        # Of another unit than before.
        ({"minutes": 0.05}, {"steps": 6}, None, 3),
        ({"steps": 12}, {"minutes": 0.05}, None, 3),
    ],
)
def test_a_run_is_trained_longer(
    make_trainer: MakeTrainer, before: dict[str, Any], longer: dict[str, Any], end: int | None, evaluations: int
) -> None:
    first = make_trainer(**before, clock=ManualClock(0.01))
    list(first.events())
    spent = first.step
    second = make_trainer(**before, clock=ManualClock(0.01))
    second.restore(first.average.state_dict(), first.snapshot())
    second.extend(TrainingBudget(**longer))
    assert second.progress < 0.1
    events = list(second.events())
    assert second.step > spent
    assert end is None or second.step == end
    assert (second.whole_budget().minutes or 1.0) > 0.05
    assert len(of_type(events, EvaluationEvent)) == evaluations
    assert all(event.step > spent for event in of_type(events, EvaluationEvent))
    rates = [event.learning_rate for event in of_type(events, StepEvent)]
    if second.step > spent + 5:
        assert max(rates) > 0.6 * 5e-3
        assert rates[-1] < 0.2 * 5e-3
    assert of_type(events, EndEvent)[0].reason == "finished"


def test_a_run_trained_longer_and_interrupted_ends_with_the_same_bits(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    def longer(trainer: Trainer) -> Trainer:
        again = make_trainer(**TUNING)
        again.restore(trainer.average.state_dict(), trainer.snapshot())
        again.extend(TrainingBudget(steps=14))
        return again

    original = make_trainer(**TUNING)
    list(original.events())
    whole = longer(original)
    list(whole.events())
    first = longer(original)
    list(until_step(first, original.step + 5))
    first.snapshot().save(tmp_path)
    second = make_trainer(**TUNING)
    second.restore(first.average.state_dict(), TrainingSnapshot.load(tmp_path))
    assert second.total_steps == original.step + 14
    list(second.events())
    assert second.step == whole.step
    assert all(torch.equal(a, b) for a, b in zip(weights(second), weights(whole), strict=True))


def test_a_longer_run_that_had_ended_early_gets_its_patience_back(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(steps=100, evaluations=20, patience=3)
    worse_and_worse(trainer, monkeypatch, 20)
    list(trainer.events())
    trainer.extend(TrainingBudget(steps=1000))
    events = list(trainer.events())
    assert of_type(events, EndEvent)[0].step == 35 + 3 * 5
    assert of_type(events, EndEvent)[0].early


def test_a_resumed_run_crosses_epochs_with_the_same_bits(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    whole = make_trainer(steps=60)
    list(whole.events())
    first = make_trainer(steps=60)
    list(until_step(first, 31))
    first.snapshot().save(tmp_path)
    second = make_trainer(steps=60)
    second.restore(first.average.state_dict(), TrainingSnapshot.load(tmp_path))
    list(second.events())
    assert whole.epoch() > 2
    assert all(torch.equal(a, b) for a, b in zip(weights(second), weights(whole), strict=True))


def test_an_evaluation_that_a_stop_left_out_is_made_on_resuming(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    whole = of_type(list(make_trainer().events()), EvaluationEvent)
    first = make_trainer()
    before = list(until_step(first, 4))
    assert of_type(before, EvaluationEvent) == []
    first.snapshot().save(tmp_path)
    second = make_trainer()
    second.restore(first.average.state_dict(), TrainingSnapshot.load(tmp_path))
    resumed = of_type(list(second.events()), EvaluationEvent)
    assert [(event.step, event.evaluation) for event in resumed] == [(event.step, event.evaluation) for event in whole]


def test_a_snapshot_of_another_run_is_refused(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    first = make_trainer("lstm")
    list(until_step(first, 2))
    first.snapshot().save(tmp_path)
    snapshot = TrainingSnapshot.load(tmp_path)
    for other in (make_trainer("gru"), make_trainer("lstm", batch_size=3)):
        with pytest.raises(BadCheckpoint):
            other.restore(first.average.state_dict(), snapshot)
    (tmp_path / "training.safetensors").write_bytes(b"junk")
    with pytest.raises(BadCheckpoint, match=r"training\.safetensors"):
        TrainingSnapshot.load(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("cell", sorted(cell_types()))
def test_training_learns(cell: str, make_trainer: MakeTrainer) -> None:
    steps = 300 if cell == "update-gate-lstm" else 200
    trainer = make_trainer(cell, steps=steps, learning_rate=2e-2, average_decay=0.9)
    before = trainer.evaluate_average()
    list(trainer.events())
    after = trainer.evaluate_average()
    # A uniform guess costs ln 36 = 3.58 nats; the rule leaves one bit, 0.69.
    assert before.nats_per_token > 3.4
    assert after.nats_per_token < 2.5
    assert after.accuracy > 0.15


@pytest.mark.slow
def test_documents_can_be_kept_apart(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(steps=300, learning_rate=2e-2, average_decay=0.9, reset_at_document_ends=True)
    list(trainer.events())
    assert trainer.evaluate_average().nats_per_token < 2.8


def test_events_tell_the_whole_story(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(sampler=lambda model: Samples(("a sample",)))
    events = list(trainer.events())
    assert isinstance(events[0], StartEvent)
    assert isinstance(events[-1], EndEvent)
    assert events[0].total_steps == 12
    assert [event.step for event in of_type(events, EvaluationEvent)] == [4, 8, 12]
    samples = of_type(events, SampleEvent)
    assert [event.step for event in samples] == [0, 4, 8, 12]
    assert {event.samples for event in samples} == {("a sample",)}
    assert of_type(events, EvaluationEvent)[0].best
    steps = of_type(events, StepEvent)
    assert steps[-1].step == 12
    assert steps[-1].progress == 1.0
    assert all(event.seconds_left >= 0 and event.tokens_per_second > 0 for event in steps)
    assert events[-1].reason == "finished"
    assert events[-1].best_step in {4, 8, 12}
    last = [event.step for event in of_type(events, CheckpointEvent) if event.kind == "last"]
    assert last[-1] == 12


def test_budget_in_epochs(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(epochs=1.5)
    list(trainer.events())
    assert trainer.epoch() == pytest.approx(1.5, abs=0.05)


def test_budget_in_minutes_spends_the_minutes_and_ends_with_an_evaluation(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(minutes=0.5, clock=ManualClock(0.05))
    events = list(trainer.events())
    assert 30 <= trainer.elapsed_seconds < 40
    assert len(of_type(events, EvaluationEvent)) == 3
    rates = [event.learning_rate for event in of_type(events, StepEvent)]
    assert max(rates) > 0.004
    assert rates[-1] < 0.001


def test_time_spent_before_an_interruption_counts(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    first = make_trainer(minutes=0.5, clock=ManualClock(0.05))
    list(until_step(first, 10))
    first.snapshot().save(tmp_path)
    second = make_trainer(minutes=0.5, clock=ManualClock(0.05))
    second.restore(first.average.state_dict(), TrainingSnapshot.load(tmp_path))
    assert second.elapsed_seconds >= first.elapsed_seconds - 1
    assert 0 < second.progress < 1


def test_stop_ends_with_a_checkpoint_after_the_step(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(steps=1000)
    events = list(until_step(trainer, 3))
    assert isinstance(events[-2], CheckpointEvent)
    assert events[-2].kind == "last"
    assert isinstance(events[-1], EndEvent)
    assert events[-1].reason == "stopped"


def test_saves_come_by_the_clock(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(steps=40, evaluations=1, save_seconds=1.0, clock=ManualClock(0.1))
    events = list(trainer.events())
    assert len([event for event in of_type(events, CheckpointEvent) if event.kind == "last"]) > 5


def test_a_loss_that_is_no_number_ends_the_run_with_a_sentence(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(steps=50)
    with torch.no_grad():
        trainer.model.embedding[4:].fill_(float("inf"))
    with pytest.raises(TrainingDiverged, match="smaller learning rate"):
        list(trainer.events())


def test_a_run_needs_a_budget(make_trainer: MakeTrainer) -> None:
    with pytest.raises(InvalidSetting, match="steps, epochs and minutes"):
        make_trainer(steps=None)
    with pytest.raises(InvalidSetting, match="one of"):
        parse_settings(TrainingSettings, {"steps": 3, "minutes": 1.0})


def test_without_an_average_the_weights_themselves_are_kept(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(average_decay=0.0)
    list(trainer.events())
    pairs = zip(trainer.model.parameters(), trainer.average.parameters(), strict=True)
    assert all(torch.allclose(model, average) for model, average in pairs)


@pytest.mark.slow
@pytest.mark.parametrize(("budget", "threads"), [({"minutes": 0.5}, {1, 2}), ({"steps": 60}, {2})])
def test_threads_are_chosen_where_the_budget_is_time(
    make_trainer: MakeTrainer, budget: dict[str, Any], threads: set[int]
) -> None:
    """Else weights are the same to the bit whoever trains, and whatever the machine does beside it."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        choice = DeviceChoice(torch.device("cpu"), torch.float32, 2)
        trainer = make_trainer(choice=choice, clock=ManualClock(0.05), **budget)
        found = set()
        for _ in trainer.events():
            found.add(torch.get_num_threads())
        assert found == threads
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
