from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.training.conftest import CPU, VOCAB, ManualClock
from textgen.config import ModelSettings, TrainingSettings, update_settings
from textgen.errors import InvalidSetting
from textgen.model import LanguageModel
from textgen.text.corpus import Batch, StreamBatches
from textgen.training.distillation import TaughtBatch, TaughtBatches
from textgen.training.estimate import estimate_training
from textgen.training.held_out import HeldOut
from textgen.training.snapshot import TrainingSnapshot
from textgen.training.trainer import Trainer


@pytest.fixture
def model() -> LanguageModel:
    model = LanguageModel(ModelSettings(vocab_size=VOCAB, embedding_size=8, hidden_size=12))
    model.reset_parameters(0)
    return model


def batches(ids: NDArray[np.uint16]) -> StreamBatches:
    return StreamBatches(ids, batch_size=4, window=10, seed=0)


def test_a_budget_in_passes_is_told_in_steps_and_seconds(model: LanguageModel, ids: NDArray[np.uint16]) -> None:
    before = [parameter.clone() for parameter in model.parameters()]
    text = batches(ids)
    text.next()
    settings = TrainingSettings(epochs=2, accumulation=5, evaluations=4)
    held_out = HeldOut(ids[:200], chars=300, bytes=320)
    # Each look at the clock is a tenth of a second: 20 steps take 21 of them, an evaluation one.
    estimate = estimate_training(
        model, text, settings, CPU, held_out=[held_out], max_seconds=60, clock=ManualClock(0.1)
    )
    assert estimate.steps == 10
    assert estimate.passes == pytest.approx(2.0)
    assert estimate.tokens_per_second == pytest.approx(200 / (2.0 / 20), rel=0.1)
    assert estimate.seconds == pytest.approx(10 * 0.1 + 4 * estimate.evaluation_seconds, rel=0.1)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert text.position == (0, 1)


def test_a_budget_in_minutes_is_told_in_passes(model: LanguageModel, ids: NDArray[np.uint16]) -> None:
    settings = TrainingSettings(minutes=1)
    estimate = estimate_training(model, batches(ids), settings, CPU, max_seconds=1.0, clock=ManualClock(0.1))
    assert estimate.seconds == 60.0
    assert estimate.steps == pytest.approx(60 / 0.11, rel=0.15)
    assert estimate.passes == pytest.approx(estimate.steps / 25)
    assert estimate.peak_bytes is None or estimate.peak_bytes > 1_000_000


def test_steps_in_which_a_model_teaches_itself_are_timed_by_themselves(
    model: LanguageModel, ids: NDArray[np.uint16], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock(0.0)
    next_batch = TaughtBatches.next

    def slow(batches: TaughtBatches) -> TaughtBatch:
        clock.now += 0.3
        return next_batch(batches)

    def text_batch(batches: StreamBatches) -> Batch:
        clock.now += 0.1
        return next_text(batches)

    next_text = StreamBatches.next
    monkeypatch.setattr(TaughtBatches, "next", slow)
    monkeypatch.setattr(StreamBatches, "next", text_batch)
    settings = TrainingSettings(epochs=4, self_teaching=3, written_rows=2)
    text = batches(ids)
    estimate = estimate_training(model, text, settings, CPU, max_seconds=60, clock=clock)
    # 25 steps are a pass: 75 of a tenth of a second, then 25 of four tenths.
    assert (estimate.steps, text.position) == (100, (0, 0))
    assert estimate.seconds == pytest.approx(75 * 0.1 + 25 * 0.4)
    assert estimate.tokens_per_second == pytest.approx(40 / 0.1)
    in_minutes = update_settings(settings, epochs=None, minutes=0.5)
    estimate = estimate_training(model, text, in_minutes, CPU, max_seconds=60, clock=clock)
    assert estimate.steps == pytest.approx(75 + (30 - 7.5) / 0.4, abs=1)
    short = update_settings(settings, epochs=None, minutes=0.1)
    assert estimate_training(model, text, short, CPU, max_seconds=60, clock=clock).steps == pytest.approx(60, abs=1)


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_a_checkpoint_is_as_large_as_it_was_said(model: LanguageModel, ids: NDArray[np.uint16], share: float) -> None:
    settings = TrainingSettings(steps=2, base_share=share, batch_size=4, window=10)
    estimate = estimate_training(model, batches(ids), settings, CPU, max_seconds=0.0)
    trainer = Trainer(model, batches(ids), settings, CPU)
    list(trainer.events())
    snapshot: TrainingSnapshot = trainer.snapshot()
    large = [t for name, t in snapshot.tensors.items() if name.split(".")[0] in ("model", "optimizer", "anchor")]
    size = sum(tensor.numel() for tensor in large) + sum(weight.numel() for weight in trainer.average.parameters())
    assert estimate.checkpoint_bytes == pytest.approx(4 * size, rel=0.01)
    assert estimate.disk_bytes > 2 * estimate.checkpoint_bytes


def test_an_estimate_needs_a_budget(model: LanguageModel, ids: NDArray[np.uint16]) -> None:
    with pytest.raises(InvalidSetting, match="budget"):
        estimate_training(model, batches(ids), TrainingSettings(), CPU)
