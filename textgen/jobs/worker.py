"""The process that trains one run of the queue: `python -m textgen.jobs.worker --runs DIR --run ID --claim CLAIM`.

It outlives whoever started it. What it does stands in the folder of the run; what it is to do comes from the queue and,
while it trains, from control.json. Where a GPU is lent to a process for a while only, that calls `train_slice` instead.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from textgen.errors import Abandoned, CannotWrite, TextgenError
from textgen.files import temporary_folder
from textgen.jobs.manager import JobManager, open_queue
from textgen.jobs.process_identity import ProcessIdentity
from textgen.jobs.run_folder import RunFolder
from textgen.jobs.run_status import RunState
from textgen.jobs.store import QueueEntry, QueueStore
from textgen.jobs.supervision import Supervisor
from textgen.jobs.torchrun import Torchrun, processes_for
from textgen.jobs.unattended import Asked, Preparing, carry_out, log, look_ahead
from textgen.limits import Limits

_LOOK_SECONDS = 0.2
# What the verbs of control.json make of the run.
_STATES: dict[str, RunState] = {"pause": "paused", "stop": "stopped"}
NOT_CLAIMED = 3


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


_Work = Callable[[RunFolder, QueueEntry, _Watch, Limits], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains the run that was claimed; exit status 0, 1 after a failure, 3 when the claim is no longer valid."""
    parser = argparse.ArgumentParser(prog="python -m textgen.jobs.worker")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--claim", required=True)
    parser.add_argument("--limits", type=Limits.from_json, default=Limits())
    parser.add_argument("--niceness", type=int, default=0)
    parser.add_argument("--only-prepare", action="store_true")
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
        return _work(folder, entry, watch, limits, _prepare if options.only_prepare else _train)
    finally:
        watch.close()
        _leave(folder, store, entry)
        if not options.only_prepare:
            _start_next(options.runs, entry.device, limits)


def _start_next(runs: Path, device: str, limits: Limits) -> None:
    """The next one inherits how nice this process is, and trains with as many threads.

    It may be this very run: taken up again after its last word, while its place in the queue was still this process's.
    """
    with suppress(CannotWrite):
        JobManager(runs, device=device, limits=limits, threads=_threads(), niceness=0).recover()


def train_slice(runs: Path, run_id: str, limits: Limits) -> None:
    """Trains a run that waits for `training_slice_seconds`, in this process; unless it has ended it then waits again.

    Nothing happens when it does not wait. What is wrong with the run stands in its folder.
    """
    limits = replace(limits, training_processes=1)
    store, folder = open_queue(runs, limits), RunFolder(runs / run_id)
    claimed = store.claim_run(run_id)
    entry = store.confirm(run_id, str(claimed.claim), ProcessIdentity.current()) if claimed else None
    if entry is None:
        return
    watch = _Watch(folder, store, entry, limits)
    try:
        with folder.log.open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
            _work(folder, entry, watch, limits, partial(_train, most_seconds=limits.training_slice_seconds))
    finally:
        watch.close()
        _leave(folder, store, entry)


def _leave(folder: RunFolder, store: QueueStore, entry: QueueEntry) -> None:
    status = folder.read_status()
    # On a full disk the row stays; whoever looks after the queue next sees that this process has ended.
    with suppress(CannotWrite):
        if status is None or status.state != "queued":
            store.release(entry.run_id, str(entry.claim))
            return
        # It trains longer already, if it was to; whoever has asked for more meanwhile has said so in its status.
        kept = {name: value for name, value in entry.task.items() if name != "longer"}
        store.put_back(entry.run_id, str(entry.claim), {**kept, **(status.details.get("task") or {})})


def _work(folder: RunFolder, entry: QueueEntry, watch: _Watch, limits: Limits, work: _Work) -> int:
    try:
        # At once: whoever finds this process dead must see that there was one.
        before = folder.read_status()
        told = {name: before.details[name] for name in ("step", "progress") if before and name in before.details}
        folder.write_status("preparing", **told)
        folder.keep_reserve()
        work(folder, entry, watch, limits)
    except Asked:
        folder.write_status(watch.asked or "stopped")
    except Exception as error:
        folder.write_failure(error)
        if isinstance(error, TextgenError):
            log(str(error))
        else:
            traceback.print_exc()
        return 1
    return 0


def _prepare(folder: RunFolder, entry: QueueEntry, watch: _Watch, limits: Limits) -> None:
    from textgen.jobs.training_run import prepare_text

    prepare_text(folder.path, limits=limits, progress=Preparing(folder, lambda: watch.asked))
    folder.write_status("queued", task=entry.task)


def _train(
    folder: RunFolder, entry: QueueEntry, watch: _Watch, limits: Limits, *, most_seconds: float = math.inf
) -> None:
    processes = processes_for(folder.settings().training.batch_size, limits.training_processes)
    if processes > 1:
        return _train_together(processes, folder, entry, watch, limits)
    from textgen.config import TrainingBudget, parse_settings
    from textgen.jobs.training_run import resume_run

    longer = parse_settings(TrainingBudget, entry.task["longer"]) if entry.task.get("longer") else None
    preparing = Preparing(folder, lambda: watch.asked)
    device: Any = entry.device
    run = resume_run(folder.path, longer=longer, device=device, limits=limits, progress=preparing)
    watch.attach(run.stop)
    if run.trainer.step == 0:
        look_ahead(run)
    return carry_out(run, watch.ask, max_minutes=float(entry.task["max_minutes"]), most_seconds=most_seconds)


def _train_together(processes: int, folder: RunFolder, entry: QueueEntry, watch: _Watch, limits: Limits) -> None:
    """Lets torchrun start that many processes, and stays to answer for them."""
    torchrun = Torchrun(nproc_per_node=processes)
    arguments = ["--run", str(folder.path.absolute()), "--device", entry.device]
    arguments += ["--limits", limits.to_json(), "--max-minutes", str(float(entry.task["max_minutes"]))]
    if entry.task.get("longer"):
        arguments += ["--longer", json.dumps(entry.task["longer"])]
    with temporary_folder() as own:
        supervisor = Supervisor(own)
        watch.attach(supervisor.stop)
        try:
            supervisor.run(
                torchrun.command("textgen.jobs.rank", arguments), torchrun.environment(os.environ, threads=_threads())
            )
        except Abandoned:
            if watch.asked is None:
                raise
            raise Asked from None


def _threads() -> int | None:
    return int(os.environ.get("OMP_NUM_THREADS") or 0) or None


if __name__ == "__main__":
    sys.exit(main())
