"""Work that takes a while, followed from a handler."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from textgen.errors import Cancelled, TextgenError
from textgen.workshop import FINISHING, Progress, ProgressCallback

_LOGGER = logging.getLogger(__name__)
T = TypeVar("T")
# Of components of the page.
Updates = dict[Any, Any]
_at_work: set[LongWork[Any]] = set()
_at_work_lock = threading.Lock()


class LongWork(Generic[T]):
    """Runs `work` in a thread of its own, which ends by itself also where nobody looks any more.

    Iterating gives how far it is, leaving out what is out of date; after that `result` is what it made. Both raise what
    `work` raised, and `Cancelled` at once when it was cancelled: its thread ends when it next tells how far it is.
    """

    def __init__(self, work: Callable[[ProgressCallback], T], *, name: str) -> None:
        self._told: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()
        self._made: list[T] = []
        self._error: Exception | None = None
        self._work = work
        self._lock = threading.Lock()
        self._cancelled = self._finishing = False
        with _at_work_lock:
            _at_work.add(self)
        threading.Thread(target=self._run, name=name, daemon=True).start()

    @property
    def result(self) -> T:
        """What it made."""
        return self._made[0]

    def cancel(self) -> None:
        """Ends the work, unless its last step has begun."""
        with self._lock:
            if self._finishing:
                return
            self._cancelled = True
        self._told.put(None)

    def __iter__(self) -> Iterator[Progress]:
        while (progress := self._told.get()) is not None:
            if self._told.empty():
                yield progress
        if self._cancelled:
            raise Cancelled()
        if self._error is not None:
            raise self._error

    def _tell(self, progress: Progress) -> None:
        with self._lock:
            if self._cancelled:
                raise Cancelled()
            self._finishing = progress.stage == FINISHING
        self._told.put(progress)

    def _run(self) -> None:
        try:
            self._made.append(self._work(self._tell))
        except Exception as error:
            self._error = error
            if self._cancelled and not isinstance(error, TextgenError):
                # Whoever cancelled is told that, and not what happened after.
                _LOGGER.error("work that was cancelled failed", exc_info=error)
        finally:
            with _at_work_lock:
                _at_work.discard(self)
            self._told.put(None)


def cancel_all() -> None:
    """Ends everybody's work, so that who follows it is told before the server is gone."""
    with _at_work_lock:
        everybodys = list(_at_work)
    for work in everybodys:
        work.cancel()
