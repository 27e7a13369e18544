"""The engine: one thread for one model, any number of requests."""

from __future__ import annotations

import secrets
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType

import torch

from textgen.config import GenerationSettings, parse_settings
from textgen.engine.adapted import AdaptedRun
from textgen.engine.backends import Backend
from textgen.engine.requests import GenerationRequest, TokenScore
from textgen.engine.scheduler import Clock, Scheduler
from textgen.engine.snapshots import Snapshot
from textgen.engine.statistics import EngineStatistics
from textgen.engine.streams import GenerationStream, Mailbox
from textgen.engine.tasks import GenerationTask, SamplingTask, ScoringTask, SearchTask, SnapshotTask
from textgen.engine.token_choice import prepare_chooser
from textgen.engine.torch_backend import TorchBackend
from textgen.errors import EngineClosed, InvalidSetting, LearningElsewhere
from textgen.limits import Limits
from textgen.model.language_model import LanguageModel


class Engine:
    """Generates for many people at once with one model. It sees token ids only.

    `model` is a `LanguageModel`, which is moved to `device` and run by the reference backend, or a backend; then
    `source` gives the model's weights to those requests that adapt a copy of them. `clock` gives seconds: deadlines
    count them, and streams tell how many they took. `statistics` counts what it does, perhaps beside other engines. The
    thread starts with the first request and ends with `close`, at the end of a `with`, or when the engine and all its
    streams have been dropped.
    """

    def __init__(
        self,
        model: LanguageModel | Backend,
        *,
        device: torch.device | str = "cpu",
        source: Callable[[], LanguageModel] | None = None,
        limits: Limits = Limits(),
        clock: Clock = time.monotonic,
        statistics: EngineStatistics | None = None,
    ) -> None:
        if isinstance(model, LanguageModel):
            self._backend: Backend = TorchBackend(model, device)
            self._source: Callable[[], LanguageModel] | None = lambda: model
        else:
            self._backend, self._source = model, source
        self._limits = limits
        self._clock = clock
        self._statistics = statistics or EngineStatistics()
        self._scheduler = Scheduler(self._backend, limits=limits, clock=clock, statistics=self._statistics)
        self._adapted: set[AdaptedRun] = set()
        # A run is forgotten by its own thread, which then still has to let go of its weights.
        self._learners: list[threading.Thread] = []
        self._starting = threading.Lock()
        self._closed = False
        # The thread holds the scheduler, not the engine, so that an engine nobody closed can be collected.
        self._threads: list[threading.Thread] = []
        prepare_chooser()
        weakref.finalize(self, _abandon, self._scheduler, self._adapted, self._threads, self._learners)

    @property
    def backend(self) -> Backend:
        return self._backend

    @property
    def backend_name(self) -> str:
        return self._backend.name

    @property
    def live_rows(self) -> int:
        """Rows of state taken by the requests that are running, but for those that adapt."""
        return self._scheduler.live_rows

    @property
    def live_requests(self) -> int:
        """Requests that are running, those that adapt included."""
        return self._scheduler.live_requests + len(self._adapted)

    @property
    def waiting_requests(self) -> int:
        """Requests that wait for rows."""
        return self._scheduler.waiting_requests

    @property
    def in_use(self) -> bool:
        """Whether anything asked of it is still running or waiting."""
        return bool(self.live_rows or self.waiting_requests or self._adapted)

    def submit(self, request: GenerationRequest) -> GenerationStream:
        """Starts a request, from any thread, without waiting for it.

        Raises `InvalidSetting` for what the model or the limits do not allow, `Busy` when too many are waiting,
        `LearningElsewhere` when too many adapt, and `EngineClosed`.
        """
        self._check(request)
        given = request.settings.seed
        # Short enough to be read out, typed in and carried through a browser's numbers unchanged.
        seed = secrets.randbits(32) if given is None else given
        mailbox = Mailbox(backend_name=self.backend_name, clock=self._clock)
        adapted = request.adaptation is not None
        stream = GenerationStream(self, mailbox, seed, request.prompt_ids, request.start, adapted=adapted)
        kind = SearchTask if request.settings.num_beams > 1 else SamplingTask
        task = kind(request, seed=seed, mailbox=mailbox, deadline=self._deadline())
        if request.adaptation is None:
            self._start(task)
        else:
            self._start_adapted(request, task)
        return stream

    def snapshot(self, token_ids: Sequence[int], *, start: Snapshot | None = None) -> Snapshot:
        """The place at the end of `token_ids`, which follow `start`; waits until they are read.

        Raises `InvalidSetting`, `Busy`, `DeadlineExceeded` and `EngineClosed`.
        """
        self._check(GenerationRequest(tuple(token_ids), GenerationSettings(max_new_tokens=1), start=start))
        context = (*(() if start is None else start.token_ids), *token_ids)
        seconds = self._limits.request_deadline_seconds
        task = SnapshotTask(context, start=start, deadline=self._deadline(), seconds=seconds)
        self._start(task)
        snapshot: Snapshot = task.future.result()
        return snapshot

    def score(
        self, token_ids: Sequence[int], *, top_logprobs: int = 0, start: Snapshot | None = None
    ) -> tuple[TokenScore, ...]:
        """The log-probability of each of `token_ids` after all before it, and the likeliest alternatives.

        Of the first there is none, unless they follow `start`. Waits for the answer. Raises `InvalidSetting`,
        `BrokenModel`, `Busy`, `DeadlineExceeded` and `EngineClosed`.
        """
        settings = parse_settings(GenerationSettings, {"max_new_tokens": 1, "top_logprobs": top_logprobs})
        self._check(GenerationRequest(tuple(token_ids), settings, start=start))
        context = (*(() if start is None else start.token_ids), *token_ids)
        if len(token_ids) < (2 if start is None else 1):
            return ()
        task = ScoringTask(
            context,
            top_logprobs=top_logprobs,
            deadline=self._deadline(),
            seconds=self._limits.request_deadline_seconds,
            start=start,
        )
        self._start(task)
        scores: tuple[TokenScore, ...] = task.future.result()
        return scores

    def close(self) -> None:
        """Ends all requests with "cancelled" and waits for the step that is running; harmless when repeated."""
        with self._starting:
            self._closed = True
            self._scheduler.close()
            for run in self._adapted:
                run.close()
            threads = [*self._threads, *self._learners]
        for thread in threads:
            thread.join()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _deadline(self) -> float:
        return self._clock() + self._limits.request_deadline_seconds

    def _check(self, request: GenerationRequest) -> None:
        backend, start = self._backend, request.start
        request.check(vocab_size=backend.vocab_size, limits=self._limits)
        if start is not None:
            start.check(model_hash=backend.model_hash, state_size=backend.state_size, vocab_size=backend.vocab_size)

    def _start(self, task: SamplingTask | SearchTask | SnapshotTask | ScoringTask) -> None:
        with self._starting:
            if self._closed:
                raise EngineClosed()
            self._scheduler.submit(task)
            if not self._threads:
                thread = threading.Thread(target=_work, args=(self._scheduler,), name="textgen-engine", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _start_adapted(self, request: GenerationRequest, task: GenerationTask) -> None:
        """Runs a request on a copy of the model, in a thread of its own: learning would hold everybody up."""
        if self._source is None:
            raise InvalidSetting("adapt", "yes", "no: the weights of this model are not at hand")
        if request.start is not None:
            raise InvalidSetting("adapt", "yes", "no where text goes on from a snapshot, which is of the usual weights")
        with self._starting:
            if self._closed:
                raise EngineClosed()
            if len(self._adapted) >= self._limits.max_adapted_requests:
                raise LearningElsewhere(len(self._adapted))
            run = AdaptedRun(
                self._source,
                request,
                task,
                limits=self._limits,
                clock=self._clock,
                statistics=self._statistics,
                done=self._forget,
            )
            self._adapted.add(run)
            self._learners[:] = [thread for thread in self._learners if thread.is_alive()]
            self._learners.append(run.start())

    def _forget(self, run: AdaptedRun) -> None:
        with self._starting:
            self._adapted.discard(run)


def _work(scheduler: Scheduler) -> None:
    with torch.inference_mode():
        scheduler.run()


def _abandon(
    scheduler: Scheduler,
    adapted: set[AdaptedRun],
    threads: list[threading.Thread],
    learners: list[threading.Thread],
) -> None:
    """Ends the work of an engine that nobody holds any more, or that the program leaves behind at its end."""
    scheduler.close()
    for run in list(adapted):
        run.close()
    if not threading.main_thread().is_alive():
        # Threads inside native code when the interpreter goes down would end the program with an abort.
        for thread in [*threads, *learners]:
            thread.join()
