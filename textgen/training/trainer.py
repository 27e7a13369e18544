"""Truncated back-propagation through time with carried state, as a stream of events."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from textgen.config import TrainingSettings
from textgen.errors import BadCheckpoint, TrainingDiverged
from textgen.model.language_model import LanguageModel
from textgen.model.regularization import Dropout
from textgen.model.state import RecurrentState
from textgen.text.corpus import Batch, StreamBatches
from textgen.training.device import DeviceChoice, autocast
from textgen.training.evaluation import Evaluation, evaluate
from textgen.training.events import (
    CheckpointEvent,
    EndEvent,
    EvaluationEvent,
    Event,
    SampleEvent,
    StartEvent,
    StepEvent,
)
from textgen.training.optimizers import build_optimizer, learning_rate_factor, update_average
from textgen.training.snapshot import TrainingSnapshot

Sampler = Callable[[LanguageModel], tuple[str, ...]]

_REPORT_SECONDS = 0.2
_EVALUATION_STREAMS = 16


@dataclass(frozen=True)
class HeldOut:
    """The text that is evaluated on and never trained on."""

    ids: NDArray[np.integer]
    chars: int
    bytes: int


class Trainer:
    """Trains `model` on `batches`; iterate over `events()` to make it work.

    The budget is steps, epochs or minutes; the learning rate follows the spent share of it. `average` is the moving
    average of the weights: what is evaluated, sampled from and worth keeping. Training itself reads no clock when the
    budget is steps or epochs, so that a resumed run equals one that was never interrupted, bit for bit on a CPU.
    """

    def __init__(
        self,
        model: LanguageModel,
        batches: StreamBatches,
        settings: TrainingSettings,
        choice: DeviceChoice,
        *,
        held_out: HeldOut | None = None,
        sampler: Sampler | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        settings.check_budget()
        self.model = model
        self.average = copy.deepcopy(model)
        self.step = 0
        self._batches = batches
        self._settings = settings
        self._choice = choice
        self._held_out = held_out
        self._sampler = sampler
        self._clock = clock
        self._optimizer = build_optimizer(model, settings)
        generator = torch.Generator(device=choice.device).manual_seed(settings.seed)
        self._dropout = Dropout(settings, generator)
        self._state = model.initial_state(batches.batch_size)
        self._elapsed_before = 0.0
        self._progress_at_start = 0.0
        self._started = clock()
        self._saved = self._started
        self._next_evaluation = 0
        self._best: Evaluation | None = None
        self._best_step: int | None = None
        self._stopping = False

    @property
    def total_steps(self) -> int | None:
        """The budget in optimizer steps; None when it is time."""
        settings = self._settings
        if settings.steps is not None:
            return settings.steps
        if settings.epochs is not None:
            windows = self._batches.windows_per_epoch / settings.accumulation
            return max(1, math.ceil(settings.epochs * windows))
        return None

    @property
    def best(self) -> Evaluation | None:
        """The best evaluation so far."""
        return self._best

    @property
    def elapsed_seconds(self) -> float:
        """Time spent training, over all interruptions."""
        return self._elapsed_before + self._clock() - self._started

    @property
    def progress(self) -> float:
        """Spent share of the budget, 0 to 1."""
        total = self.total_steps
        if total is not None:
            return min(1.0, self.step / total)
        assert self._settings.minutes is not None
        return min(1.0, self.elapsed_seconds / (60.0 * self._settings.minutes))

    def stop(self) -> None:
        """Ends training after the current step, with a last checkpoint. May be called from a signal handler."""
        self._stopping = True

    def events(self) -> Iterator[Event]:
        """Trains. Raises `TrainingDiverged` when the loss is no longer a finite number."""
        self._started = self._saved = self._clock()
        self._progress_at_start = self.progress
        yield self._start_event()
        if self.step == 0 and self._sampler is not None:
            yield SampleEvent(0, self._sampler(self.average))
        if self._evaluation_due():
            # A run that was stopped just then left it to whoever resumes.
            yield from self._evaluate()
        report = _Report(self)
        while self.progress < 1.0 and not self._stopping:
            loss, norm = self._train_step()
            report.add(loss, norm)
            save_due = self._clock() - self._saved >= self._settings.save_seconds
            if self._clock() - report.since >= _REPORT_SECONDS or self._evaluation_due() or save_due:
                # Also because it finds out whether the weights are still worth saving.
                yield report.event()
                report = _Report(self)
            if self._evaluation_due() and not self._stopping:
                yield from self._evaluate()
                report = _Report(self)
            elif save_due:
                yield self._checkpoint()
                report = _Report(self)
        if report.steps:
            yield report.event()
        if self._evaluation_due() and not self._stopping:
            # A budget in minutes can run out while a listener saves, before the last evaluation was seen to be due.
            yield from self._evaluate()
        else:
            yield self._checkpoint()
        reason: Literal["finished", "stopped"] = "stopped" if self.progress < 1.0 else "finished"
        yield EndEvent(self.step, reason, self.elapsed_seconds, self._best_step, self._best)

    def snapshot(self) -> TrainingSnapshot:
        """The training state between two steps; with the weights of `average` it is all that `restore` needs."""
        tensors: dict[str, Tensor] = {"generator": self._dropout.generator.get_state()}
        tensors.update({f"model.{name}": value for name, value in self.model.state_dict().items()})
        tensors.update({f"state.{name}": value for name, value in self._state.named_tensors()})
        for index, slots in self._optimizer.state_dict()["state"].items():
            tensors.update({f"optimizer.{index}.{name}": value for name, value in slots.items()})
        values = {
            "step": self.step,
            "position": list(self._batches.position),
            "elapsed_seconds": self.elapsed_seconds,
            "next_evaluation": self._next_evaluation,
            "best_step": self._best_step,
            "best": self._best.as_dict() if self._best else None,
        }
        # Training goes on in these very tensors while the listener still writes them.
        return TrainingSnapshot({name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, values)

    def restore(self, average: dict[str, Tensor], snapshot: TrainingSnapshot) -> None:
        """Takes up training where `snapshot` was made; raises `BadCheckpoint` when it belongs to another run."""
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "state": {}, "optimizer": {}}
        for name, tensor in snapshot.tensors.items():
            group, _, rest = name.partition(".")
            if group in groups:
                groups[group][rest] = tensor.to(self._choice.device)
        try:
            self.model.load_state_dict(groups["model"])
            self.average.load_state_dict(average)
            self._restore_optimizer(groups["optimizer"])
            state = RecurrentState.from_named_tensors(groups["state"])
            if state.batch_size != self._batches.batch_size:
                raise BadCheckpoint("training.json", "batch_size", "differs from the run that is resumed")
            self._state = state
            self._dropout.generator.set_state(snapshot.tensors["generator"].cpu())
            self._restore_values(snapshot.values)
        except BadCheckpoint:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise BadCheckpoint("training.safetensors", "content", "of another run or damaged") from error

    def _restore_values(self, values: dict[str, Any]) -> None:
        self.step = int(values["step"])
        epoch, window = values["position"]
        self._batches.position = (int(epoch), int(window))
        self._elapsed_before = float(values["elapsed_seconds"])
        self._next_evaluation = int(values["next_evaluation"])
        self._best = Evaluation(**values["best"]) if values["best"] else None
        self._best_step = values["best_step"]

    def _restore_optimizer(self, slots: dict[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in slots.items():
            index, _, slot = name.partition(".")
            state.setdefault(int(index), {})[slot] = tensor
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": state})

    def _train_step(self) -> tuple[Tensor, Tensor]:
        """One optimizer step; mean loss in nats per token and gradient norm, both still on the device."""
        settings = self._settings
        rate = settings.learning_rate * learning_rate_factor(self.progress, settings.warmup)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        total = torch.zeros((), device=self._choice.device)
        for _ in range(settings.accumulation):
            loss = self._window_loss(self._batches.next()) / settings.accumulation
            loss.backward()
            total += loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        update_average(self.average, self.model, decay=settings.average_decay, step=self.step)
        return total, norm

    def _window_loss(self, batch: Batch) -> Tensor:
        device = self._choice.device
        inputs, targets = torch.from_numpy(batch.inputs).to(device), torch.from_numpy(batch.targets).to(device)
        resets = None if batch.resets is None else torch.from_numpy(batch.resets).to(device)
        if batch.fresh:
            self._state = self.model.initial_state(len(inputs))
        with autocast(device, self._choice.precision):
            logits, state = self.model(inputs, self._state, dropout=self._dropout, resets=resets)
        self._state = state.detach()
        flat = logits.flatten(0, 1).float()
        return F.cross_entropy(flat, targets.flatten(), ignore_index=StreamBatches.IGNORE)

    def _evaluation_due(self) -> bool:
        count = self._settings.evaluations
        return self._next_evaluation < count and self.progress >= (self._next_evaluation + 1) / count

    def _evaluate(self) -> Iterator[Event]:
        self._next_evaluation = int(self.progress * self._settings.evaluations + 1e-9)
        better = False
        if self._held_out is not None:
            evaluation = self.evaluate_average()
            better = self._best is None or evaluation.nats_per_char < self._best.nats_per_char
            if better:
                self._best, self._best_step = evaluation, self.step
            yield EvaluationEvent(self.step, self.elapsed_seconds, evaluation, better)
        if self._sampler is not None:
            yield SampleEvent(self.step, self._sampler(self.average))
        if better or self._held_out is None:
            yield CheckpointEvent(self.step, "best")
        yield self._checkpoint()

    def evaluate_average(self) -> Evaluation:
        """Scores the averaged weights on the held-out text."""
        assert self._held_out is not None
        held_out = self._held_out
        return evaluate(
            self.average, held_out.ids, chars=held_out.chars, bytes=held_out.bytes, streams=_EVALUATION_STREAMS
        )

    def _checkpoint(self) -> CheckpointEvent:
        self._saved = self._clock()
        return CheckpointEvent(self.step, "last")

    def _start_event(self) -> StartEvent:
        batches = self._batches
        return StartEvent(
            step=self.step,
            total_steps=self.total_steps,
            device=str(self._choice),
            parameters=self.model.num_parameters,
            batch_size=batches.batch_size,
            window=batches.window,
            tokens_per_epoch=batches.windows_per_epoch * batches.tokens_per_window,
        )

    def seconds_left(self) -> float:
        """Expected time until the budget is spent, at the rate of this session."""
        if self._settings.minutes is not None:
            return max(0.0, 60.0 * self._settings.minutes - self.elapsed_seconds)
        gained = self.progress - self._progress_at_start
        return (1.0 - self.progress) * (self._clock() - self._started) / gained if gained > 0 else 0.0

    def tokens_per_step(self) -> int:
        """Tokens read in one optimizer step."""
        return self._batches.tokens_per_window * self._settings.accumulation

    def epoch(self) -> float:
        """Passes over the text so far."""
        epoch, window = self._batches.position
        return epoch + min(1.0, window / self._batches.windows_per_epoch)

    def learning_rate(self) -> float:
        """The rate of the last step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def clock(self) -> float:
        return self._clock()


class _Report:
    """Sums up the steps between two `StepEvent`s, so that a GPU is asked for numbers a few times a second only."""

    def __init__(self, trainer: Trainer) -> None:
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
        loss = torch.stack(self._losses).mean().item()
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
