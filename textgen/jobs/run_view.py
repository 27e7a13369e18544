"""A run as people see it."""

from __future__ import annotations

from dataclasses import dataclass

from textgen.jobs.run_folder import RunFolder
from textgen.jobs.run_status import ACTIVE_STATES, RunState, RunStatus


@dataclass(frozen=True)
class RunView:
    """A run as it is now. `position` counts from 1 among those that wait; None for one that does not.

    `waits_for_room`: it will not start before there is more space on the disk.
    """

    run_id: str
    title: str
    owner: str
    created: float
    state: RunState
    status: RunStatus
    position: int | None
    folder: RunFolder
    waits_for_room: bool = False

    @property
    def is_active(self) -> bool:
        """Whether it changes by itself."""
        return self.state in ACTIVE_STATES or self.state == "queued"
