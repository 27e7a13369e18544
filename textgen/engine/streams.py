"""How events get from the engine's thread to whoever asked, who may wait in a thread, in an event loop, or be gone."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from textgen.engine.requests import BeamsEvent, Event, FinishedEvent, TokenEvent, TokenScore
from textgen.engine.snapshots import Snapshot

if TYPE_CHECKING:
    from textgen.engine.engine import Engine

_Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]


class Mailbox:
    """The events of one stream between two threads. Putting never waits: the engine must not stand still for a reader.

    It is bounded by the request's length all the same: one event for a token, and of unread snapshots of beams, which
    are long, only `max_unread_beams` are kept, the newest replacing the one before.

    Waking a thread costs the one that wakes it as much as choosing a token. A reader who has read everything therefore
    naps for `nap_seconds` before it waits to be woken: of a fast stream it then finds several events at once.
    """

    max_unread_beams = 32
    nap_seconds = 0.02

    def __init__(self, *, backend_name: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self.backend_name = backend_name
        self.asked = clock()  # when its text was asked for
        self._clock = clock
        self._began: float | None = None
        self._changed_at = 0.0
        self._changed = threading.Condition()
        self._events: deque[Event] = deque()
        self._error: Exception | None = None
        self._ended = False  # nothing will be put any more
        self._asleep = 0  # readers that wait to be woken
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

    @property
    def writing_seconds(self) -> float:
        """From when its text was read to the last event that was put."""
        return 0.0 if self._began is None else max(0.0, self._changed_at - self._began)

    def begin(self) -> None:
        """The text is read, and writing begins."""
        self._began = self._changed_at = self._clock()

    def put(self, event: Event) -> None:
        self._changed_at = self._clock()
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
            if not self._events and not self._ended:
                self._changed.wait(self.nap_seconds)
            self._asleep += 1
            while not self._events and not self._ended:
                self._changed.wait()
            self._asleep -= 1
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
        if self._asleep or self._ended:
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

    def __init__(
        self,
        engine: Engine,
        mailbox: Mailbox,
        seed: int,
        prompt_ids: Sequence[int],
        start: Snapshot | None = None,
        *,
        adapted: bool = False,
    ) -> None:
        """`adapted`: what writes is a copy of the engine's model, of which nothing will be left."""
        self._engine = engine  # an engine with streams must not be collected
        self._mailbox = mailbox
        self._seed = seed
        self._prompt_ids = tuple(prompt_ids)
        self._start = start
        self._adapted = adapted
        self._new_ids: dict[int, list[int]] = {}  # what has been read of each sample
        mailbox.read_by(self)

    @property
    def seed(self) -> int:
        """The seed in use: the request's, or the one drawn for it."""
        return self._seed

    @property
    def backend_name(self) -> str:
        """For people: what runs the model for this request."""
        return self._mailbox.backend_name

    @property
    def writing_seconds(self) -> float:
        """How long writing took so far, without reading: up to the newest event, whether it has been taken or not."""
        return self._mailbox.writing_seconds

    def cancel(self) -> None:
        """Frees the rows before the model's next step; from any thread, any number of times, without waiting."""
        self._mailbox.cancelled = True

    def snapshot(self, sample: int = 0) -> Snapshot:
        """The place in the text after the last token that was read from this stream, of the `sample`-th sample.

        Waits for it; most of the text is still remembered. In a beam search it is the best hypothesis. Continue from it
        with `GenerationRequest.start`; raises as `Engine.snapshot`.
        """
        return self._engine.snapshot((*self._prompt_ids, *self._new_ids.get(sample, ())), start=self._start)

    def score(self, token_ids: Sequence[int], *, top_logprobs: int = 0) -> tuple[TokenScore, ...]:
        """What the model thinks of each of `token_ids` as new tokens of this stream; nothing if it was adapted for it.

        Waits for the answer; raises as `Engine.score`.
        """
        if self._adapted or not token_ids:
            return ()
        start = self._engine.snapshot(self._prompt_ids, start=self._start) if self._prompt_ids else self._start
        return self._engine.score(token_ids, top_logprobs=top_logprobs, start=start)

    def _take_note(self, event: Event) -> Event:
        if isinstance(event, TokenEvent):
            self._new_ids.setdefault(event.sample, []).append(event.token_id)
        elif isinstance(event, BeamsEvent) and event.hypotheses:
            self._new_ids[0] = list(event.hypotheses[0].token_ids)
        elif isinstance(event, FinishedEvent):
            self._new_ids = {place: list(found.token_ids) for place, found in enumerate(event.hypotheses)}
        return event

    def __iter__(self) -> GenerationStream:
        return self

    def __next__(self) -> Event:
        event = self._mailbox.take()
        if event is None:
            raise StopIteration
        return self._take_note(event)

    def __aiter__(self) -> GenerationStream:
        return self

    async def __anext__(self) -> Event:
        loop = asyncio.get_running_loop()
        if not self._mailbox.unread:
            await asyncio.sleep(self._mailbox.nap_seconds)
        while True:
            event, waiting = self._mailbox.take_or_wait(loop)
            if waiting is not None:
                await waiting
            elif event is None:
                raise StopAsyncIteration
            else:
                return self._take_note(event)

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
