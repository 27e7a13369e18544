"""The process that trains one run of the queue: `python -m textgen.jobs.worker --runs DIR --run ID --claim CLAIM`.

It outlives whoever started it. What it does stands in the folder of the run; what it is to do comes from the queue and,
while it trains, from control.json.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textgen.errors import CannotWrite, NoRoom, TextgenError
from textgen.jobs.manager import JobManager, open_queue
from textgen.jobs.process_identity import ProcessIdentity
from textgen.jobs.run_folder import RunFolder
from textgen.jobs.run_status import RunState
from textgen.jobs.store import QueueEntry, QueueStore
from textgen.limits import Limits
from textgen.progress import Progress

if TYPE_CHECKING:  # torch is imported when a claim has been confirmed
    from textgen.jobs.training_run import TrainingRun

_LOOK_SECONDS = 0.2
_PROGRESS_SECONDS = 0.5
_FITTED_TOKENS = 30_000
# What the verbs of control.json make of the run.
_STATES: dict[str, RunState] = {"pause": "paused", "stop": "stopped"}
NOT_CLAIMED = 3


class _Asked(BaseException):
    """Somebody wants the run to end while it is still being prepared; no error that anything should catch."""


class _Watch:
    """Renews the lease and looks for what is asked of the run, in a thread of its own."""

    def __init__(self, folder: RunFolder, store: QueueStore, entry: QueueEntry, limits: Limits) -> None:
        self.asked: RunState | None = None
        self._folder = folder
        self._store = store
        self._entry = entry
        self._renew_seconds = limits.lease_seconds / 4
        self._stop: Callable[[RunState], None] | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._look, name="textgen-watch", daemon=True)
        self._thread.start()

    def attach(self, stop: Callable[[RunState], None]) -> None:
        """From now on `stop` ends the run."""
        self._stop = stop
        if self.asked is not None:
            stop(self.asked)

    def ask(self, state: RunState) -> None:
        """Ends the run after the current step; it is then in `state`."""
        if self.asked is None:
            self.asked = state
            if self._stop is not None:
                self._stop(state)

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _look(self) -> None:
        waited = 0.0
        while not self._closed.wait(_LOOK_SECONDS):
            verb = self._folder.read_control()
            if verb in _STATES:
                self.ask(_STATES[verb])
            waited += _LOOK_SECONDS
            if waited >= self._renew_seconds:
                waited = 0.0
                self._renew()

    def _renew(self) -> None:
        with suppress(CannotWrite):  # a full disk: the next time, perhaps
            if not self._store.renew(self._entry.run_id, str(self._entry.claim)):
                self.ask("interrupted")  # taken for dead, after a long suspension say


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains the run that was claimed; exit status 0, 1 after a failure, 3 when the claim is no longer valid."""
    parser = argparse.ArgumentParser(prog="python -m textgen.jobs.worker")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--claim", required=True)
    parser.add_argument("--limits", type=Limits.from_json, default=Limits())
    parser.add_argument("--niceness", type=int, default=0)
    options = parser.parse_args(arguments)
    limits = options.limits
    store = open_queue(options.runs, limits)
    entry = store.confirm(options.run, options.claim, ProcessIdentity.current())
    if entry is None:
        return NOT_CLAIMED
    with suppress(OSError):
        os.nice(options.niceness)
    folder = RunFolder(options.runs / options.run)
    watch = _Watch(folder, store, entry, limits)
    signal.signal(signal.SIGTERM, lambda *_: watch.ask("interrupted"))
    try:
        return _work(folder, entry, watch, limits)
    finally:
        watch.close()
        # On a full disk the row stays; whoever looks after the queue next sees that this process has ended.
        with suppress(CannotWrite):
            store.release(entry.run_id, options.claim)
            # The next one inherits how nice this process is, and trains with as many threads.
            threads = int(os.environ.get("OMP_NUM_THREADS") or 0) or None
            JobManager(options.runs, device=entry.device, limits=limits, threads=threads, niceness=0).dispatch()


def _work(folder: RunFolder, entry: QueueEntry, watch: _Watch, limits: Limits) -> int:
    try:
        # At once: whoever finds this process dead must see that there was one.
        before = folder.read_status()
        told = {name: before.details[name] for name in ("step", "progress") if before and name in before.details}
        folder.write_status("preparing", **told)
        folder.keep_reserve()
        _train(folder, entry, watch, limits)
    except _Asked:
        folder.write_status(watch.asked or "stopped")
    except Exception as error:
        folder.write_failure(error)
        if isinstance(error, TextgenError):
            _log(str(error))
        else:
            traceback.print_exc()
        return 1
    return 0


def _train(folder: RunFolder, entry: QueueEntry, watch: _Watch, limits: Limits) -> None:
    from textgen.config import TrainingBudget, parse_settings
    from textgen.jobs.training_run import resume_run
    from textgen.training.events import EvaluationEvent, StartEvent, StepEvent

    longer = parse_settings(TrainingBudget, entry.task["longer"]) if entry.task.get("longer") else None
    preparing = _Preparing(folder, watch)
    device: Any = entry.device
    run = resume_run(folder.path, longer=longer, device=device, limits=limits, progress=preparing)
    watch.attach(run.stop)
    if run.trainer.step == 0:
        _look_ahead(folder, run)
    max_seconds, too_long = 60.0 * float(entry.task["max_minutes"]), False
    for event in run.events():
        if isinstance(event, StartEvent):
            _log(f"training {event.parameters:,} parameters on {event.device} from step {event.step}")
        elif isinstance(event, EvaluationEvent):
            _log(f"step {event.step}: held-out {event.evaluation.nats_per_char:.4f} nats per character")
        elif isinstance(event, StepEvent) and event.elapsed_seconds >= max_seconds and event.progress < 1.0:
            # At the end of its budget it ends by itself, after the evaluation that is still due.
            too_long = True
            watch.ask("stopped")
    status = folder.read_status()
    if too_long and status is not None and status.state == "stopped":
        folder.write_status("stopped", **{**status.details, "most_minutes": entry.task["max_minutes"]})
    _log(f"{status.state} at step {status.step}" if status else "ended")


def _look_ahead(folder: RunFolder, run: TrainingRun) -> None:
    """Writes down what the run will take and how the vocabulary fits; `NoRoom` where its checkpoints do not."""
    from textgen.text.importing import vocabulary_fit

    folder.write_status("preparing", stage="timing")
    tokenizer = run.corpus.tokenizer
    fit = vocabulary_fit(tokenizer, [tokenizer.decode(run.corpus.train.ids[:_FITTED_TOKENS].tolist())])
    estimate = run.estimate()
    asked = run.settings.text.vocab_size
    pieces = {"had": tokenizer.vocab_size, "asked": asked} if run.corpus.note and tokenizer.vocab_size < asked else None
    folder.write_about(estimate=asdict(estimate), fit=asdict(fit), pieces=pieces)
    if estimate.free_bytes is not None and not estimate.fits_on_disk:
        raise NoRoom(estimate.free_bytes, estimate.training.disk_bytes)


class _Preparing:
    """Tells in status.json how far the preparation is, and ends it when that is asked."""

    def __init__(self, folder: RunFolder, watch: _Watch) -> None:
        self._folder = folder
        self._watch = watch
        self._due: dict[str, float] = {}

    def __call__(self, progress: Progress) -> None:
        if self._watch.asked is not None:
            raise _Asked
        now = time.monotonic()
        if now >= self._due.get(progress.stage, 0.0):
            self._due = {progress.stage: now + _PROGRESS_SECONDS}
            details: dict[str, Any] = {"stage": progress.stage, "done": progress.done, "total": progress.total}
            self._folder.write_status("preparing", **details, unit=progress.unit)


def _log(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
