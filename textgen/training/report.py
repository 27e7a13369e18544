"""What happened in some optimizer steps, in a few numbers."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from textgen.errors import TrainingDiverged
from textgen.training.events import StepEvent


class Reported(Protocol):
    """What a report asks the trainer."""

    @property
    def step(self) -> int: ...

    @property
    def progress(self) -> float: ...

    @property
    def elapsed_seconds(self) -> float: ...

    def clock(self) -> float: ...

    def epoch(self) -> float: ...

    def learning_rate(self) -> float: ...

    def tokens_per_step(self) -> int: ...

    def seconds_left(self) -> float: ...

    def total(self, loss: Tensor) -> Tensor: ...


class StepReport:
    """Sums up the steps between two `StepEvent`s, so that a GPU is asked for numbers a few times a second only."""

    def __init__(self, trainer: Reported) -> None:
        self._trainer = trainer
        self._losses: list[Tensor] = []
        self._norm: Tensor | None = None
        self.since = trainer.clock()

    @property
    def steps(self) -> int:
        return len(self._losses)

    def add(self, loss: Tensor, norm: Tensor) -> None:
        self._losses.append(loss)
        self._norm = norm

    def event(self) -> StepEvent:
        trainer = self._trainer
        loss = trainer.total(torch.stack(self._losses).mean()).item()
        assert self._norm is not None
        norm = self._norm.item()
        if not math.isfinite(loss) or not math.isfinite(norm):
            # A gradient that is not finite has spoilt the weights, even where the loss before it was.
            raise TrainingDiverged(trainer.step, loss if math.isfinite(norm) else norm)
        seconds = max(1e-9, trainer.clock() - self.since)
        return StepEvent(
            step=trainer.step,
            epoch=trainer.epoch(),
            progress=trainer.progress,
            loss=loss,
            learning_rate=trainer.learning_rate(),
            gradient_norm=norm,
            tokens_per_second=self.steps * trainer.tokens_per_step() / seconds,
            elapsed_seconds=trainer.elapsed_seconds,
            seconds_left=trainer.seconds_left(),
        )
