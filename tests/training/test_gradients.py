from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from textgen.config import DropoutSettings, TrainingSettings
from textgen.errors import OutOfMemory
from textgen.model import LanguageModel, RecurrentState
from textgen.training.events import BatchSplitEvent
from textgen.training.gradients import WindowGradients, is_out_of_memory
from textgen.training.trainer import Trainer

MakeTrainer = Callable[..., Trainer]
ALLOCATOR = "alloc_cpu.cpp: data. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
SHORTAGES = [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(ALLOCATOR), MemoryError()]


def limit_rows(monkeypatch: pytest.MonkeyPatch, most: int, error: BaseException) -> None:
    """Lets the model read at most so many rows at a time while it trains."""
    whole = LanguageModel.forward

    def forward(
        model: LanguageModel, token_ids: Tensor, state: RecurrentState, **others: object
    ) -> tuple[Tensor, RecurrentState]:
        logits, after = whole(model, token_ids, state, **others)  # type: ignore[arg-type]
        if others.get("dropout") is not None and len(token_ids) > most:
            raise error
        return logits, after

    monkeypatch.setattr(LanguageModel, "forward", forward)


def largest_difference(first: Trainer, second: Trainer) -> float:
    pairs = zip(first.model.parameters(), second.model.parameters(), strict=True)
    return max((one - two).abs().max().item() for one, two in pairs)


@pytest.mark.parametrize("teachers", [0, 1])
@pytest.mark.parametrize("parts", [1, 2])
def test_each_member_learns_for_itself(make_trainer: MakeTrainer, teachers: int, parts: int) -> None:
    """Its gradient is that of a network that learns alone, over the number of members, in however many parts."""
    rates = dict.fromkeys(DropoutSettings.model_fields, 0.0)

    def gradients(model: LanguageModel) -> dict[str, Tensor]:
        trainer = make_trainer(teachers=teachers, batch_size=4, **rates)
        settings = TrainingSettings(steps=1, batch_size=4, **rates)
        reader = WindowGradients(model, trainer.batches, settings, trainer.choice)
        reader.parts = parts
        reader.add()
        return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}

    ensemble = make_trainer(members=2).model
    found = gradients(ensemble)
    for member in range(2):
        alone = make_trainer().model
        own = slice(8 * member, 8 * member + 8)
        with torch.no_grad():
            alone.embedding.copy_(ensemble.embedding[:, own])
            alone.projection.weight.copy_(ensemble.projection.weight[own])
        for depth in range(2):
            alone.layers[depth].load_state_dict(ensemble.layers[2 * depth + member].state_dict())
        expected = gradients(alone)
        for name, gradient in expected.items():
            if name.startswith("layers"):
                _, number, rest = name.split(".", 2)
                mine = found[f"layers.{2 * int(number) + member}.{rest}"]
            elif name == "embedding":
                mine = found[name][:, own]
            elif name.startswith("projection"):
                mine = found[name][own]
            else:
                continue
            torch.testing.assert_close(2 * mine, gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("error", SHORTAGES)
def test_a_batch_that_does_not_fit_is_read_in_parts_to_the_same_effect(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    whole = make_trainer(batch_size=5, reset_at_document_ends=True, accumulation=2)
    list(whole.events())
    limit_rows(monkeypatch, 2, error)
    parts = make_trainer(batch_size=5, reset_at_document_ends=True, accumulation=2)
    events = list(parts.events())
    split = [event for event in events if isinstance(event, BatchSplitEvent)]
    assert split == [BatchSplitEvent(1, 4, 2)]
    assert 0 < largest_difference(whole, parts) < 1e-4
    assert parts.best is not None
    assert whole.best is not None
    assert parts.best.nats_per_char == pytest.approx(whole.best.nats_per_char, abs=1e-4)


def test_how_a_batch_is_split_is_remembered(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    def until(trainer: Trainer, step: int) -> None:
        for event in trainer.events():
            if event.step >= step:
                trainer.stop()

    limit_rows(monkeypatch, 2, MemoryError())
    whole, first = make_trainer(), make_trainer()
    list(whole.events())
    until(first, 5)
    second = make_trainer()
    second.restore(first.average.state_dict(), first.snapshot())
    assert not [event for event in second.events() if isinstance(event, BatchSplitEvent)]
    assert largest_difference(whole, second) == 0.0


def test_rows_that_do_not_fit_alone_end_the_run_in_a_sentence(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_rows(monkeypatch, 0, MemoryError())
    with pytest.raises(OutOfMemory, match="even one of 4 streams at a time, 10 tokens each"):
        list(make_trainer().events())


def test_other_errors_are_no_shortage(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_rows(monkeypatch, 2, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        list(make_trainer().events())


def test_a_real_allocation_that_fails_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**56, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
