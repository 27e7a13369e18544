"""Truncated back-propagation through time with carried state, as a stream of events."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import astuple, fields
from typing import Any, Literal

from torch import Tensor

from textgen.config import TrainingBudget, TrainingSettings
from textgen.errors import BadCheckpoint
from textgen.model.language_model import LanguageModel
from textgen.model.state import RecurrentState
from textgen.text.corpus import StreamBatches
from textgen.training.device import DeviceChoice
from textgen.training.distillation import Batches, TaughtBatches, with_teachers
from textgen.training.distributed import Agreement, Ranks
from textgen.training.early_stopping import BestSoFar
from textgen.training.evaluation import Evaluation
from textgen.training.events import (
    BatchSplitEvent,
    CheckpointEvent,
    EndEvent,
    EvaluationEvent,
    Event,
    SampleEvent,
    Samples,
    StartEvent,
)
from textgen.training.gradients import WindowGradients
from textgen.training.held_out import HeldOut, evaluate_held_out
from textgen.training.learner import Learner
from textgen.training.report import StepReport
from textgen.training.schedule import Horizon, learning_rate_factor
from textgen.training.snapshot import TrainingSnapshot
from textgen.training.thread_choice import ThreadChoice

__all__ = ["HeldOut", "Sampler", "Trainer"]

Sampler = Callable[[LanguageModel], Samples]

_REPORT_SECONDS = 0.2


class Trainer:
    """Trains `model` on `batches`; iterate over `events()` to make it work.

    The budget is steps, epochs or minutes; the learning rate follows the spent share of it. `average` is the moving
    average of the weights: what is evaluated, sampled from and worth keeping. Training itself reads no clock when the
    budget is steps or epochs, so that a resumed run equals one that was never interrupted, bit for bit on a CPU. Where
    it is minutes a processor's threads are as many as are fastest at the time, see `ThreadChoice`.

    `tuned`: the model has learned something already. It is then evaluated before it learns more, and where that is
    never surpassed it stays the best. `kept` is held-out text of what it had learned, evaluated on beside `held_out`.

    `ranks`: the processes that train this very model together, each with a trainer made and driven alike. Rank 0
    evaluates and samples, its clock is everyone's, and all are stopped when one is. What is saved is the same on all of
    them, and may be restored by any other number.

    In the first `dropout_passes` passes over the text the dropouts rise from nothing to their rates, in a straight line
    (after Morerio et al. 2017, https://arxiv.org/abs/1703.06229): nothing is known by heart yet that they would have to
    prevent.

    After `self_teaching` passes over the text the averaged weights as they are then teach the model, as other teachers
    do (see `TaughtBatches`; Furlanello et al. 2018, https://arxiv.org/abs/1805.04770): what they write has no end, and
    keeps a model that has read its text often from learning that by heart.
    """

    def __init__(
        self,
        model: LanguageModel,
        batches: Batches,
        settings: TrainingSettings,
        choice: DeviceChoice,
        *,
        held_out: HeldOut | None = None,
        kept: HeldOut | None = None,
        tuned: bool = False,
        sampler: Sampler | None = None,
        clock: Callable[[], float] = time.monotonic,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks or Ranks()
        # All ranks have the same weights from here on.
        self._gradients = WindowGradients(model, batches, settings, choice, self.ranks)
        self._learner = Learner(model, settings)
        self._batches = batches
        self._settings = settings
        self._horizon = Horizon.of(settings, steps_per_epoch=batches.windows_per_epoch / settings.accumulation)
        self._choice = choice
        self._held_out = held_out
        self._kept = kept
        self._tuned = tuned
        self._sampler = sampler
        self._agreement = Agreement(self.ranks, clock)
        self._clock = self._agreement.now
        self._whole_state: RecurrentState | None = None
        self._elapsed_before = 0.0
        self._progress_at_start = 0.0
        self._started = self._clock()
        self._saved = self._started
        self._next_evaluation = 0
        self._evaluations = settings.evaluations
        self._best = BestSoFar(settings.patience)
        self._self_teacher: LanguageModel | None = None
        # Of other threads' sums the last bits differ; but who trains for some time cannot have the same bits again.
        shares = choice.device.type == "cpu" and self.ranks.alone and self._horizon.unit == "seconds"
        self._threads = ThreadChoice(choice.threads if shares else 1)

    @property
    def model(self) -> LanguageModel:
        """The model that learns."""
        return self._learner.model

    @property
    def average(self) -> LanguageModel:
        """The moving average of its weights."""
        return self._learner.average

    @property
    def step(self) -> int:
        """Optimizer steps so far."""
        return self._learner.step

    @property
    def choice(self) -> DeviceChoice:
        """Where and in which number format it trains."""
        return self._choice

    @property
    def batches(self) -> Batches:
        """What it reads."""
        return self._batches

    @property
    def total_steps(self) -> int | None:
        """The optimizer step at which the budget is spent; None when it is time."""
        return self._horizon.total_steps

    @property
    def best(self) -> Evaluation | None:
        """The best evaluation so far."""
        return self._best.evaluation

    @property
    def elapsed_seconds(self) -> float:
        """Time spent training, over all interruptions."""
        return self._elapsed_before + self._clock() - self._started

    @property
    def progress(self) -> float:
        """Spent share of the budget, 0 to 1; after `extend`, of what was added."""
        return self._horizon.progress(steps=self.step, seconds=self.elapsed_seconds)

    def stop(self) -> None:
        """Ends training after the current step, with a last checkpoint. May be called from a signal handler."""
        self._agreement.stop()

    def extend(self, longer: TrainingBudget) -> None:
        """Sets out to train for `longer`, beside all that was spent; `InvalidSetting` when that is no budget.

        To be called before `events`. The learning rate rises once more and falls over the new part, which is
        evaluated as often as what was before it; the best evaluation so far still has to be surpassed, with all
        patience anew.
        """
        if self._self_teacher is not None:
            # Another teacher follows, which knows more.
            assert isinstance(self._batches, TaughtBatches)
            self._self_teacher, self._batches = None, self._batches.texts
            self._gradients.take_batches(self._batches)
        steps_per_epoch = self._batches.windows_per_epoch / self._settings.accumulation
        before = self._horizon
        self._horizon = Horizon.of(
            longer, steps_per_epoch=steps_per_epoch, steps=self.step, seconds=self.elapsed_seconds
        )
        if self._horizon.unit == before.unit:
            self._evaluations = max(1, round(self._evaluations * self._horizon.length / before.length))
        self._next_evaluation = 0
        self._best.wait_anew()

    def whole_budget(self) -> TrainingBudget:
        """The budget from the beginning to where training is to end, in the unit of its last part."""
        horizon = self._horizon
        if horizon.unit == "seconds":
            return TrainingBudget(minutes=(horizon.start + horizon.length) / 60.0)
        return TrainingBudget(steps=horizon.total_steps)

    def events(self) -> Iterator[Event]:
        """Trains. Raises `TrainingDiverged` when the loss is no longer a finite number, `OutOfMemory`."""
        with closing(self._threads):
            yield from self._events()

    def _events(self) -> Iterator[Event]:
        self._agreement.renew()
        self._started = self._saved = self._clock()
        self._progress_at_start = self.progress
        yield self._start_event()
        if self.step == 0:
            yield from self._before()
        if self._evaluation_due():
            # A run that was stopped just then left it to whoever resumes.
            yield from self._evaluate()
        report = StepReport(self)
        while not self._over:
            parts = self._gradients.parts
            before = time.perf_counter()
            report.add(*self.train_step())
            self._threads.add(time.perf_counter() - before)
            self._agreement.renew()
            if self._gradients.parts != parts:
                yield BatchSplitEvent(self.step, self._gradients.parts, self._gradients.rows_per_part)
            save_due = self._clock() - self._saved >= self._settings.save_seconds
            if self._clock() - report.since >= _REPORT_SECONDS or self._evaluation_due() or save_due:
                # Also because it finds out whether the weights are still worth saving.
                yield report.event()
                report = StepReport(self)
            if self._evaluation_due() and not self._agreement.stopping:
                yield from self._evaluate()
            elif save_due:
                yield self._checkpoint()
            else:
                continue
            self._agreement.renew()
            report = StepReport(self)
        if report.steps:
            yield report.event()
        if self._evaluation_due() and not self._agreement.stopping:
            # A budget in minutes can run out while a listener saves, before the last evaluation was seen to be due.
            yield from self._evaluate()
        else:
            yield self._checkpoint()
        yield self._end_event()

    def snapshot(self) -> TrainingSnapshot:
        """The training state between two steps; with the weights of `average` it is all that `restore` needs.

        With other ranks it can be had right after `restore` and while a `CheckpointEvent` is listened to.
        """
        state = self._gradients.state if self.ranks.alone else self._whole_state
        assert state is not None
        tensors: dict[str, Tensor] = {"generator": self._gradients.generator.get_state(), **self._learner.tensors()}
        tensors.update({f"state.{name}": value for name, value in state.named_tensors()})
        if self._self_teacher is not None:
            tensors.update({f"self_teacher.{name}": value for name, value in self._self_teacher.state_dict().items()})
        if isinstance(self._batches, TaughtBatches):
            tensors.update({f"teachers.{name}": value for name, value in self._batches.tensors().items()})
        values = {
            "step": self.step,
            "position": list(self._batches.position),
            "elapsed_seconds": self.elapsed_seconds,
            "horizon": self._horizon.as_dict(),
            "next_evaluation": self._next_evaluation,
            "evaluations": self._evaluations,
            "parts": self._gradients.whole_parts,
            **self._best.values(),
        }
        # Training goes on in these very tensors while the listener still writes them.
        return TrainingSnapshot({name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, values)

    def restore(self, average: dict[str, Tensor], snapshot: TrainingSnapshot) -> None:
        """Takes up training where `snapshot` was made; raises `BadCheckpoint` when it belongs to another run."""
        device = self._choice.device
        try:
            self._learner.take(average, snapshot)
            self_teacher = snapshot.group("self_teacher", device)
            if self_teacher and self._may_teach_itself:
                teacher = copy.deepcopy(self.model)
                teacher.load_state_dict(self_teacher)
                self._teach_itself(teacher)
            state = RecurrentState.from_named_tensors(snapshot.group("state", device))
            if state.batch_size != self._batches.batch_size:
                raise BadCheckpoint("training.json", "batch_size", "differs from the run that is resumed")
            self._gradients.take_state(state)
            self._whole_state = state
            self._gradients.generator.set_state(snapshot.tensors["generator"].cpu())
            self._restore_values(snapshot.values)
            if isinstance(self._batches, TaughtBatches):
                self._batches.take_tensors(snapshot.group("teachers", device))
        except BadCheckpoint:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise BadCheckpoint("training.safetensors", "content", "of another run or damaged") from error

    def _restore_values(self, values: dict[str, Any]) -> None:
        epoch, window = values["position"]
        self._batches.position = (int(epoch), int(window))
        self._elapsed_before = float(values["elapsed_seconds"])
        if "horizon" in values:
            self._horizon = Horizon(**values["horizon"])
        self._next_evaluation = int(values["next_evaluation"])
        self._evaluations = max(1, int(values.get("evaluations", self._evaluations)))
        self._gradients.whole_parts = int(values.get("parts", 1))
        self._best.restore(values)

    def train_step(self) -> tuple[Tensor, Tensor]:
        """One optimizer step; mean loss in nats per token and gradient norm, both still on the device.

        Of several ranks each returns its share of the loss, see `Ranks.total`. All call it.
        """
        settings = self._settings
        factor = learning_rate_factor(self.progress, settings.warmup, settings.schedule)
        self._learner.rate = settings.learning_rate * factor
        if self._may_teach_itself and self.epoch() >= settings.self_teaching:
            self._teach_itself(copy.deepcopy(self.average))
        if settings.dropout_passes:
            self._gradients.drop(settings.scaled(min(1.0, self.epoch() / settings.dropout_passes)))
        loss = self._gradients.add()
        return loss, self._learner.update()

    @property
    def _may_teach_itself(self) -> bool:
        return self._settings.self_teaching > 0 and isinstance(self._batches, StreamBatches)

    def _teach_itself(self, teacher: LanguageModel) -> None:
        assert isinstance(self._batches, StreamBatches)
        self._self_teacher = teacher
        self._batches = with_teachers(self._batches, [teacher], self._settings, self._choice)
        self._gradients.take_batches(self._batches)

    @property
    def _over(self) -> bool:
        return self.progress >= 1.0 or self._agreement.stopping or self._best.exhausted

    def _before(self) -> Iterator[Event]:
        """What a model can do before it learns."""
        if self._sampler is not None and self.ranks.leads:
            yield SampleEvent(0, *self._sampler(self.average))
        if self._tuned and self._held_out is not None and self._best.evaluation is None:
            yield self._evaluation()
            yield self._checkpoint("best")

    def _evaluation_due(self) -> bool:
        count = self._evaluations
        return self._next_evaluation < count and self.progress >= (self._next_evaluation + 1) / count

    def _evaluate(self) -> Iterator[Event]:
        self._count_evaluations()
        better = self._held_out is None
        if self._held_out is not None:
            event = self._evaluation()
            better = event.best
            yield event
        if self._sampler is not None and self.ranks.leads:
            yield SampleEvent(self.step, *self._sampler(self.average))
        if better:
            yield self._checkpoint("best")
        yield self._checkpoint()
        # Those that fell due meanwhile would find the same weights.
        self._count_evaluations()

    def _count_evaluations(self) -> None:
        self._next_evaluation = int(self.progress * self._evaluations + 1e-9)

    def _evaluation(self) -> EvaluationEvent:
        evaluation = self._told_evaluation()
        self._agreement.renew()
        kept = evaluate_held_out(self.average, self._kept, self._choice.precision) if self._kept else None
        best = self._best.add(self.step, evaluation)
        return EvaluationEvent(self.step, self.elapsed_seconds, evaluation, best, kept)

    def evaluate_average(self) -> Evaluation:
        """Scores the averaged weights on the held-out text."""
        assert self._held_out is not None
        return evaluate_held_out(self.average, self._held_out, self._choice.precision)

    def _told_evaluation(self) -> Evaluation:
        if self.ranks.alone:
            return self.evaluate_average()
        told = self.ranks.told(lambda: astuple(self.evaluate_average()), count=len(fields(Evaluation)))
        return Evaluation.from_numbers(told)

    def _checkpoint(self, kind: Literal["last", "best"] = "last") -> CheckpointEvent:
        if kind == "last":
            self._saved = self._clock()
        if not self.ranks.alone:
            self._whole_state = self._gradients.whole_state()
        return CheckpointEvent(self.step, kind)

    def _end_event(self) -> EndEvent:
        early = self._best.exhausted and self.progress < 1.0
        reason: Literal["finished", "stopped"] = "stopped" if self.progress < 1.0 and not early else "finished"
        return EndEvent(self.step, reason, self.elapsed_seconds, self._best.step, self._best.evaluation, early)

    def _start_event(self) -> StartEvent:
        batches = self._batches
        return StartEvent(
            step=self.step,
            total_steps=self.total_steps,
            device=str(self._choice) + (f", {self.ranks.size} processes" if not self.ranks.alone else ""),
            parameters=self.model.num_parameters,
            batch_size=batches.batch_size,
            window=batches.window,
            tokens_per_epoch=batches.windows_per_epoch * batches.tokens_per_window,
            members=self.model.settings.members,
        )

    def seconds_left(self) -> float:
        """Expected time until the budget is spent, at the rate of this session."""
        if self._horizon.unit == "seconds":
            return (1.0 - self.progress) * self._horizon.length
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
        return self._learner.rate

    def total(self, loss: Tensor) -> Tensor:
        """What the ranks' shares of a loss add up to. All call it."""
        return self.ranks.total(loss)

    def clock(self) -> float:
        return self._clock()
