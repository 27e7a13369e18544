"""Which rows run next, and what becomes of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from textgen.engine.backends import Backend, DrawingPool, Slots
from textgen.engine.decoding import Choice, Logits, TokenIds
from textgen.engine.requests import FinishReason
from textgen.engine.rows import Rows
from textgen.engine.sampling import draws_for, take_drawn
from textgen.engine.snapshots import Snapshot
from textgen.engine.statistics import EngineStatistics, Pace
from textgen.engine.tasks import (
    Batch,
    GenerationTask,
    Lane,
    SamplingTask,
    ScoringTask,
    SearchTask,
    SnapshotTask,
    Task,
    in_batches,
    writing_units,
)
from textgen.errors import BrokenModel, Busy, EngineClosed
from textgen.limits import Limits

Clock = Callable[[], float]


class Scheduler:
    """Continuous batching over rows of recurrent state: in a round one chunk of prompts, then one token for every row.

    Each stream owns a slot of the backend's pool from the moment it is admitted; streams join and leave between rounds.
    A backend that is `batched` steps up to `max_step_rows` rows at once. One that is not steps each sample and each
    search alone, since in its arithmetic a row's last bits would depend on its neighbours, and the same request is to
    give the same text in any company. Prompts hold the running streams up by one chunk in each round, and those that
    wait to be read share it.

    `submit`, `close` and the counts may be called from any thread, `run` and `run_round` from one. A task takes its
    rows, of `limits.max_rows`, when it is admitted; those that do not fit wait in order, up to
    `limits.max_waiting_requests` of them.
    """

    # Logits are the largest thing in a step; beyond this many rows more of them gain no speed.
    max_step_rows = 128
    # Tokens of prompts in a round: while others are writing, and while none is.
    busy_chunk_tokens = 64
    idle_chunk_tokens = 256
    # Fewer tokens than these at a time would cost more in overhead than they save in waiting.
    least_chunk_tokens = 16
    # New tokens between two states of a running text that the prefix cache gets.
    cached_every_tokens = 64
    # How many tokens, and for how long, samples may run ahead of those who read them, where nobody else is waiting.
    max_steps_ahead = 16
    max_ahead_seconds = 0.02

    def __init__(
        self, backend: Backend, *, limits: Limits, clock: Clock, statistics: EngineStatistics | None = None
    ) -> None:
        self._backend = backend
        self._limits = limits
        self._clock = clock
        self._changed = threading.Condition()
        self._live: list[Task] = []
        self._waiting: deque[Task] = deque()
        self._rows_taken = 0
        self._closed = False
        self._statistics = statistics or EngineStatistics()
        self._stale = True  # whether `_tasks` and `_batches` are out of date
        # Below here everything belongs to the thread that runs.
        self._tasks: list[Task] = []
        self._batches: list[Batch] = []
        self._writers = 0  # samples and searches in them
        self._reading: deque[Task] = deque()
        self._pace = Pace(self._statistics, clock)
        self._rows = Rows(backend, limits)
        self._pool = self._rows.pool
        self._drawing_pool = self._pool if isinstance(self._pool, DrawingPool) else None

    @property
    def live_rows(self) -> int:
        """Rows taken by admitted tasks."""
        return self._rows_taken

    @property
    def live_requests(self) -> int:
        """Admitted tasks."""
        return len(self._live)

    @property
    def waiting_requests(self) -> int:
        return len(self._waiting)

    def submit(self, task: Task) -> None:
        """Takes a checked task in. Raises `Busy` when as many as may wait are waiting, and `EngineClosed`."""
        with self._changed:
            if self._closed:
                raise EngineClosed()
            self._waiting.append(task)
            self._admit()
            if len(self._waiting) > self._limits.max_waiting_requests:
                self._waiting.pop()
                self._count(task, "refused")
                raise Busy(len(self._waiting))
            self._changed.notify_all()

    def run(self, *, until_idle: bool = False) -> None:
        """Works until closed, waiting for more where there is nothing to do; then ends what is left with "cancelled".

        With `until_idle` it does not wait for more.
        """
        try:
            while self._wait_for_work(not until_idle):
                self.run_round()
        finally:
            # Also when a bug or a SystemExit got this far: nobody must wait for a thread that is gone.
            self.close()
            with self._changed:
                left = [*self._live, *self._waiting]
            for task in left:
                self._end(task, "cancelled")

    def close(self) -> None:
        """Makes `run` return after the step it is in. Holds no lock for long, so a finalizer may call it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def run_round(self) -> None:
        """One chunk of prompts for those who read, and one token for each row that writes."""
        self._pace.begin_round()
        self._drop_unwanted()
        if self._stale:
            self._regroup()
        if self._reading:
            self._read_prompts()
            if self._stale:
                self._regroup()
        for batch in self._batches:
            if self._closed:
                return
            self._step(batch)
        self._pace.end_round(self._writers)

    def _wait_for_work(self, wait: bool) -> bool:
        if self._live or not wait:
            return bool(self._live) and not self._closed
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._live))
            return not self._closed

    def _drop_unwanted(self) -> None:
        """Ends what nobody waits for any more and what took too long."""
        now = self._clock()
        for task in (*self._waiting, *self._live):
            if not task.wanted:
                self._end(task, "cancelled")
            elif now >= task.deadline:
                self._end(task, "deadline")

    def _regroup(self) -> None:
        """Gives new tasks their slots and sorts the rows that write into steps."""
        with self._changed:
            self._stale = False
            present, self._tasks = self._tasks, list(self._live)
        known = set(map(id, present))
        for task in self._tasks:
            if id(task) not in known:
                self._guarded(task, self._seat)
        self._reading = deque(task for task in self._reading if task.slots and task.unread)
        writers = [unit for task in self._tasks if task.slots and not task.unread for unit in writing_units(task)]
        self._writers = len(writers)
        most = self.max_step_rows if self._backend.batched else 1
        self._batches = list(in_batches(writers, most, pool_draws=self._drawing_pool is not None))

    def _seat(self, task: Task) -> None:
        """Gives a new task its rows; it then reads, or writes if its text is known."""
        self._rows.seat(task)
        if task.unread:
            self._reading.append(task)
        else:
            self._has_read(task)

    def _read_prompts(self) -> None:
        """One chunk for the tasks at the head of those that read, which then go to the end."""
        budget = self.busy_chunk_tokens if self._batches else self.idle_chunk_tokens
        head = self._reading[0]
        if isinstance(head, ScoringTask):
            # Here and below, where a backend is not batched, cuts must be the same whatever else is going on, or the
            # last bits would change with them.
            chunk = self.idle_chunk_tokens if not self._backend.batched else budget
            self._reading.popleft()
            self._guarded(head, lambda task: self._score(task, chunk))
            tasks: list[Task] = [head]
        else:
            shares = self._shares(budget) if self._backend.batched else [(head, self.idle_chunk_tokens)]
            tasks = [task for task, _ in shares]
            for task in tasks:
                self._reading.remove(task)
            self._read_chunk(tasks, [min(share, task.unread) for task, share in shares])
        self._reading.extend(task for task in tasks if task.slots and task.unread)

    def _shares(self, budget: int) -> list[tuple[Task, int]]:
        """Who reads how many of so many tokens: as many tasks as have enough of it, and what is left among the longer.

        Scoring goes by itself.
        """
        shares: list[tuple[Task, int]] = []
        for task in self._reading:
            if isinstance(task, ScoringTask):
                continue
            least = min(task.unread, self.least_chunk_tokens)
            if shares and least > budget:
                break
            shares.append((task, least))
            budget -= least
        shares.sort(key=lambda share: share[0].unread)
        for place, (task, least) in enumerate(shares):
            more = min(task.unread - least, max(0, budget) // (len(shares) - place))
            shares[place] = (task, least + more)
            budget -= more
        return shares

    def _read_chunk(self, tasks: Sequence[Task], lengths: Sequence[int]) -> None:
        texts = [task.context_ids[task.read : task.read + length] for task, length in zip(tasks, lengths, strict=True)]
        try:
            self._pool.read_many(np.array([task.slots[0] for task in tasks]), texts)
        except Exception as error:
            for task in tasks:
                self._fail(task, error)
            return
        self._statistics.read(sum(length for task, length in zip(tasks, lengths, strict=True) if task.counted))
        for task, text in zip(tasks, texts, strict=True):
            task.read += text.size
            if not task.unread:
                self._stale = True
                self._guarded(task, self._has_read)

    def _score(self, task: ScoringTask, chunk: int) -> None:
        text = task.context_ids[task.read : task.read + min(chunk, task.unread)]
        task.take(self._pool.read_all(task.slots[0], text))
        self._statistics.read(text.size)
        if not task.unread:
            self._release(task)
            task.answer(task.scores)

    def _has_read(self, task: Task) -> None:
        """The text is read but for its last token, which is the first that writers step."""
        first = task.slots[0]
        text = task.context_ids[:-1]
        if isinstance(task, GenerationTask):
            task.mailbox.begin()
        state = self._pool.get(first)
        if not np.isfinite(state).all():
            raise BrokenModel(0)
        self._rows.remember(task, text, state)
        if isinstance(task, SnapshotTask):
            snapshot = Snapshot(self._backend.model_hash, tuple(task.context_ids.tolist()), state)
            self._release(task)
            task.answer(snapshot)
        elif isinstance(task, SamplingTask) and task.rows > 1:
            others = np.array(task.slots[1:])
            self._pool.copy(np.full(others.size, first), others)

    def _step(self, batch: Batch) -> None:
        """One token for the samples and searches of a batch, together."""
        if self._stale:  # a task may have ended in an earlier step of the same round
            batch = batch.remaining()
        if batch.plain and self._drawing_pool is not None:
            # Several tokens at once only where nobody waits for one.
            ahead = not (batch.lanes or batch.searches or self._reading)
            self._draw(self._drawing_pool, batch.plain, self._drawing_pool.max_steps if ahead else 1)
        slots, token_ids = batch.inputs()
        if not slots.size:
            return
        if batch.runs_ahead and len(self._batches) == 1 and not self._reading:
            self._run_ahead(batch, slots, token_ids)
            return
        try:
            logits = self._pool.step(slots, token_ids)
        except Exception as error:
            for task in batch.tasks:
                self._fail(task, error)
            return
        place = len(batch.lanes)
        if place:
            # A token for each sample, from logits [lanes, vocab].
            self._take_all(batch, partial(batch.sampler.choose, logits[:place]))
        for search in batch.searches:
            rows = logits[place : place + search.token_ids.size]
            place += search.token_ids.size
            self._guarded(search, lambda task, rows=rows: self._advance(task, rows))

    def _run_ahead(self, batch: Batch, slots: Slots, token_ids: TokenIds) -> None:
        """Some tokens for samples that nobody waits for, before any of them is passed on.

        A step leaves none of our own program in the processor's caches. This way it is fetched once for some tokens.
        """
        ends, left = self._clock() + self.max_ahead_seconds, self.max_steps_ahead

        def goes_on() -> bool:
            nonlocal left
            left -= 1
            calm = left > 0 and not self._stale and not self._closed
            return calm and all(task.wanted for task in batch.tasks) and self._clock() < ends

        answers, error = batch.sampler.run_ahead(token_ids, lambda ids: self._pool.step(slots, ids), goes_on)
        for place, answer in enumerate(answers, 1):
            steps = len(answers) if place == len(answers) else 0
            self._take_all(batch, partial(batch.sampler.accept, answer), steps=steps)
        if error is not None:
            for task in batch.tasks:
                self._fail(task, error)

    def _take_all(self, batch: Batch, choose: Callable[[], list[Choice | Exception]], *, steps: int = 1) -> None:
        """Passes on what the samples of a batch choose; a bug in that ends them and nobody else."""
        try:
            choices = choose()
        except Exception as error:
            choices = [error] * len(batch.lanes)
        for lane, choice in zip(batch.lanes, choices, strict=True):
            self._take(lane, choice, steps=steps)

    def _draw(self, pool: DrawingPool, lanes: Sequence[Lane], steps: int) -> None:
        """Up to `steps` tokens for each plain sample, drawn by the pool; those beyond a sample's end go nowhere."""
        slots = np.array([lane.slot for lane in lanes])
        token_ids = np.array([lane.last_id for lane in lanes])
        try:
            drawn = pool.step_and_draw(slots, token_ids, draws_for([lane.sequence for lane in lanes], steps))
        except Exception as error:
            for task in {id(lane.task): lane.task for lane in lanes}.values():
                self._fail(task, error)
            return
        for lane, *row in zip(lanes, *(part.tolist() for part in drawn), strict=True):
            for place, choice in enumerate(take_drawn(lane.sequence, *row)):
                self._take(lane, choice, steps=steps if place == steps - 1 else 0)

    def _take(self, lane: Lane, choice: Choice | Exception, *, steps: int = 1) -> None:
        """Passes on what a sample chose in the last of some steps; 0: the state in its slot is that of a later one."""
        task = lane.task
        if isinstance(choice, Exception):
            self._fail(task, choice)
            return
        if not task.slots:
            return  # another of its samples has failed
        event, reason = choice
        task.mailbox.put(event)
        if task.counted:
            self._pace.wrote(lane.sequence, event.index, asked=task.mailbox.asked)
        written = event.index + 1
        if steps and (reason is not None or written % self.cached_every_tokens < steps):
            text = np.concatenate([task.context_ids, lane.sequence.token_ids[:-1]]).astype(np.int64)
            self._rows.remember(task, text, self._pool.get(lane.slot))
        if reason is not None:
            task.running -= 1
            self._stale = True
            if not task.running:
                self._end(task, reason)

    def _advance(self, task: SearchTask, logits: Logits) -> None:
        """One step of a beam search, from logits [running beams, vocab]."""
        advance = task.search.advance(logits)
        task.mailbox.put(advance.event)
        if task.counted:
            self._pace.wrote(task, task.steps, asked=task.mailbox.asked)
        task.steps += 1
        if advance.reason is not None:
            self._end(task, advance.reason)
            return
        task.token_ids = advance.token_ids
        moved = [(parent, row) for row, parent in enumerate(advance.parents) if parent != row]
        if moved:
            slots = np.array(task.slots)
            sources, targets = (slots[list(rows)] for rows in zip(*moved, strict=True))
            self._pool.copy(sources, targets)

    def _guarded(self, task: Task, work: Callable[..., None]) -> None:
        """Whatever goes wrong concerns this task alone: who waits for it hears of it, the others go on."""
        try:
            work(task)
        except Exception as error:
            self._fail(task, error)

    def _end(self, task: Task, reason: FinishReason) -> None:
        # Rows first: whoever has read the last event may count on them.
        if self._release(task):
            self._count(task, reason)
            task.end(reason)

    def _fail(self, task: Task, error: Exception) -> None:
        if self._release(task):
            self._count(task, "error")
            task.fail(error)

    def _count(self, task: Task, reason: str) -> None:
        if isinstance(task, GenerationTask) and task.counted:
            self._statistics.ended(reason)

    def _release(self, task: Task) -> bool:
        """Frees a task's rows; false if that has been done."""
        with self._changed:
            if task in self._live:
                self._live.remove(task)
                self._rows_taken -= task.rows
            elif task in self._waiting:
                self._waiting.remove(task)
            else:
                return False
            self._rows.leave(task)
            self._stale = True
            self._admit()
        return True

    def _admit(self) -> None:
        while self._waiting and self._rows_taken + self._waiting[0].rows <= self._limits.max_rows:
            task = self._waiting.popleft()
            self._live.append(task)
            self._rows_taken += task.rows
            self._stale = True
