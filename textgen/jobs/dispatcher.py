"""Which runs train now: workers are started for what waits in the queue, and what dead ones have left is tidied up."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from textgen.errors import CannotStart
from textgen.jobs.launcher import Launcher
from textgen.jobs.run_folder import RunFolder
from textgen.jobs.run_folders import RunFolders
from textgen.jobs.run_status import ACTIVE_STATES, RunState, RunStatus
from textgen.jobs.store import QueueEntry, QueueStore
from textgen.limits import Limits


class Dispatcher:
    """Lets `launcher` train on `device` the runs of `folders` that wait in `store`, within `limits`.

    Where runs are `attended` none is started here. Any number of dispatchers share a queue, and none remembers anything
    that matters.
    """

    def __init__(
        self,
        folders: RunFolders,
        store: QueueStore,
        launcher: Launcher,
        *,
        device: Callable[[], str],
        attended: bool,
        limits: Limits,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._folders = folders
        self._store = store
        self._launcher = launcher
        self._device = device
        self._attended = attended
        self._limits = limits
        self._wall_clock = wall_clock
        self._known_queue = store.identity

    def dispatch(self) -> None:
        """Starts what may start and tidies up after processes that have died. To be called often, from anywhere."""
        identity = self._store.identity
        if identity != self._known_queue and not self._attended:
            self._queue_again()
            self._known_queue = identity
        entries = self._store.entries()
        self._launcher.reap(kept={str(entry.claim) for entry in entries if entry.state == "starting"})
        names = set(self._folders.names()) if entries else set()
        for entry in entries:
            self._look_after(entry, is_there=entry.run_id in names)
        if self._attended:
            return
        max_running = self._limits.max_runs_training_per_device
        # What waits goes on waiting while a run could not be saved.
        while self._folders.free_bytes() >= self._limits.min_free_disk_bytes and (
            claimed := self._store.claim(self._device(), max_running=max_running)
        ):
            self._start(claimed)

    def prepare(self, run_id: str) -> None:
        """Lets a process read the text of a run that waits; it then waits again. Nothing happens to any other run."""
        entry = self._store.claim_run(run_id)
        if entry is not None:
            self._start(entry, only_prepare=True)

    def recover(self) -> None:
        """After a crash: queues again what waits by its own account, and deletes what was being discarded.

        Where runs are attended nobody is there any more who would train what waits: it is interrupted.
        """
        self._queue_again()
        self._folders.sweep()
        self.dispatch()

    def enqueue(self, folder: RunFolder, owner: str, task: dict[str, Any], before: RunStatus | None = None) -> None:
        """Lets a run wait for a worker that is to do `task`; where that fails it is as `before`."""
        details = {name: before.details[name] for name in ("step", "progress") if before and name in before.details}
        if before is not None:
            details["before"] = before.state if before.state not in ACTIVE_STATES else "interrupted"
        folder.write_status("queued", **details, task=task)
        try:
            self._add(folder, owner, task)
        except BaseException:
            if before is not None:
                folder.replace_status(before)
            raise

    def _add(self, folder: RunFolder, owner: str, task: dict[str, Any], *, bounded: bool = True) -> None:
        self._store.add(
            folder.path.name,
            owner=owner,
            device=self._device(),
            task={**task, "max_minutes": self._limits.max_run_minutes},
            max_of_owner=self._limits.max_queued_runs_per_person if bounded else sys.maxsize,
            max_of_all=self._limits.max_queued_runs if bounded else sys.maxsize,
        )

    def _queue_again(self) -> None:
        """Every run that waits by its own account, but not in the queue; where runs are attended it is interrupted."""
        queued = {entry.run_id for entry in self._store.entries()}
        for name in self._folders.names():
            folder = self._folders.folder(name)
            status = folder.read_status()
            if status is None or status.state != "queued":
                continue
            if self._attended:
                self._store.cancel(name)
                leave_queue(folder, status, "interrupted")
            elif name not in queued:
                owner = str(folder.read_about().get("owner", ""))
                # It was let in once, perhaps when more were.
                self._add(folder, owner, dict(status.details.get("task") or {}), bounded=False)

    def _start(self, entry: QueueEntry, *, only_prepare: bool = False) -> None:
        folder, claim = self._folders.folder(entry.run_id), str(entry.claim)
        try:
            self._launcher.start(folder, claim, only_prepare=only_prepare)
        except OSError as error:
            if self._store.give_up_start(entry.run_id, claim) == "failed":
                folder.write_failure(CannotStart(error.strerror or str(error)))

    def _look_after(self, entry: QueueEntry, *, is_there: bool) -> None:
        claim, expired = str(entry.claim), entry.has_expired(self._wall_clock())
        if not is_there:
            if entry.state == "waiting":
                self._store.cancel(entry.run_id)
            elif expired:
                self._store.release(entry.run_id, claim)
        elif entry.state == "starting" and (expired or self._launcher.has_ended(claim)):
            if self._store.give_up_start(entry.run_id, claim) == "failed":
                self._folders.folder(entry.run_id).write_failure(CannotStart("its process ended at once, see log.txt"))
        elif entry.state == "running" and entry.process is not None:
            here = entry.process.is_here
            if (here and entry.process.process() is None) or (not here and expired):
                self._bury(entry)

    def _bury(self, entry: QueueEntry) -> None:
        """Takes a dead worker's run out of the queue; one that it had not touched yet waits again."""
        folder, claim = self._folders.folder(entry.run_id), str(entry.claim)
        status = folder.read_status()
        if status is None or status.state != "queued":
            self._store.release(entry.run_id, claim)
        elif self._store.give_up_start(entry.run_id, claim) == "failed":
            folder.write_failure(CannotStart("its process ended at once, see log.txt"))


def leave_queue(folder: RunFolder, status: RunStatus, state: RunState) -> None:
    """A run that waited is as it was before, where that is worth more than `state`."""
    details = {name: value for name, value in status.details.items() if name in ("step", "progress")}
    before = status.details.get("before")
    kept = before if before == "finished" or (before and state != "stopped") else state
    folder.write_status(kept, **details)
