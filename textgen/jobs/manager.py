"""Runs as people see them: started, followed, paused, taken up again. Neither torch nor the worker is imported here.

Any number of managers (of servers, workers, command lines) share one folder of runs. None of them remembers anything
that matters: what it says is read from the folders and the queue.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from textgen.config import RunSettings, update_settings
from textgen.errors import CannotStart, CannotWrite, InvalidSetting, NoRoom, NotFound, TextgenError
from textgen.files import explain_write_errors, folder_bytes, is_file, write_atomically
from textgen.jobs.fetched import FetchedModels
from textgen.jobs.launcher import Launcher, kill_process
from textgen.jobs.people import EVERYBODY, Person
from textgen.jobs.run_folder import RunFolder
from textgen.jobs.run_status import ACTIVE_STATES, RESUMABLE_STATES, RunState, RunStatus
from textgen.jobs.run_view import RunView
from textgen.jobs.store import QueueEntry, QueueStore
from textgen.jobs.titles import checked_title, free_title, is_taken, tidy_title
from textgen.limits import Limits

_QUEUE = "queue.sqlite3"
_GONE = ".gone-"


class JobManager:
    """The runs in the folder `root`, trained on `device` ("cpu", "cuda:0", …), each with `threads` of the processor.

    A function that tells the device is asked when something is to be trained: finding out may take seconds. `niceness`
    is that of `limits` when it is not given. Where runs are `attended` no process is started to train them: they wait
    until somebody does, see `AttendedTraining`. `shared_titles` tells what the models of everybody are called, by their
    names.
    """

    def __init__(
        self,
        root: Path,
        *,
        device: str | Callable[[], str],
        limits: Limits | None = None,
        threads: int | None = None,
        niceness: int | None = None,
        attended: bool = False,
        shared_titles: Callable[[], Mapping[str, str]] = dict,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.root = root.absolute()
        self.limits = limits or Limits()
        self._device = device
        self._attended = attended
        self._shared_titles = shared_titles
        self._wall_clock = wall_clock
        self.fetched = FetchedModels(self.root, wall_clock=wall_clock)
        self._store = open_queue(self.root, self.limits, wall_clock=wall_clock)
        self._known_queue = self._store.identity
        niceness = self.limits.training_niceness if niceness is None else niceness
        self._launcher = Launcher(limits=self.limits, threads=threads, niceness=niceness)

    @property
    def device(self) -> str:
        """What runs are trained on."""
        return self._device if isinstance(self._device, str) else self._device()

    def submit(
        self,
        settings: RunSettings,
        *,
        person: Person = EVERYBODY,
        title: str = "",
        texts: Path | None = None,
        about: dict[str, Any] | None = None,
    ) -> str:
        """Queues a new run and returns its id; `texts` is a folder that becomes the run's own.

        `settings.files` may name files in `texts`; they are then found in the run. Without a title it is called as the
        first file, and with a number behind where that is taken. Raises `InvalidSetting` or `NoRoom` before anything is
        written; nothing of a run stays whose submission failed.
        """
        settings.training.check_budget()
        if not settings.files:
            raise InvalidSetting("files", "none", "at least one text file")
        self._check_budget(settings)
        self.check_room(person)
        run_id = new_run_id(self._wall_clock())
        folder = self._folder(run_id)
        most = self.limits.max_run_title_chars
        title = title if title.strip() else tidy_title(Path(settings.files[0]).stem, most, otherwise=run_id)
        title = self.free_title(checked_title(title, most), person)
        try:
            if texts is not None:
                with explain_write_errors(folder.path):
                    folder.path.mkdir(parents=True)
                os.replace(texts, folder.texts)
                settings = _moved(settings, texts, folder.texts)
            folder.write_settings(settings)
            folder.write_about(title=title, owner=person.key, created=self._wall_clock(), **(about or {}))
            self._enqueue(folder, person.key, {})
        except BaseException:
            if texts is not None and folder.texts.exists():
                os.replace(folder.texts, texts)
            shutil.rmtree(folder.path, ignore_errors=True)
            raise
        self.dispatch()
        return run_id

    def runs(self, person: Person = EVERYBODY) -> list[RunView]:
        """All runs of a person, the newest first."""
        entries = {entry.run_id: entry for entry in self._store.entries()}
        waiting = [entry.run_id for entry in entries.values() if entry.state == "waiting"]
        views = (self._view(name, entries, waiting) for name in self._names())
        mine = [view for view in views if view is not None and person.owns(view.owner)]
        return sorted(mine, key=lambda view: (view.created, view.run_id), reverse=True)

    def view(self, run_id: str, person: Person = EVERYBODY) -> RunView:
        """A run as it is now; `NotFound` for another person's as for one that does not exist."""
        if run_id in self._names():
            entries = {entry.run_id: entry for entry in self._store.entries()}
            waiting = [entry.run_id for entry in entries.values() if entry.state == "waiting"]
            view = self._view(run_id, entries, waiting)
            if view is not None and person.owns(view.owner):
                return view
        raise NotFound("run", run_id, ", ".join(view.run_id for view in self.runs(person)[:5]))

    def pause(self, run_id: str, person: Person = EVERYBODY) -> None:
        """Lets a run end after its current step, saved, to be resumed; one that waits no longer does."""
        self._end(run_id, person, "pause", "paused")

    def stop(self, run_id: str, person: Person = EVERYBODY) -> None:
        """Ends a run after its current step and keeps what it has learned."""
        self._end(run_id, person, "stop", "stopped")

    def discard(self, run_id: str, person: Person = EVERYBODY) -> None:
        """Deletes a run with everything it has learned, also while it trains.

        `InvalidSetting` while another one waits to start from it.
        """
        view = self.view(run_id, person)
        self._check_unneeded(view.folder.path, "run")
        # Flagged first: a server that dies now must not leave half a run to be seen.
        write_atomically(view.folder.discarded, b"", make_folder=False)
        # A worker that is about to begin finds its claim gone.
        try:
            entry = self._store.remove(run_id)
        except CannotWrite:
            # On a full disk something must be deleted before anything can be written; `dispatch` takes the row out.
            entry = self._store.entry(run_id)
        processes = [
            entry.process if entry else None,
            view.status.identity if view.status.state in ACTIVE_STATES else None,
        ]
        for identity in filter(None, processes):
            kill_process(identity)
        self._sweep()
        self.dispatch()

    def resume(self, run_id: str, person: Person = EVERYBODY, *, longer: dict[str, Any] | None = None) -> None:
        """Queues a run that was interrupted, paused or stopped, or has failed: it goes on as if it had never ended.

        `longer`, a budget such as {"minutes": 5.0}, lets also a finished run train on.
        """
        view = self.view(run_id, person)
        # The row of a worker that was killed just now would stand for the new task.
        self.dispatch()
        allowed = RESUMABLE_STATES | {"finished"} if longer else RESUMABLE_STATES
        if view.state not in allowed:
            raise InvalidSetting("run", f"one that is {view.state}", f"one that is {', '.join(sorted(allowed))}")
        self._check_disk()
        self._check_time(view, float((longer or {}).get("minutes") or 0.0))
        with explain_write_errors(view.folder.control):
            view.folder.control.unlink(missing_ok=True)
        self._enqueue(view.folder, view.owner, {"longer": longer} if longer else {}, view.status)
        self.dispatch()

    def move(self, run_id: str, by: int, person: Person = EVERYBODY) -> bool:
        """Lets a waiting run change places: -1 is forward. People move theirs among their own."""
        view = self.view(run_id, person)
        return self._store.move(view.run_id, by, among_owner=None if person.is_admin else view.owner)

    def rename(self, run_id: str, title: str, person: Person = EVERYBODY) -> None:
        """Gives a run another title.

        Raises `NotFound`, and `InvalidSetting` for one of no or too many characters or of unseen ones, and for one that
        another model or run of the person has.
        """
        self.view(run_id, person).folder.write_about(title=self._checked_title(title, run_id, person))

    def remove_model(self, name: str, person: Person = EVERYBODY) -> None:
        """Deletes a model that was brought from elsewhere; raises as `discard`."""
        self.fetched.check_own(name, person)
        self._check_unneeded(self.root / name, "model")
        self.fetched.remove(name, person)

    def rename_model(self, name: str, title: str, person: Person = EVERYBODY) -> None:
        """Gives a model that was brought from elsewhere another title; raises as `rename`."""
        self.fetched.check_own(name, person)
        self.fetched.rename(name, self._checked_title(title, name, person), person)

    def free_title(self, title: str, person: Person = EVERYBODY) -> str:
        """A title for a run or a model that is to come, with a number behind it where the person sees that already."""
        return free_title(title, self._titles(person).values(), self.limits.max_run_title_chars)

    def run_beside(self, command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
        """Runs something short as nicely as a run trains; raises `subprocess.TimeoutExpired` after `seconds`."""
        return self._launcher.run(command, seconds)

    def dispatch(self) -> None:
        """Starts what may start and tidies up after processes that have died. To be called often, from anywhere."""
        if self._store.identity != self._known_queue and not self._attended:
            self._known_queue = self._store.identity
            self._queue_again()
        entries = self._store.entries()
        self._launcher.reap(kept={str(entry.claim) for entry in entries if entry.state == "starting"})
        for entry in entries:
            self._look_after(entry)
        if self._attended:
            return
        max_running = self.limits.max_runs_training_per_device
        # What waits goes on waiting while a run could not be saved.
        while self._free_bytes() >= self.limits.min_free_disk_bytes and (
            claimed := self._store.claim(self.device, max_running=max_running)
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
        self._sweep()
        self.dispatch()

    def _queue_again(self) -> None:
        """Every run that waits by its own account, but not in the queue; where runs are attended it is interrupted."""
        queued = {entry.run_id for entry in self._store.entries()}
        for name in self._names():
            folder = self._folder(name)
            status = folder.read_status()
            if status is None or status.state != "queued":
                continue
            if self._attended:
                self._store.cancel(name)
                self._leave_queue(folder, status, "interrupted")
            elif name not in queued:
                owner = str(folder.read_about().get("owner", ""))
                self._add(folder, owner, dict(status.details.get("task") or {}))

    @property
    def is_busy(self) -> bool:
        """Whether anything waits or trains."""
        return bool(self._store.entries())

    def person_bytes(self, person: Person) -> int:
        """What a person's runs and fetched models take on the disk."""
        runs = sum(folder_bytes(view.folder.path) for view in self.runs(person))
        return runs + self.fetched.person_bytes(person)

    def _names(self) -> list[str]:
        """The folders of runs: an id is one of these names or it is none, whatever somebody sends."""
        if not self.root.is_dir():
            return []
        children = [path for path in self.root.iterdir() if path.is_dir() and not path.is_symlink()]
        return sorted(path.name for path in children if path.name[0] != "." and is_file(path / "config.json"))

    def _folder(self, run_id: str) -> RunFolder:
        return RunFolder(self.root / run_id, wall_clock=self._wall_clock)

    def _view(self, run_id: str, entries: dict[str, QueueEntry], waiting: Sequence[str]) -> RunView | None:
        folder = self._folder(run_id)
        about, status = folder.read_about(), folder.read_status()
        if status is None or folder.discarded.exists():
            return None
        created = about.get("created")
        if not isinstance(created, (int, float)):
            try:
                created = folder.path.stat().st_mtime
            except OSError:  # discarded just now
                return None
        entry = entries.get(run_id)
        state = status.state
        if self._is_stale(status):
            # Its last words may have come between the two looks.
            status = folder.read_status() or status
            state = "interrupted" if status.state in ACTIVE_STATES else status.state
        elif state == "queued" and entry is not None and entry.state != "waiting":
            state = "preparing"
        return RunView(
            run_id=run_id,
            title=str(about.get("title") or run_id),
            owner=str(about.get("owner", "")),
            created=created,
            state=state,
            status=status,
            position=waiting.index(run_id) + 1 if run_id in waiting else None,
            waits_for_room=run_id in waiting and self._free_bytes() < self.limits.min_free_disk_bytes,
            folder=folder,
        )

    def _check_budget(self, settings: RunSettings) -> None:
        minutes, most = settings.training.minutes, self.limits.max_run_minutes
        if minutes is not None and minutes > most:
            raise InvalidSetting("minutes", minutes, f"at most {most:g}")

    def _check_time(self, view: RunView, longer_minutes: float) -> None:
        used, most = view.folder.trained_minutes(), self.limits.max_run_minutes
        if longer_minutes and used + longer_minutes > most:
            raise InvalidSetting("minutes", longer_minutes, f"at most {max(0.0, most - used):.3g}")
        if used >= most:
            raise InvalidSetting("minutes", f"{used:.3g}", f"below {most:g}")

    def _check_disk(self) -> None:
        free = self._free_bytes()
        if free < self.limits.min_free_disk_bytes:
            raise NoRoom(free, self.limits.min_free_disk_bytes)

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self.root).free

    def check_room(self, person: Person) -> None:
        """Raises `NoRoom`, or `InvalidSetting` where a person keeps as much as anybody may."""
        self._check_disk()
        if person.is_admin:
            return
        kept = len(self.runs(person)) + len(self.fetched.names(person))
        if kept >= self.limits.max_runs_per_person:
            raise InvalidSetting("runs", f"{kept} kept already", f"at most {self.limits.max_runs_per_person}")
        taken = self.person_bytes(person)
        if taken >= self.limits.max_person_bytes:
            raise InvalidSetting(
                "runs", f"{taken / 1e6:,.0f} MB kept already", f"at most {self.limits.max_person_bytes / 1e6:,.0f} MB"
            )

    def _enqueue(self, folder: RunFolder, owner: str, task: dict[str, Any], before: RunStatus | None = None) -> None:
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

    def _add(self, folder: RunFolder, owner: str, task: dict[str, Any]) -> None:
        self._store.add(
            folder.path.name,
            owner=owner,
            device=self.device,
            task={**task, "max_minutes": self.limits.max_run_minutes},
            max_of_owner=self.limits.max_queued_runs_per_person,
            max_of_all=self.limits.max_queued_runs,
        )

    def _end(self, run_id: str, person: Person, verb: str, state: RunState) -> None:
        view = self.view(run_id, person)
        entry = self._store.entry(run_id)
        if self._store.cancel(run_id) or (entry is None and view.status.state == "queued"):
            self._leave_queue(view.folder, view.status, state)
            return
        if view.state in ("paused", "interrupted", "failed") and state == "stopped":
            view.folder.replace_status(replace(view.status, state=state))
            return
        if not view.is_active:
            raise InvalidSetting("run", f"one that is {view.state}", "one that waits or trains")
        if entry is None:
            self._interrupt_command_line(view)
            return
        view.folder.write_control(verb)

    @staticmethod
    def _leave_queue(folder: RunFolder, status: RunStatus, state: RunState) -> None:
        """A run that waited is as it was before, where that is worth more than `state`."""
        details = {name: value for name, value in status.details.items() if name in ("step", "progress")}
        before = status.details.get("before")
        kept = before if before == "finished" or (before and state != "stopped") else state
        folder.write_status(kept, **details)

    def _interrupt_command_line(self, view: RunView) -> None:
        """A run that `textgen train` trains stops as by Ctrl-C."""
        identity = view.status.identity
        process = identity.process() if identity and identity.is_here else None
        if process is not None and process.pid != os.getpid():
            with suppress(psutil.Error):
                process.send_signal(signal.SIGINT)

    def _start(self, entry: QueueEntry, *, only_prepare: bool = False) -> None:
        folder, claim = self._folder(entry.run_id), str(entry.claim)
        try:
            self._launcher.start(folder, claim, only_prepare=only_prepare)
        except OSError as error:
            if self._store.give_up_start(entry.run_id, claim) == "failed":
                folder.write_failure(CannotStart(error.strerror or str(error)))

    def _look_after(self, entry: QueueEntry) -> None:
        claim, expired = str(entry.claim), entry.has_expired(self._wall_clock())
        if entry.run_id not in self._names():
            if entry.state == "waiting":
                self._store.cancel(entry.run_id)
            elif expired:
                self._store.release(entry.run_id, claim)
        elif entry.state == "starting" and (expired or self._launcher.has_ended(claim)):
            if self._store.give_up_start(entry.run_id, claim) == "failed":
                self._folder(entry.run_id).write_failure(CannotStart("its process ended at once, see log.txt"))
        elif entry.state == "running" and entry.process is not None:
            here = entry.process.is_here
            if (here and entry.process.process() is None) or (not here and expired):
                self._bury(entry)

    def _bury(self, entry: QueueEntry) -> None:
        """Takes a dead worker's run out of the queue; one that it had not touched yet waits again."""
        folder, claim = self._folder(entry.run_id), str(entry.claim)
        status = folder.read_status()
        if status is None or status.state != "queued":
            self._store.release(entry.run_id, claim)
        elif self._store.give_up_start(entry.run_id, claim) == "failed":
            folder.write_failure(CannotStart("its process ended at once, see log.txt"))

    def _checked_title(self, title: str, name: str, person: Person) -> str:
        """A title that the run or the model `name` may have."""
        title = checked_title(title, self.limits.max_run_title_chars)
        if is_taken(title, (other for key, other in self._titles(person).items() if key != name)):
            raise InvalidSetting("title", title, "one that no other model or run has")
        return title

    def _titles(self, person: Person) -> dict[str, str]:
        """What is called by a title that a person sees, by its name."""
        runs = {view.run_id: view.title for view in self.runs(person)}
        return {**self._shared_titles(), **self.fetched.titles(person), **runs}

    def _check_unneeded(self, folder: Path, field: str) -> None:
        """`InvalidSetting` for `field` while a run of the queue is to start from what is in the folder."""
        for entry in self._store.entries():
            if entry.run_id != folder.name and self._starts_from(entry.run_id, folder):
                title = str(self._folder(entry.run_id).read_about().get("title") or entry.run_id)
                allowed = "one that no waiting run starts from"
                raise InvalidSetting(field, f"one that “{title}” is to start from", allowed)

    def _starts_from(self, run_id: str, base: Path) -> bool:
        """Whether a run needs the folder `base` and has not begun yet."""
        folder = self._folder(run_id)
        try:
            settings = folder.settings()
        except TextgenError:
            return False
        asked = [name for name in (settings.base, *settings.teachers) if name is not None]
        return not folder.last.exists() and any(Path(name).is_relative_to(base) for name in asked)

    def _sweep(self) -> None:
        """Deletes the folders of discarded runs whose process has ended."""
        for name in self._names():
            folder = self._folder(name)
            if not folder.discarded.exists():
                continue
            status = folder.read_status()
            at_work = status is not None and status.state in ACTIVE_STATES and not self._is_stale(status)
            if not at_work:
                # Out of sight first: half a run must not be taken for a model, or for one that nobody owns.
                with suppress(OSError):
                    os.replace(folder.path, self.root / f"{_GONE}{name}")
        for gone in self.root.glob(f"{_GONE}*"):
            shutil.rmtree(gone, ignore_errors=True)

    def _is_stale(self, status: RunStatus) -> bool:
        return status.is_stale(self._wall_clock(), heartbeat_seconds=self.limits.heartbeat_seconds)


def open_queue(root: Path, limits: Limits, *, wall_clock: Callable[[], float] = time.time) -> QueueStore:
    """The queue of the runs in `root`; raises `CannotWrite`."""
    return QueueStore(
        root / _QUEUE,
        lease_seconds=limits.lease_seconds,
        max_attempts=limits.max_start_attempts,
        wall_clock=wall_clock,
    )


def new_run_id(now: float) -> str:
    """An id that sorts by time and that nobody can guess."""
    return time.strftime("%Y%m%d-%H%M%S-", time.gmtime(now)) + secrets.token_hex(6)


def _moved(settings: RunSettings, old: Path, new: Path) -> RunSettings:
    """Settings whose files are found where the folder `old` has gone."""

    def there(file: str) -> str:
        path = Path(file)
        return str(new / path.relative_to(old)) if path.is_relative_to(old) else file

    files, heldout = (tuple(map(there, names)) for names in (settings.files, settings.heldout_files))
    return update_settings(settings, files=files, heldout_files=heldout)
