"""Training where a GPU is lent for moments only: a run goes on for as long as somebody stays with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path

from textgen.errors import NotFound, TextgenError
from textgen.jobs.manager import JobManager
from textgen.jobs.people import Person
from textgen.jobs.run_view import RunView
from textgen.limits import Limits

# Trains the run of that id in that folder of runs for a while; it then waits again, or has ended.
TrainSlice = Callable[[Path, str, Limits], None]

_LOOK_SECONDS = 0.5


class AttendedTraining:
    """Trains runs of `jobs` by `train_slice`, one slice after the other."""

    def __init__(
        self, jobs: JobManager, train_slice: TrainSlice, *, wait: Callable[[float], None] = time.sleep
    ) -> None:
        self._jobs = jobs
        self._train_slice = train_slice
        self._wait = wait

    def follow(self, run_id: str, person: Person) -> Generator[RunView, None, None]:
        """Trains a run that waits, up to its end; each view that is given is of a run that is saved.

        Whoever stops asking for more leaves it paused, and so does an error of `train_slice`, which is raised. A run
        that does not wait is left alone.
        """
        if self._jobs.view(run_id, person).state != "queued":
            return
        try:
            yield from self._prepare(run_id, person)
            before = None
            # A slice that says nothing has not found it in the queue, and no other would.
            while (view := self._jobs.view(run_id, person)).state == "queued" and view.status != before:
                before = view.status
                yield view
                # Meanwhile somebody may have paused it.
                if self._jobs.view(run_id, person).state == "queued":
                    self._train_slice(self._jobs.root, run_id, self._jobs.limits)
            yield view
        except TextgenError:
            # Somebody may have discarded it, which ends its slice.
            with suppress(NotFound):
                self._jobs.view(run_id, person)
                raise
        finally:
            self._leave(run_id, person)

    def _prepare(self, run_id: str, person: Person) -> Iterator[RunView]:
        """Has the text of a run that has not begun read by a process of its own, for which no GPU is needed."""
        if self._jobs.view(run_id, person).folder.last.exists():
            return
        self._jobs.prepare(run_id)
        while (view := self._jobs.view(run_id, person)).state == "preparing":
            yield view
            self._wait(_LOOK_SECONDS)

    def _leave(self, run_id: str, person: Person) -> None:
        with suppress(TextgenError):
            if self._jobs.view(run_id, person).state in ("queued", "preparing"):
                self._jobs.pause(run_id, person)
