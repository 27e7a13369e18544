from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from textgen.config import ModelSettings, TrainingSettings
from textgen.model import LanguageModel
from textgen.text.corpus import StreamBatches
from textgen.training.device import DeviceChoice
from textgen.training.distillation import with_teachers
from textgen.training.distributed import Ranks
from textgen.training.trainer import HeldOut, Trainer

VOCAB = 40
CPU = DeviceChoice(torch.device("cpu"), torch.float32, 1)


class ManualClock:
    """Time that passes only when a test says so, or by `tick` at each look."""

    def __init__(self, tick: float = 0.0) -> None:
        self.now = 0.0
        self.tick = tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


@pytest.fixture
def ids() -> NDArray[np.uint16]:
    """A text with a rule worth learning: each token is the one before plus 1 or 2, with documents of 50 tokens."""
    generator = np.random.default_rng(0)
    documents = []
    for _ in range(20):
        steps = generator.integers(1, 3, 48)
        documents.append(np.concatenate([[1], 4 + np.cumsum(steps) % (VOCAB - 4), [2]]))
    return np.concatenate(documents).astype(np.uint16)


def _teacher(seed: int) -> LanguageModel:
    model = LanguageModel(ModelSettings(vocab_size=VOCAB, embedding_size=7, hidden_size=11))
    model.reset_parameters(100 + seed)
    with torch.no_grad():
        model.embedding.mul_(20)  # sure of itself: there is something to learn
    return model


@pytest.fixture
def make_trainer(ids: NDArray[np.uint16]) -> Callable[..., Trainer]:
    def make(
        cell: str = "lstm",
        *,
        clock: Callable[[], float] | None = None,
        sampler: Any = None,
        kept: HeldOut | None = None,
        tuned: bool = False,
        ranks: Ranks | None = None,
        teachers: int = 0,
        members: int = 1,
        choice: DeviceChoice = CPU,
        **changes: Any,
    ) -> Trainer:
        defaults: dict[str, Any] = {"steps": 12, "batch_size": 4, "window": 10, "evaluations": 3, "seed": 5}
        if changes.keys() & {"epochs", "minutes"}:
            del defaults["steps"]
        dropouts = {"embedding_dropout": 0.1, "input_dropout": 0.1, "output_dropout": 0.1, "weight_dropout": 0.1}
        settings = TrainingSettings(**{**defaults, **dropouts, **changes})
        shape = {"vocab_size": VOCAB, "embedding_size": 8, "hidden_size": 12, "num_layers": 2, "members": members}
        model = LanguageModel(ModelSettings(cell=cell, **shape))
        model.reset_parameters(settings.seed)
        held_out = HeldOut(ids[:200], chars=300, bytes=320)
        batches = StreamBatches(
            ids,
            batch_size=settings.batch_size,
            window=settings.window,
            seed=settings.seed,
            reset_at_document_ends=settings.reset_at_document_ends,
        )
        return Trainer(
            model,
            with_teachers(batches, [_teacher(seed) for seed in range(teachers)], settings, choice),
            settings,
            choice,
            held_out=held_out,
            kept=kept,
            tuned=tuned,
            sampler=sampler,
            clock=clock or ManualClock(0.01),
            ranks=ranks,
        )

    return make
