"""Forks of this process wait until no thread of it is where a fork must not come between."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class ForkGate:
    """While a thread is `inside`, no other thread forks this process; whoever forks keeps others from entering.

    SQLite needs this ("How To Corrupt An SQLite Database File", 2.6): what it keeps of the files that are open here
    tells a fork of locks that only this process has, and a lock that a thread held is released by nobody there.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: Counter[int] = Counter()
        self._forking = 0
        self._closed_by: int | None = None
        if hasattr(os, "register_at_fork"):  # Windows does not fork
            os.register_at_fork(before=self._close, after_in_parent=self._open, after_in_child=self._begin)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """For as short as may be. It can be nested."""
        me = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: not self._forking or me in self._inside)
            self._inside[me] += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside[me] -= 1
                if not self._inside[me]:
                    del self._inside[me]
                self._changed.notify_all()

    def _close(self) -> None:
        me = threading.get_ident()
        self._changed.acquire()
        self._forking += 1
        try:
            self._changed.wait_for(lambda: self._inside.keys() <= {me})
        except BaseException:  # Ctrl-C, say: Python tells of it, and forks all the same
            self._forking -= 1
            self._changed.release()
            raise
        self._closed_by = me

    def _open(self) -> None:
        if self._closed_by == threading.get_ident():  # it may have forked without
            self._closed_by = None
            self._forking -= 1
            self._changed.notify_all()
            self._changed.release()

    def _begin(self) -> None:
        """In the fork only the thread that forked is left, inside or not."""
        me = threading.get_ident()
        self._changed = threading.Condition()
        self._inside = Counter({me: self._inside[me]} if me in self._inside else {})
        self._forking = 0
        self._closed_by = None
