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
from textgen.errors import CannotWrite, InvalidSetting, NoRoom, NotFound, TextgenError
from textgen.files import explain_write_errors, folder_bytes, write_atomically
from textgen.jobs.dispatcher import Dispatcher, leave_queue
from textgen.jobs.fetched import FetchedModels
from textgen.jobs.launcher import Launcher, kill_process
from textgen.jobs.people import EVERYBODY, Person
from textgen.jobs.run_folders import RunFolders
from textgen.jobs.run_status import ACTIVE_STATES, RESUMABLE_STATES, RunState
from textgen.jobs.run_view import RunView
from textgen.jobs.store import QueueEntry, QueueStore
from textgen.jobs.titles import checked_title, free_title, is_taken, tidy_title
from textgen.limits import Limits

_QUEUE = "queue.sqlite3"


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
        self._shared_titles = shared_titles
        self._wall_clock = wall_clock
        self.fetched = FetchedModels(self.root, wall_clock=wall_clock)
        self._folders = RunFolders(self.root, limits=self.limits, wall_clock=wall_clock)
        self._store = open_queue(self.root, self.limits, wall_clock=wall_clock)
        niceness = self.limits.training_niceness if niceness is None else niceness
        self._launcher = Launcher(limits=self.limits, threads=threads, niceness=niceness)
        self._dispatcher = Dispatcher(
            self._folders,
            self._store,
            self._launcher,
            device=lambda: self.device,
            attended=attended,
            limits=self.limits,
            wall_clock=wall_clock,
        )

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
        folder = self._folders.folder(run_id)
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
            self._dispatcher.enqueue(folder, person.key, {})
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
        views = (self._view(name, entries, waiting) for name in self._folders.names())
        mine = [view for view in views if view is not None and person.owns(view.owner)]
        return sorted(mine, key=lambda view: (view.created, view.run_id), reverse=True)

    def view(self, run_id: str, person: Person = EVERYBODY) -> RunView:
        """A run as it is now; `NotFound` for another person's as for one that does not exist."""
        if run_id in self._folders.names():
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
        self._folders.sweep()
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
        self._dispatcher.enqueue(view.folder, view.owner, {"longer": longer} if longer else {}, view.status)
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
        self._dispatcher.dispatch()

    def prepare(self, run_id: str) -> None:
        """Lets a process read the text of a run that waits; it then waits again. Nothing happens to any other run."""
        self._dispatcher.prepare(run_id)

    def recover(self) -> None:
        """After a crash: queues again what waits by its own account, and deletes what was being discarded.

        Where runs are attended nobody is there any more who would train what waits: it is interrupted.
        """
        self._dispatcher.recover()

    @property
    def is_busy(self) -> bool:
        """Whether anything waits or trains."""
        return bool(self._store.entries())

    def person_bytes(self, person: Person) -> int:
        """What a person's runs and fetched models take on the disk."""
        runs = sum(folder_bytes(view.folder.path) for view in self.runs(person))
        return runs + self.fetched.person_bytes(person)

    def _view(self, run_id: str, entries: dict[str, QueueEntry], waiting: Sequence[str]) -> RunView | None:
        folder = self._folders.folder(run_id)
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
        if self._folders.is_stale(status):
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
            waits_for_room=run_id in waiting and self._folders.free_bytes() < self.limits.min_free_disk_bytes,
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
        free = self._folders.free_bytes()
        if free < self.limits.min_free_disk_bytes:
            raise NoRoom(free, self.limits.min_free_disk_bytes)

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

    def _end(self, run_id: str, person: Person, verb: str, state: RunState) -> None:
        view = self.view(run_id, person)
        entry = self._store.entry(run_id)
        if self._store.cancel(run_id) or (entry is None and view.status.state == "queued"):
            leave_queue(view.folder, view.status, state)
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

    def _interrupt_command_line(self, view: RunView) -> None:
        """A run that `textgen train` trains stops as by Ctrl-C."""
        identity = view.status.identity
        process = identity.process() if identity and identity.is_here else None
        if process is not None and process.pid != os.getpid():
            with suppress(psutil.Error):
                process.send_signal(signal.SIGINT)

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
                title = str(self._folders.folder(entry.run_id).read_about().get("title") or entry.run_id)
                allowed = "one that no waiting run starts from"
                raise InvalidSetting(field, f"one that “{title}” is to start from", allowed)

    def _starts_from(self, run_id: str, base: Path) -> bool:
        """Whether a run needs the folder `base` and has not begun yet."""
        folder = self._folders.folder(run_id)
        try:
            settings = folder.settings()
        except TextgenError:
            return False
        asked = [name for name in (settings.base, *settings.teachers) if name is not None]
        return not folder.last.exists() and any(Path(name).is_relative_to(base) for name in asked)


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
