"""What passes between the process that starts `torchrun` on a host and those that torchrun starts there.

The first is who the world knows the run by; it stays while torchrun starts the others again. Files in a folder of its
own are enough: "stop" says in which state the run is to end, "error" which error of ours ended it, "abandoned" that
this happened at a rank of another host, and "done" that nothing is left to do.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from textgen.errors import Abandoned, ProcessesEnded, TextgenError, error_as_dict, error_from_dict
from textgen.files import write_atomically
from textgen.jobs.process_identity import ProcessIdentity
from textgen.jobs.run_status import RunState

_FOLDER = "TEXTGEN_SUPERVISION"
_SUPERVISOR = "TEXTGEN_SUPERVISOR"
_STOP, _ERROR, _ABANDONED, _DONE = "stop", "error", "abandoned", "done"
_LOOK_SECONDS = 0.2
_ENDS: tuple[RunState, ...] = ("stopped", "paused", "interrupted")


class Supervisor:
    """Starts torchrun and waits for it. `folder` is empty and lasts as long."""

    def __init__(self, folder: Path) -> None:
        self._stop = folder / _STOP
        self._errors = (folder / _ERROR, folder / _ABANDONED)
        self._done = folder / _DONE
        self._environment = {_FOLDER: str(folder), _SUPERVISOR: json.dumps(asdict(ProcessIdentity.current()))}

    def stop(self, state: RunState = "stopped") -> None:
        """Lets all ranks end after their current step; the run is then in `state`. May be called at any time."""
        write_atomically(self._stop, state.encode())

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Raises the error of ours that ended a rank, or `ProcessesEnded` when torchrun gave up starting them again.

        An exception that comes meanwhile, such as `KeyboardInterrupt`, ends them all at once.
        """
        # In a session of its own, since Ctrl-C is for this process to pass on, once.
        child = subprocess.Popen(command, env={**environment, **self._environment}, start_new_session=True)
        try:
            status = child.wait()
        except BaseException:
            _end(child)
            raise
        for path in self._errors:
            if path.exists():
                raise error_from_dict(json.loads(path.read_bytes()))
        if status and not self._done.exists():
            raise ProcessesEnded


def _end(child: subprocess.Popen[bytes]) -> None:
    from textgen.jobs.launcher import kill_process

    identity = ProcessIdentity.of(child.pid)
    if identity is not None:
        kill_process(identity)
    child.wait()


class Supervised:
    """The same from within a rank; there is no supervisor where somebody called torchrun themselves."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._folder = Path(environment[_FOLDER]) if _FOLDER in environment else None
        told = environment.get(_SUPERVISOR)
        self.supervisor = ProcessIdentity(**json.loads(told)) if told else None
        self._torchrun = os.getppid()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def starter(self) -> ProcessIdentity | None:
        """The process of torchrun: the same for all that it starts, again and again. None when it has ended."""
        return ProcessIdentity.of(self._torchrun)

    def watch(self, stop: Callable[[RunState], None]) -> None:
        """From now on calls `stop` when that is asked."""
        self._thread = threading.Thread(target=self._look, args=(stop,), name="textgen-supervised", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends watching."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def tell(self, error: TextgenError) -> bool:
        """Leaves it to the supervisor, if there is one, to raise `error`: whoever started again would meet it again."""
        if self._folder is None:
            return False
        name = _ABANDONED if isinstance(error, Abandoned) else _ERROR
        write_atomically(self._folder / name, json.dumps(error_as_dict(error)).encode())
        return True

    def finish(self) -> None:
        """Says that this host's part is done: what goes wrong while its processes end is no reason to start again."""
        if self._folder is not None:
            write_atomically(self._folder / _DONE, b"")

    @property
    def finished(self) -> bool:
        """Whether an earlier start of these processes has done it all."""
        return self._folder is not None and (self._folder / _DONE).exists()

    def asked(self) -> RunState | None:
        """In which state the run is to end now, if it is: also when the supervisor or torchrun is no more."""
        if os.getppid() != self._torchrun or (self.supervisor is not None and self.supervisor.process() is None):
            return "interrupted"
        with suppress(OSError):
            if self._folder is not None:
                state = (self._folder / _STOP).read_text(encoding="utf-8")
                return next((known for known in _ENDS if known == state), "stopped")
        return None

    def _look(self, stop: Callable[[RunState], None]) -> None:
        while True:
            state = self.asked()
            if state is not None:
                return stop(state)
            if self._closed.wait(_LOOK_SECONDS):
                return None
