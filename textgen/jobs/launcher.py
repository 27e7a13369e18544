"""Starts the processes that train, and ends them where that is asked."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

import textgen
from textgen.jobs.process_identity import ProcessIdentity
from textgen.jobs.run_folder import RunFolder
from textgen.limits import Limits

_KILL_SECONDS = 10.0
_WORKER = "textgen.jobs.worker"


class Launcher:
    """Starts workers in sessions of their own: they outlive this process.

    Each gets `threads` of the processor and keeps to `limits`; `niceness` lets those who write on the page come first.
    """

    def __init__(self, *, limits: Limits, threads: int | None = None, niceness: int = 0) -> None:
        self._limits = limits
        self._threads = threads or usable_cores()
        self._niceness = niceness
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()

    def start(self, folder: RunFolder, claim: str, *, only_prepare: bool = False) -> None:
        """Starts the worker of a claimed run; what it writes goes to the run's log. Raises `OSError`.

        With `only_prepare` it reads the text and trains nothing.
        """
        root = folder.path.parent
        command = [sys.executable, "-m", _WORKER]
        command += ["--runs", str(root), "--run", folder.path.name, "--claim", claim]
        command += ["--limits", self._limits.to_json(), "--niceness", str(self._niceness)]
        command += ["--only-prepare"] if only_prepare else []
        with folder.log.open("ab") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=root,
                env=self._environment(),
                start_new_session=True,
            )
        with self._lock:
            self._children[claim] = child

    def run(self, command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
        """Runs a command in the same surroundings to its end; raises `subprocess.TimeoutExpired`."""
        with subprocess.Popen(
            command, text=True, env=self._environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as child:
            with suppress(psutil.Error):
                psutil.Process(child.pid).nice(self._niceness)
            try:
                out, err = child.communicate(timeout=seconds)
            except BaseException:
                child.kill()
                raise
        return subprocess.CompletedProcess(command, child.returncode, out, err)

    def has_ended(self, claim: str) -> bool:
        """Whether the process that was started here for a claim has ended."""
        with self._lock:
            child = self._children.get(claim)
            return child is not None and child.poll() is not None

    def reap(self, *, kept: Collection[str]) -> None:
        """Asks for the exit status of processes that have ended and forgets them, but not those of `kept` claims."""
        with self._lock:
            ended = [claim for claim, child in self._children.items() if child.poll() is not None]
            for claim in ended:
                if claim not in kept:
                    del self._children[claim]

    def _environment(self) -> dict[str, str]:
        # The package may be no installed one but the folder of a Space.
        paths = [str(Path(textgen.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            # A run's folder must not be taken for a module.
            "PYTHONSAFEPATH": "1",
            # Threads that wait for one another by spinning would take the processor from whoever writes on the page.
            "OMP_WAIT_POLICY": "PASSIVE",
            "OMP_NUM_THREADS": str(self._threads),
        }


def kill_process(identity: ProcessIdentity) -> None:
    """Ends a process of this machine with the ranks that it has started, and waits until they are gone."""
    process = identity.process() if identity.is_here else None
    if process is None or process.pid == os.getpid():
        return
    family = _with_ranks(process)
    for member in family:
        # The eldest first, or torchrun would start anew what ends.
        with suppress(psutil.Error):
            member.kill()
    psutil.wait_procs(family, _KILL_SECONDS)


def _with_ranks(process: psutil.Process) -> list[psutil.Process]:
    """The process, torchrun below it and the ranks below that; not the worker of the next run, which is on its own."""
    family = [process]
    with suppress(psutil.Error):
        for child in process.children():
            if _WORKER not in child.cmdline():
                family += _with_ranks(child)
    return family


def usable_cores() -> int:
    """Processor cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
