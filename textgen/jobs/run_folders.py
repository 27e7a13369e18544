"""The folders of all runs, and the disk that they are on."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from textgen.files import is_file
from textgen.jobs.run_folder import RunFolder
from textgen.jobs.run_status import ACTIVE_STATES, RunStatus
from textgen.limits import Limits

_GONE = ".gone-"


class RunFolders:
    """The runs in the folder `root`, each a folder called as its id."""

    def __init__(self, root: Path, *, limits: Limits, wall_clock: Callable[[], float] = time.time) -> None:
        self._root = root
        self._limits = limits
        self._wall_clock = wall_clock

    def names(self) -> list[str]:
        """The folders of runs: an id is one of these names or it is none, whatever somebody sends."""
        if not self._root.is_dir():
            return []
        children = [path for path in self._root.iterdir() if path.is_dir() and not path.is_symlink()]
        return sorted(path.name for path in children if path.name[0] != "." and is_file(path / "config.json"))

    def folder(self, run_id: str) -> RunFolder:
        """Of a run that may be there or not."""
        return RunFolder(self._root / run_id, wall_clock=self._wall_clock)

    def free_bytes(self) -> int:
        """How much more the disk holds."""
        return shutil.disk_usage(self._root).free

    def sweep(self) -> None:
        """Deletes the folders of discarded runs whose process has ended."""
        for name in self.names():
            folder = self.folder(name)
            if not folder.discarded.exists():
                continue
            status = folder.read_status()
            at_work = status is not None and status.state in ACTIVE_STATES and not self.is_stale(status)
            if not at_work:
                # Out of sight first: half a run must not be taken for a model, or for one that nobody owns.
                with suppress(OSError):
                    os.replace(folder.path, self._root / f"{_GONE}{name}")
        for gone in self._root.glob(f"{_GONE}*"):
            shutil.rmtree(gone, ignore_errors=True)

    def is_stale(self, status: RunStatus) -> bool:
        """Whether a status is the last word of a process that has died."""
        return status.is_stale(self._wall_clock(), heartbeat_seconds=self._limits.heartbeat_seconds)
