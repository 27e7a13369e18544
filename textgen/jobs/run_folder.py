"""The folder of a training run.

config.json     what was asked; the same file that `textgen train --config` reads
status.json     state, process id, heartbeat; replaced atomically
metrics.jsonl   one line for each report and each evaluation
samples.jsonl   what the model wrote at each evaluation
corpus/         token ids and the tokenizer
checkpoints/    last/ (resumable) and best/
.lock           held by the process that trains
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from textgen.config import RunSettings, parse_settings, read_settings_file
from textgen.errors import CannotWrite, InvalidSetting
from textgen.files import explain_write_errors, recover_folder, write_atomically
from textgen.training.events import EvaluationEvent, SampleEvent, StepEvent


class RunFolder:
    """Reads and writes one run's files."""

    def __init__(self, path: Path, *, wall_clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self.config = path / "config.json"
        self.status = path / "status.json"
        self.metrics = path / "metrics.jsonl"
        self.samples = path / "samples.jsonl"
        self.corpus = path / "corpus"
        self.last = path / "checkpoints" / "last"
        self.best = path / "checkpoints" / "best"
        self._lock = path / ".lock"
        self._wall_clock = wall_clock

    def lock(self, field: str) -> BaseFileLock:
        """Claims the folder until the lock is released or its process ends, however it ends.

        `InvalidSetting` for `field` when the folder is claimed already.
        """
        # A page may prepare a run in one thread, train it in another.
        lock = FileLock(self._lock, thread_local=False)
        with explain_write_errors(self._lock):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                raise InvalidSetting(field, str(self.path), "a run that no other process is training") from None
        return lock

    def check_unused(self) -> None:
        """`InvalidSetting` when the folder holds anything but a run that ended before it trained."""
        if self.path.exists() and not self.path.is_dir():
            raise InvalidSetting("out", str(self.path), "a folder, not a file")
        if self.path.exists() and any(self.path.iterdir()) and not self._never_began():
            allowed = "a new or empty folder; to go on with a run use --resume"
            raise InvalidSetting("out", str(self.path), allowed)

    def create(self, settings: RunSettings) -> None:
        """Starts a run in an unused folder; `InvalidSetting` when it is none."""
        self.check_unused()
        if self.path.exists():
            # Else resuming this run could take up the text of the one before.
            for path in (self.corpus, *self.path.glob(f".{self.corpus.name}.*")):
                shutil.rmtree(path, ignore_errors=True)
        self.write_settings(settings)

    def write_settings(self, settings: RunSettings) -> None:
        content = json.dumps(settings.model_dump(mode="json"), indent=2, ensure_ascii=False)
        write_atomically(self.config, (content + "\n").encode())

    def settings(self) -> RunSettings:
        """What was asked; `InvalidSetting` when the folder is no run."""
        if not self.config.is_file():
            raise InvalidSetting("resume", str(self.path), "the folder of a training run")
        return parse_settings(RunSettings, read_settings_file(self.config))

    def write_status(self, state: str, **details: Any) -> None:
        """Replaces status.json; `state` is preparing, running, stopped, finished or failed."""
        status = {"state": state, "pid": os.getpid(), "heartbeat": self._wall_clock(), **details}
        write_atomically(self.status, (json.dumps(status, ensure_ascii=False) + "\n").encode())

    def write_failure(self, error: BaseException) -> None:
        """Says in status.json why the run failed, as far as the disk lets it: the error itself matters more."""
        with suppress(CannotWrite):
            self.write_status("failed", error=str(error) or type(error).__name__)

    def append_step(self, event: StepEvent) -> None:
        self._append(self.metrics, {"kind": "step", **asdict(event)})

    def append_evaluation(self, event: EvaluationEvent) -> None:
        self._append(self.metrics, {"kind": "evaluation", **asdict(event)})

    def append_samples(self, event: SampleEvent) -> None:
        self._append(self.samples, asdict(event))

    def cut_back(self, step: int) -> None:
        """Drops lines after `step`, and one cut short by a crash: a resumed run then tells each step once."""
        for path in (self.metrics, self.samples):
            if path.exists():
                kept = [line for line in path.read_bytes().splitlines(keepends=True) if _step_of(line) <= step]
                write_atomically(path, b"".join(kept))

    def _never_began(self) -> bool:
        names = {path.name for path in self.path.iterdir() if not self._is_leftover(path)}
        try:
            known = names <= {self.config.name, self.status.name, self.corpus.name}
            return not names or (known and _state_of(self.status) in ("failed", "preparing"))
        except (OSError, ValueError):
            return False

    def _is_leftover(self, path: Path) -> bool:
        """Whether it is the lock or what a killed process left of a file that it was writing."""
        files = (self.config, self.status, self.corpus)
        return path == self._lock or path.name.startswith(tuple(f".{file.name}." for file in files))

    def _append(self, path: Path, values: dict[str, Any]) -> None:
        with explain_write_errors(path), path.open("ab") as stream:
            stream.write((json.dumps(values, ensure_ascii=False) + "\n").encode())


def _state_of(status: Path) -> object:
    content = json.loads(status.read_bytes())
    return content.get("state") if isinstance(content, dict) else None


def _step_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")


def resolve_checkpoint(path: Path) -> Path:
    """The checkpoint folder that `path` means: itself, or the best (else the last) one of a run."""
    for candidate in (path / "checkpoints" / "best", path / "checkpoints" / "last"):
        if (recover_folder(candidate) / "config.json").is_file():
            return candidate
    return path
