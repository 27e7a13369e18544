"""Which process it was: a process id alone is soon another's."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

import psutil

# Between two looks the system may round a start time differently.
_ROUNDING_SECONDS = 1.0


@dataclass(frozen=True)
class ProcessIdentity:
    """A process by host, process id and start time (seconds since 1970)."""

    host: str
    pid: int
    started: float

    @staticmethod
    def of(pid: int) -> ProcessIdentity | None:
        """The process that has this id on this machine now; None when there is none."""
        try:
            return ProcessIdentity(platform.node(), pid, psutil.Process(pid).create_time())
        except psutil.Error:
            return None

    @staticmethod
    def current() -> ProcessIdentity:
        """This very process."""
        found = ProcessIdentity.of(os.getpid())
        assert found is not None
        return found

    def is_same(self, other: object) -> bool:
        """Whether `other`, as JSON holds an identity, is of this process."""
        if not isinstance(other, dict) or (other.get("host"), other.get("pid")) != (self.host, self.pid):
            return False
        started = other.get("started")
        return isinstance(started, int | float) and abs(started - self.started) <= _ROUNDING_SECONDS

    @property
    def is_here(self) -> bool:
        """Whether it was started on this machine, so that `process` can tell."""
        return self.host == platform.node()

    def process(self) -> psutil.Process | None:
        """The process while it lives; None when it has ended, even if nobody has asked for its exit status yet."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) <= _ROUNDING_SECONDS
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None
