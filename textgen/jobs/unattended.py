"""Training with nobody at a terminal: what there is to say goes into the run's folder and its log.

torch is imported when it is needed: whoever starts such a run need not have it.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from textgen.errors import NoRoom
from textgen.jobs.run_folder import RunFolder
from textgen.jobs.run_status import RunState
from textgen.progress import Progress

if TYPE_CHECKING:
    from textgen.jobs.training_run import TrainingRun

_PROGRESS_SECONDS = 0.5
_FITTED_TOKENS = 30_000


class Asked(BaseException):
    """Somebody wants the run to end while it is still being prepared; no error that anything should catch."""


class Preparing:
    """Tells in status.json how far the preparation is, and raises `Asked` when `asked` says how it is to end."""

    def __init__(self, folder: RunFolder, asked: Callable[[], RunState | None]) -> None:
        self._folder = folder
        self._asked = asked
        self._due: dict[str, float] = {}

    def __call__(self, progress: Progress) -> None:
        if self._asked() is not None:
            raise Asked
        now = time.monotonic()
        if now >= self._due.get(progress.stage, 0.0):
            self._due = {progress.stage: now + _PROGRESS_SECONDS}
            details: dict[str, Any] = {"stage": progress.stage, "done": progress.done, "total": progress.total}
            self._folder.write_status("preparing", **details, unit=progress.unit)


def look_ahead(run: TrainingRun) -> None:
    """Writes down what the run will take and how the vocabulary fits; `NoRoom` where its checkpoints do not."""
    from textgen.text.importing import vocabulary_fit

    run.folder.write_status("preparing", stage="timing")
    tokenizer = run.corpus.tokenizer
    fit = vocabulary_fit(tokenizer, [tokenizer.decode(run.corpus.train.ids[:_FITTED_TOKENS].tolist())])
    estimate = run.estimate()
    asked = run.settings.text.vocab_size
    pieces = {"had": tokenizer.vocab_size, "asked": asked} if run.corpus.note and tokenizer.vocab_size < asked else None
    run.folder.write_about(estimate=asdict(estimate), fit=asdict(fit), pieces=pieces)
    if estimate.free_bytes is not None and not estimate.fits_on_disk:
        raise NoRoom(estimate.free_bytes, estimate.training.disk_bytes)


def carry_out(
    run: TrainingRun,
    ask: Callable[[RunState], None],
    *,
    max_minutes: float,
    most_seconds: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Trains, and lets `ask` end the run that has taken `max_minutes`, over all interruptions.

    After `most_seconds`, and a step, it is only to wait for its next turn.
    """
    from textgen.training.events import EvaluationEvent, StartEvent, StepEvent

    folder, too_long, until = run.folder, False, clock() + most_seconds
    for event in run.events():
        if isinstance(event, StartEvent):
            log(f"training {event.parameters:,} parameters on {event.device} from step {event.step}")
        elif isinstance(event, EvaluationEvent):
            log(f"step {event.step}: held-out {event.evaluation.nats_per_char:.4f} nats per character")
        elif isinstance(event, StepEvent) and event.progress < 1.0:
            # At the end of its budget it ends by itself, after the evaluation that is still due.
            if event.elapsed_seconds >= 60.0 * max_minutes:
                too_long = True
                ask("stopped")
            elif clock() >= until:
                ask("queued")
    status = folder.read_status()
    if too_long and status is not None and status.state == "stopped":
        folder.write_status("stopped", **{**status.details, "most_minutes": max_minutes})
    log(f"{status.state} at step {status.step}" if status else "ended")


def log(text: str) -> None:
    """A line in the run's log, which standard output is."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
