"""A process that converts files, seen from outside: started, listened to, and ended whatever it does."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import textgen
from textgen.files import explain_write_errors, write_atomically
from textgen.text.importing.job import BadEvent, Job

ERRORS = "errors.txt"
_MAX_LINE_BYTES = 1 << 20
_WAITING_EVENTS = 64
_END_SECONDS = 10.0
# Nothing else of the environment is a hostile file's business.
_VARIABLES = frozenset(
    {
        "PATH",
        "PYTHONPATH",
        "PYTHONHOME",
        "VIRTUAL_ENV",
        "LANG",
        "LC_ALL",
        "LD_LIBRARY_PATH",
        "SYSTEMROOT",
        "TEMP",
        "TMP",
    }
)


class Child:
    """A running process. `returncode` is known once `events` has ended."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._lines: queue.Queue[bytes] = queue.Queue(_WAITING_EVENTS)
        self._closing = threading.Event()
        self._reader = threading.Thread(target=self._read, name="import-events", daemon=True)
        self._reader.start()

    @property
    def returncode(self) -> int | None:
        """The exit status, or minus the signal that ended the process."""
        return self._process.poll()

    def next_event(self, deadline: float) -> dict[str, Any] | None:
        """The next event; None when the process is at its end. `deadline` is on the clock of `time.monotonic`.

        Raises `TimeoutError` at the deadline and `BadEvent` for anything but an event.
        """
        try:
            line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise TimeoutError from None
        if not line:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_SECONDS)
            return None
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            raise BadEvent from None
        if not isinstance(event, dict) or not isinstance(event.get("event"), str):
            raise BadEvent
        return event

    def close(self) -> None:
        """Ends the process and all that it started."""
        self._closing.set()
        if hasattr(os, "killpg"):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        deadline = time.monotonic() + _END_SECONDS
        while self._reader.is_alive() and time.monotonic() < deadline:
            with suppress(queue.Empty):
                self._lines.get(timeout=0.05)
        # Something that left the group may still hold the other end: then the thread stays, and holds nothing up.
        if not self._reader.is_alive() and self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        stream: IO[bytes] | None = self._process.stdout
        assert stream is not None
        line = b" "
        while line and not self._closing.is_set():
            line = stream.readline(_MAX_LINE_BYTES)
            self._lines.put(line)


@contextmanager
def running(job: Job) -> Iterator[Child]:
    """A process that does the job, for as long as the block takes. Its errors go to a file in the job's folder."""
    description = job.folder / "job.json"
    write_atomically(description, json.dumps(job.as_dict()).encode())
    environment = {name: value for name, value in os.environ.items() if name.upper() in _VARIABLES}
    with explain_write_errors(job.folder), (job.folder / ERRORS).open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "textgen.text.importing.worker", str(description)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            # `-m` looks for modules in the folder where it starts first: never where files of others lie.
            cwd=Path(textgen.__file__).resolve().parents[1],
            env={**environment, "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            start_new_session=True,
        )
    child = Child(process)
    try:
        yield child
    finally:
        child.close()
