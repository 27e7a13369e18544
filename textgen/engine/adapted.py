"""Requests that learn from their prompt first, each in a private copy of the model (dynamic evaluation)."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from textgen.engine.requests import GenerationRequest
from textgen.engine.scheduler import Clock, Scheduler
from textgen.engine.statistics import EngineStatistics
from textgen.engine.tasks import GenerationTask
from textgen.engine.torch_backend import TorchBackend
from textgen.limits import Limits
from textgen.model.adaptation import adapt
from textgen.model.language_model import LanguageModel


class AdaptedRun:
    """A thread that adapts what `source` gives to a request's prompt, answers the request and forgets what it learned.

    `done` is called in that thread at its end.
    """

    def __init__(
        self,
        source: Callable[[], LanguageModel],
        request: GenerationRequest,
        task: GenerationTask,
        *,
        limits: Limits,
        clock: Clock,
        statistics: EngineStatistics,
        done: Callable[[AdaptedRun], None],
    ) -> None:
        self._source = source
        self._request = request
        self._task = task
        self._limits = limits
        self._clock = clock
        self._statistics = statistics
        self._done = done
        self._closed = threading.Event()
        self._scheduler: Scheduler | None = None
        self._thread = threading.Thread(target=self._work, name="textgen-adapted", daemon=True)

    def start(self) -> threading.Thread:
        """Begins; the thread returned may be waited for."""
        self._thread.start()
        return self._thread

    def close(self) -> None:
        """Makes the request end as cancelled."""
        self._closed.set()
        if self._scheduler is not None:
            self._scheduler.close()

    def _work(self) -> None:
        try:
            self._run()
        except Exception as error:
            self._statistics.ended("error")
            self._task.fail(error)
        finally:
            self._done(self)

    def _run(self) -> None:
        settings = self._request.adaptation
        assert settings is not None
        model = adapt(self._source(), np.array(self._request.context_ids), settings, wanted=self._goes_on)
        # Adapted weights are used once: graphs of them would take longer to make than the text.
        backend = TorchBackend(model, model.embedding.device)
        self._task.mailbox.backend_name = backend.name
        scheduler = Scheduler(backend, limits=self._limits, clock=self._clock, statistics=self._statistics)
        scheduler.submit(self._task)  # before anyone can close it
        self._scheduler = scheduler
        if self._closed.is_set():
            scheduler.close()
        scheduler.run(until_idle=True)

    def _goes_on(self) -> bool:
        return self._task.wanted and not self._closed.is_set() and self._clock() < self._task.deadline
