"""The engine: one thread for one model, any number of requests."""

from __future__ import annotations

import secrets
import threading
import time
import weakref
from types import TracebackType

import torch

from textgen.engine.backends import Backend, TorchBackend
from textgen.engine.requests import GenerationRequest
from textgen.engine.scheduler import Clock, Scheduler
from textgen.engine.streams import GenerationStream, Mailbox
from textgen.errors import EngineClosed
from textgen.limits import Limits
from textgen.model.language_model import LanguageModel


class Engine:
    """Generates for many people at once with one model. It sees token ids only.

    `model` is a `LanguageModel`, which is moved to `device` and run by the reference backend, or a backend. `clock`
    gives seconds and only decides about deadlines. The thread starts with the first request and ends with `close`, at
    the end of a `with`, or when the engine and all its streams have been dropped.
    """

    def __init__(
        self,
        model: LanguageModel | Backend,
        *,
        device: torch.device | str = "cpu",
        limits: Limits = Limits(),
        clock: Clock = time.monotonic,
    ) -> None:
        self._backend: Backend = TorchBackend(model, device) if isinstance(model, LanguageModel) else model
        self._limits = limits
        self._scheduler = Scheduler(self._backend, limits=limits, clock=clock)
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        # The thread holds the scheduler, not the engine, so that an engine nobody closed can be collected.
        weakref.finalize(self, self._scheduler.close)

    @property
    def backend_name(self) -> str:
        return self._backend.name

    @property
    def live_rows(self) -> int:
        """Rows of state taken by the requests that are running."""
        return self._scheduler.live_rows

    @property
    def waiting_requests(self) -> int:
        """Requests that wait for rows."""
        return self._scheduler.waiting_requests

    def submit(self, request: GenerationRequest) -> GenerationStream:
        """Starts a request, from any thread, without waiting for it.

        Raises `InvalidSetting` for what the model or the limits do not allow, `Busy` when too many are waiting, and
        `EngineClosed`.
        """
        request.check(vocab_size=self._backend.vocab_size, limits=self._limits)
        given = request.settings.seed
        # Short enough to be read out, typed in and carried through a browser's numbers unchanged.
        seed = secrets.randbits(32) if given is None else given
        mailbox = Mailbox()
        stream = GenerationStream(self, mailbox, seed)
        with self._starting:
            if self._closed:
                raise EngineClosed()
            self._scheduler.submit(request, seed=seed, mailbox=mailbox)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=_work, args=(self._scheduler,), name="textgen-engine", daemon=True
                )
                self._thread.start()
        return stream

    def close(self) -> None:
        """Ends all requests with "cancelled" and waits for the step that is running; harmless when repeated."""
        with self._starting:
            self._closed = True
            self._scheduler.close()
            thread = self._thread
        if thread is not None:
            thread.join()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _work(scheduler: Scheduler) -> None:
    with torch.inference_mode():
        scheduler.run()
