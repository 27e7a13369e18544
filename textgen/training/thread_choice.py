"""How many threads training takes while other programs use the processors, too.

Threads of a matrix product wait for the slowest of them. Where another program has one of two processors, that is a
thread which is not running at all, and both together are several times slower than one alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

# What is compared: medians, so that a step in which a file was written does not count.
_STEPS = 5
# Seconds between two trials at first, and at most: each trial that changes nothing doubles them.
_WAIT, _LONGEST_WAIT = 4.0, 64.0
# A trial in vain takes at most such a share of the time until the next one.
_SHARE = 0.05
# A step that takes so many times the usual may be for want of a processor.
_SLOW = 1.3
# By so much a trial must be faster.
_FASTER = 0.95
# Where one step takes long, that many seconds suffice for a trial.
_PATIENCE = 2.0


class ThreadChoice:
    """Tells PyTorch to use `most` threads, half as many, a quarter and so on, whichever are fastest at the time.

    `add` is told the seconds of every step. Of each few steps the median is kept; now and then, and at once when it
    rises, the next lower or higher number of threads is tried for as many.
    """

    def __init__(self, most: int, set_threads: Callable[[int], None] = torch.set_num_threads) -> None:
        self._counts = [most]
        while self._counts[-1] > 1:
            self._counts.append(self._counts[-1] // 2)
        self._set = set_threads
        self._level = 0
        self._trial = 0  # levels down that are tried now
        self._downwards = True
        self._times: list[float] = []
        self._usual = 0.0
        self._least = float("inf")
        self._waited, self._wait = 0.0, 0.0

    @property
    def threads(self) -> int:
        """How many there are now."""
        return self._counts[self._level + self._trial]

    def add(self, seconds: float) -> None:
        """Counts a step, and may change the number of threads."""
        if len(self._counts) == 1:
            return
        self._times.append(seconds)
        self._waited += seconds
        if len(self._times) <= _STEPS and not (len(self._times) > 1 and sum(self._times[1:]) > _PATIENCE):
            return
        # The first after a change has cold caches and sleeping threads.
        median, spent = statistics.median(self._times[1:]), sum(self._times)
        self._times.clear()
        if self._trial:
            self._judge(median, spent)
        else:
            self._watch(median)

    def close(self) -> None:
        """Gives PyTorch all threads again."""
        if self._level + self._trial:
            self._level = self._trial = 0
            self._set(self.threads)

    def _judge(self, median: float, spent: float) -> None:
        """Stays with what was tried, or goes back."""
        faster = median < _FASTER * self._usual
        if faster:
            self._level += self._trial
            self._least = median
        self._trial = 0
        self._set(self.threads)
        self._waited = 0.0
        longer = min(_LONGEST_WAIT, max(_WAIT, 2 * self._wait))
        self._wait = _WAIT if faster else max(longer, spent / _SHARE)

    def _watch(self, median: float) -> None:
        """Remembers what is usual, and tries another number when it is time."""
        self._usual = median
        if median > _SLOW * self._least:
            self._downwards, self._wait = True, 0.0
            self._least = median  # tried once for each time that it got slower
        self._least = min(self._least, median)
        if self._waited < self._wait:
            return
        if self._level == 0 or self._level == len(self._counts) - 1:
            self._downwards = self._level == 0
        self._trial = 1 if self._downwards else -1
        self._downwards = not self._downwards
        self._set(self.threads)
