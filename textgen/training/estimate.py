"""What a run will cost, found out by a few real steps on a copy of its model."""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from textgen.config import TrainingSettings, update_settings
from textgen.model.language_model import LanguageModel
from textgen.text.corpus import StreamBatches
from textgen.training.device import DeviceChoice
from textgen.training.distillation import Batches
from textgen.training.distributed import Ranks
from textgen.training.evaluation import evaluate
from textgen.training.held_out import HeldOut
from textgen.training.schedule import Horizon
from textgen.training.trainer import Trainer

_STEPS = 20
_BYTES_PER_WEIGHT = 4
# Tokens of held-out text that are read to see how fast they are.
_PROBED_TOKENS = 4096
_STREAMS = 16


@dataclass(frozen=True)
class TrainingEstimate:
    """`seconds` and `passes` (over the text) are for the whole budget, evaluations included; early ends are not known.

    `tokens_per_second` is the rate that it begins with. `peak_bytes` is the most memory that the process (on a CUDA
    device: the device) has held; None where the system does not tell. `checkpoint_bytes` is the size of one checkpoint
    that training can go on from: weights, their average, and the optimizer's state. `disk_bytes` is what must be free:
    two of these, since the old one goes last, and the best.
    """

    tokens_per_second: float
    steps: int
    seconds: float
    passes: float
    evaluation_seconds: float
    peak_bytes: int | None
    checkpoint_bytes: int
    disk_bytes: int


def estimate_training(
    model: LanguageModel,
    batches: Batches,
    settings: TrainingSettings,
    choice: DeviceChoice,
    *,
    held_out: Sequence[HeldOut] = (),
    max_seconds: float = 5.0,
    clock: Callable[[], float] = time.perf_counter,
    ranks: Ranks | None = None,
) -> TrainingEstimate:
    """Times up to 20 steps, after one that warms up, for `max_seconds` at most (but one step in any case).

    Where the model will teach itself, steps of that kind are timed as well, for half as long.

    With other `ranks` these are steps of all of them, and all call it; memory is that of this process.

    `model` is left as it is; `batches` is put back to where it was. Raises `InvalidSetting` when there is no budget and
    `OutOfMemory` when the model cannot be trained here at all.
    """
    place = batches.mark()
    horizon = Horizon.of(settings, steps_per_epoch=batches.windows_per_epoch / settings.accumulation)
    probe = update_settings(settings, steps=_STEPS + 2, epochs=None, minutes=None)
    if choice.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(choice.device)

    def timed(settings: TrainingSettings, max_seconds: float, unmeasured: int) -> float:
        try:
            trainer = Trainer(copy.deepcopy(model), batches, settings, choice, ranks=ranks)
            return _seconds_per_step(trainer, max_seconds, clock, unmeasured)
        finally:
            batches.go_back(place)

    pace = _Pace(timed(update_settings(probe, self_teaching=0.0), max_seconds, 1))
    if probe.self_teaching and isinstance(batches, StreamBatches):
        # As if the passes that come before were over: the second step is taught.
        taught = timed(update_settings(probe, self_teaching=1e-9), max_seconds / 2, 2)
        passed = probe.self_teaching * batches.windows_per_epoch / settings.accumulation
        pace = _Pace(pace.first, taught, math.ceil(passed))
    evaluation_seconds = sum(_evaluation_seconds(model, text, choice.precision, clock) for text in held_out)
    # A budget in minutes is spent on evaluations too; they come on top of one in steps.
    evaluating = evaluation_seconds * settings.evaluations
    if horizon.unit == "seconds":
        steps = max(1, int(pace.steps(horizon.length - evaluating)))
        seconds = horizon.length
    else:
        steps = int(horizon.length)
        seconds = pace.seconds(steps) + evaluating
    tokens = batches.tokens_per_window * settings.accumulation
    weights = model.num_parameters * _BYTES_PER_WEIGHT
    # The average, the weights themselves, AdamW's two moments, and what training began with.
    checkpoint = weights * (5 if settings.base_share else 4)
    return TrainingEstimate(
        tokens_per_second=tokens / pace.first,
        steps=steps,
        seconds=seconds,
        passes=steps * settings.accumulation / batches.windows_per_epoch,
        evaluation_seconds=evaluation_seconds,
        peak_bytes=_peak_bytes(choice.device),
        checkpoint_bytes=checkpoint,
        disk_bytes=2 * (checkpoint + weights),
    )


@dataclass(frozen=True)
class _Pace:
    """Seconds that a step takes: `first`, and `later` from step `changes_at` on, when the model teaches itself."""

    first: float
    later: float = math.inf
    changes_at: float = math.inf

    def steps(self, seconds: float) -> float:
        """Steps that are done in so much time."""
        before = min(seconds / self.first, self.changes_at)
        return before + max(0.0, seconds - before * self.first) / self.later

    def seconds(self, steps: float) -> float:
        """The time that so many steps take."""
        before = min(steps, self.changes_at)
        return before * self.first + ((steps - before) * self.later if steps > before else 0.0)


def _seconds_per_step(trainer: Trainer, max_seconds: float, clock: Callable[[], float], unmeasured: int) -> float:
    for _ in range(unmeasured):
        trainer.train_step()[0].item()
    start, steps = clock(), 0
    while steps < _STEPS and (steps == 0 or trainer.ranks.told(lambda: [clock() - start], 1)[0] < max_seconds):
        trainer.train_step()[0].item()  # waits for the device
        steps += 1
    return max(1e-9, (clock() - start) / steps)


def _evaluation_seconds(
    model: LanguageModel, text: HeldOut, precision: torch.dtype, clock: Callable[[], float]
) -> float:
    piece = text.ids[:_PROBED_TOKENS]
    start = clock()
    scored = evaluate(model, piece, chars=1, bytes=1, streams=_STREAMS, warmup=32, precision=precision)
    return (clock() - start) * len(text.ids) / max(1, scored.tokens)


def _peak_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) * (1 if sys.platform == "darwin" else 1024)
