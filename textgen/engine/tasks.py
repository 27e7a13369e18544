"""What the scheduler works on: things asked about a text, with the rows of state that they hold meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from textgen.engine.backends import Slots
from textgen.engine.beam import BeamSearch
from textgen.engine.decoding import Logits, TokenIds
from textgen.engine.processors import Processors
from textgen.engine.requests import FinishedEvent, FinishReason, GenerationRequest, TokenScore
from textgen.engine.sampling import SampledSequence, Sampler
from textgen.engine.scoring import token_scores
from textgen.engine.snapshots import Snapshot
from textgen.engine.streams import Mailbox
from textgen.errors import DeadlineExceeded, EngineClosed


class Task:
    """Something asked of the engine about the text `context_ids` [time].

    The first of its `slots` has read the first `read` tokens; all but the last are to be read before the asking can be
    answered. `start` stands for some of them.
    """

    # Whether it shows in the figures of the engine.
    counted = True

    def __init__(self, context_ids: Sequence[int], *, rows: int, start: Snapshot | None, deadline: float) -> None:
        self.context_ids: TokenIds = np.array(context_ids, dtype=np.int64)
        self.rows = rows
        self.start = start
        self.deadline = deadline
        self.slots: list[int] = []
        self.read = 0

    @property
    def unread(self) -> int:
        """How many tokens are still to be read."""
        return self.context_ids.size - 1 - self.read

    @property
    def wanted(self) -> bool:
        """Whether anyone still waits for it."""
        raise NotImplementedError

    def end(self, reason: FinishReason) -> None:
        """Tells who waits that it is done, or over before its time."""
        raise NotImplementedError

    def fail(self, error: Exception) -> None:
        """Tells who waits that it went wrong."""
        raise NotImplementedError


class GenerationTask(Task):
    """A request for new text."""

    def __init__(self, request: GenerationRequest, *, mailbox: Mailbox, deadline: float) -> None:
        super().__init__(request.context_ids, rows=request.rows, start=request.start, deadline=deadline)
        self.mailbox = mailbox
        self.counted = request.counted

    @property
    def wanted(self) -> bool:
        return self.mailbox.wanted

    def fail(self, error: Exception) -> None:
        self.mailbox.fail(error)


class SamplingTask(GenerationTask):
    """A request for one sample or several."""

    def __init__(self, request: GenerationRequest, *, seed: int, mailbox: Mailbox, deadline: float) -> None:
        super().__init__(request, mailbox=mailbox, deadline=deadline)
        processors = Processors(request)
        samples = range(request.settings.num_samples)
        self.sequences = [SampledSequence(request, seed, sample, processors) for sample in samples]
        self.running = len(self.sequences)

    def end(self, reason: FinishReason) -> None:
        found = [sequence.hypothesis() for sequence in self.sequences]
        hypotheses = tuple(replace(item, reason=item.reason or reason) for item in found)
        self.mailbox.put(FinishedEvent(hypotheses[0].reason or reason, hypotheses))


class SearchTask(GenerationTask):
    """A request for a beam search that is so many `steps` on.

    Its running beams have the first slots and read `token_ids` next.
    """

    def __init__(self, request: GenerationRequest, *, seed: int, mailbox: Mailbox, deadline: float) -> None:
        super().__init__(request, mailbox=mailbox, deadline=deadline)
        self.search = BeamSearch(request, seed)
        self.steps = 0
        self.token_ids: TokenIds = self.context_ids[-1:]

    def end(self, reason: FinishReason) -> None:
        self.mailbox.put(FinishedEvent(reason, self.search.hypotheses(), self.search.tree()))


class _FutureTask(Task):
    """Something with one answer, which a `Future` waits for; `seconds` is how long it may take."""

    def __init__(self, context_ids: Sequence[int], *, start: Snapshot | None, deadline: float, seconds: float) -> None:
        super().__init__(context_ids, rows=1, start=start, deadline=deadline)
        self.future: Future[Any] = Future()
        self._seconds = seconds

    @property
    def wanted(self) -> bool:
        return not self.future.cancelled()

    def end(self, reason: FinishReason) -> None:
        self.fail(DeadlineExceeded(self._seconds) if reason == "deadline" else EngineClosed())

    def fail(self, error: Exception) -> None:
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)

    def answer(self, answer: object) -> None:
        """Gives the answer to who waits; rows first, so that whoever has it may count on them."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(answer)


class SnapshotTask(_FutureTask):
    """A wish for the state at the end of a text; the answer is a `Snapshot`."""


class ScoringTask(_FutureTask):
    """A wish for the log-probabilities of a text's tokens, from the second on or from the first behind `start`.

    The answer is a tuple of `TokenScore`.
    """

    def __init__(
        self,
        context_ids: Sequence[int],
        *,
        top_logprobs: int,
        deadline: float,
        seconds: float,
        start: Snapshot | None = None,
    ) -> None:
        super().__init__(context_ids, start=start, deadline=deadline, seconds=seconds)
        self._top_logprobs = top_logprobs
        self._scores: list[TokenScore] = []

    @property
    def scores(self) -> tuple[TokenScore, ...]:
        """Those found so far."""
        return tuple(self._scores)

    def take(self, logits: Logits) -> None:
        """logits [time, vocab] after each of the next tokens of the text."""
        following = self.context_ids[self.read + 1 : self.read + 1 + len(logits)]
        self._scores += token_scores(logits, following, self._top_logprobs, first=self.read)
        self.read += len(logits)


class Lane(NamedTuple):
    """A sample that goes on, and its slot."""

    task: SamplingTask
    sequence: SampledSequence
    slot: int

    @property
    def last_id(self) -> int:
        """The token to be read next."""
        written = self.sequence.token_ids
        return written[-1] if written else int(self.task.context_ids[-1])


Unit = Lane | SearchTask


def writing_units(task: Task) -> Iterable[Unit]:
    """What of a task writes: a search as a whole, of the samples those that go on."""
    if isinstance(task, SearchTask):
        return [task]
    if isinstance(task, SamplingTask):
        pairs = zip(task.sequences, task.slots, strict=True)
        return [Lane(task, sequence, slot) for sequence, slot in pairs if not sequence.finished]
    return []


class Batch:
    """Units whose rows step together: samples, then the running beams of searches. `plain` samples a pool may draw.

    `tasks` are those of `lanes` and `searches`.
    """

    def __init__(self, units: Sequence[Unit], *, pool_draws: bool) -> None:
        self._units = units
        self._pool_draws = pool_draws
        lanes = [unit for unit in units if isinstance(unit, Lane)]
        self.plain = [lane for lane in lanes if pool_draws and lane.sequence.plain]
        self.lanes = [lane for lane in lanes if not (pool_draws and lane.sequence.plain)]
        self.searches = [unit for unit in units if isinstance(unit, SearchTask)]
        self.sampler = Sampler([lane.sequence for lane in self.lanes])
        self._lane_slots = np.array([lane.slot for lane in self.lanes], dtype=np.int64)

        owners = (*self.searches, *(lane.task for lane in self.lanes))
        self.tasks: list[GenerationTask] = list({id(task): task for task in owners}.values())

    @property
    def runs_ahead(self) -> bool:
        """Whether all of it is samples that can: see `Sampler`."""
        return self.sampler.runs_ahead and not (self.plain or self.searches)

    def remaining(self) -> Batch:
        """The same without those that have ended meanwhile."""
        units = [unit for unit in self._units if (unit if isinstance(unit, SearchTask) else unit.task).slots]
        return self if len(units) == len(self._units) else Batch(units, pool_draws=self._pool_draws)

    def inputs(self) -> tuple[Slots, TokenIds]:
        """The slots of `lanes` and `searches` and the tokens that they read next, both [rows]."""
        slots, token_ids = self._lane_slots, np.array([lane.last_id for lane in self.lanes], dtype=np.int64)
        if self.searches:
            slots = np.concatenate([slots, *(search.slots[: search.token_ids.size] for search in self.searches)])
            token_ids = np.concatenate([token_ids, *(search.token_ids for search in self.searches)])
        return slots, token_ids


def in_batches(units: Sequence[Unit], max_rows: int, *, pool_draws: bool) -> Iterator[Batch]:
    """Cuts `units` into runs of at most `max_rows` rows, or of one unit that has more."""
    batch: list[Unit] = []
    rows = 0
    for unit in units:
        needed = unit.rows if isinstance(unit, SearchTask) else 1
        if batch and rows + needed > max_rows:
            yield Batch(batch, pool_draws=pool_draws)
            batch, rows = [], 0
        batch.append(unit)
        rows += needed
    if batch:
        yield Batch(batch, pool_draws=pool_draws)
