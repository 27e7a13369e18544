"""How events get from the engine's thread to whoever asked, who may wait in a thread, in an event loop, or be gone."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING

from textgen.engine.requests import BeamsEvent, Event, FinishedEvent

if TYPE_CHECKING:
    from textgen.engine.engine import Engine

_Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]


class Mailbox:
    """The events of one stream between two threads. Putting never waits: the engine must not stand still for a reader.

    It is bounded by the request's length all the same: one event for a token, and of unread snapshots of beams, which
    are long, only `max_unread_beams` are kept, the newest replacing the one before.
    """

    max_unread_beams = 32

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._events: deque[Event] = deque()
        self._error: Exception | None = None
        self._ended = False  # nothing will be put any more
        self._waiter: _Waiter | None = None
        self._reader: weakref.ref[GenerationStream] | None = None
        self.cancelled = False

    def read_by(self, stream: GenerationStream) -> None:
        """Ties the mailbox to its reader without keeping the reader alive."""
        self._reader = weakref.ref(stream)

    @property
    def wanted(self) -> bool:
        """Whether anyone still waits for events: the reader is there and has not cancelled."""
        return not self.cancelled and self._reader is not None and self._reader() is not None

    @property
    def unread(self) -> int:
        """How many events are there to be taken without waiting."""
        return len(self._events)

    def put(self, event: Event) -> None:
        with self._changed:
            if self.unread >= self.max_unread_beams and isinstance(event, BeamsEvent):
                self._events.pop()
            self._events.append(event)
            self._ended = isinstance(event, FinishedEvent)
            self._wake()

    def fail(self, error: Exception) -> None:
        """Ends the stream with an error, raised to the reader after the events that came before it."""
        with self._changed:
            self._error = error
            self._ended = True
            self._wake()

    def take(self) -> Event | None:
        """The next event, waiting for it in this thread; None after the last. Raises the error that ended it."""
        with self._changed:
            while not self._events and not self._ended:
                self._changed.wait()
            return self._next()

    def take_or_wait(self, loop: asyncio.AbstractEventLoop) -> tuple[Event | None, asyncio.Future[None] | None]:
        """The same for an event loop: where nothing is there yet, a future of `loop` that is done when something is."""
        with self._changed:
            if self._events or self._ended:
                return self._next(), None
            future: asyncio.Future[None] = loop.create_future()
            self._waiter = (loop, future)
            return None, future

    def _next(self) -> Event | None:
        if self._events:
            return self._events.popleft()
        error, self._error = self._error, None
        if error is not None:
            raise error
        return None

    def _wake(self) -> None:
        self._changed.notify_all()
        waiter, self._waiter = self._waiter, None
        if waiter is None:
            return
        loop, future = waiter
        try:
            loop.call_soon_threadsafe(_resolve, future)
        except RuntimeError:  # the loop was closed: nobody waits in it any more
            self.cancelled = True


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():  # the waiting task may have been cancelled
        future.set_result(None)


class GenerationStream:
    """The events of one request, to be iterated over by one reader, with `for` or `async for`.

    The last event is a `FinishedEvent`, also after `cancel` or past the deadline; if the model's step failed, the error
    is raised in its place. Used as a context manager, leaving it cancels. A stream that is dropped without being read
    to its end is cancelled too.
    """

    def __init__(self, engine: Engine, mailbox: Mailbox, seed: int) -> None:
        self._engine = engine  # an engine with streams must not be collected
        self._mailbox = mailbox
        self._seed = seed
        mailbox.read_by(self)

    @property
    def seed(self) -> int:
        """The seed in use: the request's, or the one drawn for it."""
        return self._seed

    def cancel(self) -> None:
        """Frees the rows before the model's next step; from any thread, any number of times, without waiting."""
        self._mailbox.cancelled = True

    def __iter__(self) -> GenerationStream:
        return self

    def __next__(self) -> Event:
        event = self._mailbox.take()
        if event is None:
            raise StopIteration
        return event

    def __aiter__(self) -> GenerationStream:
        return self

    async def __anext__(self) -> Event:
        loop = asyncio.get_running_loop()
        while True:
            event, waiting = self._mailbox.take_or_wait(loop)
            if waiting is not None:
                await waiting
            elif event is None:
                raise StopAsyncIteration
            else:
                return event

    def __enter__(self) -> GenerationStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()

    async def __aenter__(self) -> GenerationStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()
