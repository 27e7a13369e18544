"""What status.json says of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_args

from textgen.errors import TextgenError, error_as_dict
from textgen.jobs.process_identity import ProcessIdentity

RunState = Literal["queued", "preparing", "running", "paused", "stopped", "finished", "failed", "interrupted"]

# A process is at work.
ACTIVE_STATES: frozenset[RunState] = frozenset(("preparing", "running"))
# Training may be taken up again.
RESUMABLE_STATES: frozenset[RunState] = frozenset(("paused", "stopped", "failed", "interrupted"))


@dataclass(frozen=True)
class RunStatus:
    """State of a run, the process that wrote it, and when it last showed that it lives (seconds since 1970)."""

    state: RunState
    heartbeat: float
    identity: ProcessIdentity | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> int:
        return int(_number(self.details.get("step")))

    @property
    def progress(self) -> float:
        """Spent share of the budget, 0 to 1."""
        return min(1.0, max(0.0, _number(self.details.get("progress"))))

    def is_stale(self, now: float, *, heartbeat_seconds: float) -> bool:
        """Whether it says that a process is at work, and there is none.

        On another machine only the heartbeat can tell: `heartbeat_seconds` without one are too many.
        """
        if self.state not in ACTIVE_STATES:
            return False
        if self.identity is not None and self.identity.is_here:
            return self.identity.process() is None
        return now - self.heartbeat > heartbeat_seconds

    def to_json(self) -> bytes:
        who = self.identity
        process = {"host": who.host, "pid": who.pid, "pid_started": who.started} if who else {}
        content = {"state": self.state, **process, "heartbeat": self.heartbeat, **self.details}
        return (json.dumps(content, ensure_ascii=False) + "\n").encode()


def read_status(path: Path) -> RunStatus | None:
    """What the file says; None when it is missing or damaged."""
    try:
        content = json.loads(path.read_bytes())
        state = content.pop("state")
        heartbeat = float(content.pop("heartbeat"))
        if state not in get_args(RunState):
            return None
        host, pid, started = (content.pop(name, None) for name in ("host", "pid", "pid_started"))
        identity = ProcessIdentity(str(host), int(pid), float(started)) if pid and started else None
        return RunStatus(state, heartbeat, identity, content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def error_details(error: BaseException) -> dict[str, Any]:
    """An error as it stands in status.json: a sentence, and its code and parameters for other languages."""
    if not isinstance(error, TextgenError):
        return {"error": str(error) or type(error).__name__}
    content = error_as_dict(error)
    return {"error": str(error), "error_code": content["code"], "error_params": content["params"]}


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and isfinite(value) else 0.0
