"""Who has which rows of state, and the states of texts that were read before."""

from __future__ import annotations

import heapq

import numpy as np

from textgen.engine.backends import Backend, StateVector
from textgen.engine.decoding import TokenIds
from textgen.engine.prefix_cache import PrefixCache
from textgen.engine.tasks import ScoringTask, Task
from textgen.limits import Limits


class Rows:
    """The slots of a backend's `pool`, which grows as they are needed. Belongs to the thread that runs the model."""

    def __init__(self, backend: Backend, limits: Limits) -> None:
        self.pool = backend.open_pool(1)
        self._free = [0]
        self._max_rows = limits.max_rows
        # Where requests run one by one for the sake of the last bits, a remembered state might change these.
        self._cache = PrefixCache(limits.max_prefix_cache_bytes if backend.batched else 0)

    def seat(self, task: Task) -> None:
        """Takes slots for a task, and the state of as much of its text as is known into the first."""
        while len(self._free) < task.rows:
            self._grow(task.rows)
        task.slots = [heapq.heappop(self._free) for _ in range(task.rows)]
        found = None
        if task.start is not None:
            found = (len(task.start.token_ids) - 1, task.start.state)
        elif not isinstance(task, ScoringTask):  # scores are wanted of every token
            found = self._cache.longest_prefix(task.context_ids[:-1])
        if found is None:
            self.pool.reset(np.array(task.slots[:1]))
        else:
            task.read, state = found
            self.pool.put(task.slots[0], state)

    def leave(self, task: Task) -> None:
        """Frees the slots of a task."""
        for slot in task.slots:
            heapq.heappush(self._free, slot)
        task.slots = []

    def remember(self, task: Task, token_ids: TokenIds, state: StateVector) -> None:
        """Keeps the state after token_ids, a beginning of a task's text, for whoever comes with the same beginning.

        Not where the task goes back to a snapshot: that may come from another backend or from outside, and what is
        remembered changes other people's texts.
        """
        if token_ids.size and task.start is None:
            self._cache.insert(token_ids, state)

    def _grow(self, rows: int) -> None:
        capacity = self.pool.capacity
        self.pool.grow(min(2 * capacity, max(self._max_rows, capacity + rows)))
        for slot in range(capacity, self.pool.capacity):
            heapq.heappush(self._free, slot)
