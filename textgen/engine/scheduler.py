"""Which request runs next, and what becomes of it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from textgen.engine.backends import Backend
from textgen.engine.beam import BeamSearch
from textgen.engine.decoding import Decoder, Logits, TokenIds
from textgen.engine.requests import FinishedEvent, FinishReason, GenerationRequest
from textgen.engine.sampling import SampledSequence
from textgen.engine.streams import Mailbox
from textgen.errors import Busy, EngineClosed
from textgen.limits import Limits
from textgen.model.state import RecurrentState

Clock = Callable[[], float]


@dataclass(eq=False)
class _Job:
    """A request on its way. `pending` are the token ids to read next: what is left of the prompt, then new tokens."""

    mailbox: Mailbox
    decoder: Decoder
    deadline: float
    pending: TokenIds
    prefilling: bool = True
    state: RecurrentState | None = None


class Scheduler:
    """Steps the live requests round-robin: in a round each that is decoding by one step, and one chunk of prompts.

    Every request is stepped as a group of its own, beams together. In fp32 the last bits of a matrix product depend on
    how many rows it has, so this is what makes a request give the same tokens alone and among many others. (An exact
    int8 backend may step all rows at once; nothing outside this class would notice.) Prompts hold the running
    streams up by one chunk for each of their tokens, however long and many they are.

    `submit`, `close` and the counts may be called from any thread, `run` from one. A request takes `num_beams` of
    `limits.max_rows` rows from the moment it is admitted; those that do not fit wait in order, up to
    `limits.max_waiting_requests` of them.
    """

    prefill_chunk_tokens = 256

    def __init__(self, backend: Backend, *, limits: Limits, clock: Clock) -> None:
        self._backend = backend
        self._limits = limits
        self._clock = clock
        self._changed = threading.Condition()
        self._live: list[_Job] = []
        self._waiting: deque[_Job] = deque()
        self._closed = False

    @property
    def live_rows(self) -> int:
        """Rows taken by admitted requests."""
        with self._changed:
            return self._rows_taken()

    @property
    def waiting_requests(self) -> int:
        with self._changed:
            return len(self._waiting)

    def submit(self, request: GenerationRequest, *, seed: int, mailbox: Mailbox) -> None:
        """Takes a checked request in. Raises `Busy` when as many as may wait are waiting, and `EngineClosed`."""
        decoder = BeamSearch(request) if request.settings.num_beams > 1 else SampledSequence(request, seed)
        deadline = self._clock() + self._limits.request_deadline_seconds
        job = _Job(mailbox, decoder, deadline, np.array(request.prompt_ids, dtype=np.int64))
        with self._changed:
            if self._closed:
                raise EngineClosed()
            self._waiting.append(job)
            self._admit()
            if len(self._waiting) > self._limits.max_waiting_requests:
                self._waiting.pop()
                raise Busy(len(self._waiting))
            self._changed.notify_all()

    def run(self) -> None:
        """Works until closed, waiting while there is nothing to do; then ends what is left with "cancelled"."""
        try:
            while self._wait_for_work():
                self.run_round()
        finally:
            # Also when a bug or a SystemExit got this far: nobody must wait for a thread that is gone.
            self.close()
            with self._changed:
                left = [*self._live, *self._waiting]
            for job in left:
                self._finish(job, "cancelled")

    def close(self) -> None:
        """Makes `run` return after the step it is in. Holds no lock for long, so a finalizer may call it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def run_round(self) -> None:
        """One step for every live request that is decoding; a chunk's worth of prompts for those still reading."""
        with self._changed:
            waiting, live = list(self._waiting), list(self._live)
        for job in waiting:
            self._attend(job, step=False)
        budget = self.prefill_chunk_tokens
        for job in live:
            if self._closed:
                return
            size = min(self.prefill_chunk_tokens, job.pending.size) if job.prefilling else 0
            # Prompts are cut at the same places whatever the budget, and none overtakes an earlier one.
            fits = size <= budget
            budget = budget - size if fits else 0
            self._attend(job, step=fits)

    def _wait_for_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._live))
            return not self._closed

    def _attend(self, job: _Job, *, step: bool) -> None:
        """Ends a request that nobody wants any more or whose time is over; else steps it, if it is its turn."""
        try:
            if not job.mailbox.wanted:
                self._finish(job, "cancelled")
            elif self._clock() >= job.deadline:
                self._finish(job, "deadline")
            elif step and job.prefilling:
                self._prefill(job)
            elif step:
                self._step(job)
        except Exception as error:
            # Whatever went wrong concerns this request alone: its reader hears of it, the others go on.
            self._release(job)
            job.mailbox.fail(error)

    def _prefill(self, job: _Job) -> None:
        chunk, rest = np.split(job.pending, [self.prefill_chunk_tokens])
        state = self._backend.initial_state(1) if job.state is None else job.state
        logits, job.state = self._backend.prefill(chunk, state)
        job.pending = rest
        if not rest.size:
            job.prefilling = False
            self._decode(job, logits)

    def _step(self, job: _Job) -> None:
        assert job.state is not None
        logits, job.state = self._backend.step(job.pending, job.state)
        self._decode(job, logits)

    def _decode(self, job: _Job, logits: Logits) -> None:
        assert job.state is not None
        advance = job.decoder.advance(logits)
        job.mailbox.put(advance.event)
        job.pending = advance.token_ids
        if advance.reason is not None:
            self._finish(job, advance.reason)
        elif advance.parents is not None and advance.parents != list(range(job.state.batch_size)):
            job.state = job.state.rows(advance.parents)

    def _finish(self, job: _Job, reason: FinishReason) -> None:
        # Rows first: whoever has read the last event may count on them.
        self._release(job)
        job.mailbox.put(FinishedEvent(reason, job.decoder.hypotheses()))

    def _release(self, job: _Job) -> None:
        with self._changed:
            if job in self._live:
                self._live.remove(job)
            elif job in self._waiting:
                self._waiting.remove(job)
            self._admit()

    def _admit(self) -> None:
        while self._waiting and self._rows_taken() + self._waiting[0].decoder.rows <= self._limits.max_rows:
            self._live.append(self._waiting.popleft())

    def _rows_taken(self) -> int:
        return sum(job.decoder.rows for job in self._live)
