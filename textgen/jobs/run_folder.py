"""The folder of a training run.

config.json     what was asked; the same file that `textgen train --config` reads
about.json      title, owner, time of creation, what is known of the text: what does not change training
status.json     state, process, heartbeat; replaced atomically
control.json    what somebody wants of the process that trains
prompts.json    what samples begin with, once somebody has changed it
metrics.jsonl   one line for each report, each evaluation and each time that memory made batches smaller
samples.jsonl   what the model wrote at each evaluation
log.txt         what the process wrote
texts/          text that was uploaded for this run
corpus/         token ids and the tokenizer
teachers/       the models that it learns from beside the text
checkpoints/    last/ (resumable) and best/
.discarded      there when the run is to be deleted
.lock           held by the process that trains
.reserve        room on the disk to say that the disk is full
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from textgen.config import RunSettings, parse_settings, read_settings_file, update_settings
from textgen.errors import CannotWrite, InvalidSetting
from textgen.files import explain_write_errors, is_file, recover_folder, write_atomically
from textgen.jobs.process_identity import ProcessIdentity
from textgen.jobs.run_status import RunState, RunStatus, error_details, read_status

_RESERVE_BYTES = 16_384


class RunFolder:
    """Reads and writes one run's files. `process` is the one that status.json names; by default this very process."""

    def __init__(
        self, path: Path, *, wall_clock: Callable[[], float] = time.time, process: ProcessIdentity | None = None
    ) -> None:
        self.path = path
        self.config = path / "config.json"
        self.about = path / "about.json"
        self.status = path / "status.json"
        self.control = path / "control.json"
        self.prompts = path / "prompts.json"
        self.metrics = path / "metrics.jsonl"
        self.samples = path / "samples.jsonl"
        self.log = path / "log.txt"
        self.texts = path / "texts"
        self.corpus = path / "corpus"
        self.teachers = path / "teachers"
        self.last = path / "checkpoints" / "last"
        self.best = path / "checkpoints" / "best"
        self.discarded = path / ".discarded"
        self._lock = path / ".lock"
        self._reserve = path / ".reserve"
        self._wall_clock = wall_clock
        self._process = process

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
            for path in (self.corpus, self.teachers, *self.path.glob(f".{self.corpus.name}.*")):
                shutil.rmtree(path, ignore_errors=True)
        self.write_settings(settings)

    def write_settings(self, settings: RunSettings) -> None:
        content = json.dumps(settings.model_dump(mode="json"), indent=2, ensure_ascii=False)
        write_atomically(self.config, _utf8(content + "\n"))

    def settings(self) -> RunSettings:
        """What was asked; `InvalidSetting` when the folder is no run."""
        if not self.config.is_file():
            raise InvalidSetting("resume", str(self.path), "the folder of a training run")
        return parse_settings(RunSettings, read_settings_file(self.config))

    def write_status(self, state: RunState, **details: Any) -> None:
        """Replaces status.json."""
        process = self._process or ProcessIdentity.current()
        self.replace_status(RunStatus(state, self._wall_clock(), process, details))

    def replace_status(self, status: RunStatus) -> None:
        self._write(self.status, status.to_json())

    def read_status(self) -> RunStatus | None:
        """What status.json says; None when it is missing or damaged."""
        return read_status(self.status)

    def write_failure(self, error: BaseException) -> None:
        """Says in status.json why the run failed, as far as the disk lets it: the error itself matters more."""
        before = self.read_status()
        kept = {name: before.details[name] for name in ("step", "progress") if before and name in before.details}
        with suppress(OSError):
            self._reserve.unlink(missing_ok=True)
        with suppress(CannotWrite):
            self.write_status("failed", **kept, **error_details(error))

    def keep_reserve(self) -> None:
        """Takes the room that `write_failure` needs when nothing is left."""
        if not self._reserve.exists():
            self._write(self._reserve, bytes(_RESERVE_BYTES))

    def write_prompts(self, prompts: Sequence[str]) -> None:
        """What samples begin with from the next evaluation on."""
        self._write(self.prompts, _utf8(json.dumps(list(prompts), ensure_ascii=False)))

    def sample_prompts(self, settings: RunSettings) -> tuple[str, ...]:
        """What samples begin with: as somebody changed it, else as was asked at the start."""
        try:
            changed = json.loads(self.prompts.read_bytes())
            return update_settings(settings, sample_prompts=changed).sample_prompts
        except (OSError, ValueError):  # InvalidSetting is one
            return settings.sample_prompts

    def write_control(self, verb: str) -> None:
        """Asks the process that trains to do something."""
        self._write(self.control, json.dumps({"verb": verb}).encode())

    def read_control(self) -> str | None:
        """What is asked of the process that trains."""
        try:
            return str(json.loads(self.control.read_bytes())["verb"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write_about(self, **values: Any) -> None:
        """Changes some of what about.json says."""
        content = {**self.read_about(), **values}
        self._write(self.about, _utf8(json.dumps(content, indent=2, ensure_ascii=False) + "\n"))

    def read_about(self) -> dict[str, Any]:
        """What about.json says; nothing when it is missing or damaged."""
        try:
            content = json.loads(self.about.read_bytes())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def trained_minutes(self) -> float:
        """How long the run has trained up to its last checkpoint, over all interruptions."""
        try:
            seconds = float(json.loads((recover_folder(self.last) / "training.json").read_bytes())["elapsed_seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0.0
        return seconds / 60.0 if math.isfinite(seconds) else 0.0

    def append_metrics(self, kind: str, values: dict[str, Any]) -> None:
        self._append(self.metrics, {"kind": kind, **values})

    def append_samples(self, values: dict[str, Any]) -> None:
        self._append(self.samples, values)

    def last_samples(self) -> tuple[str, ...]:
        """What the model wrote at its latest evaluation; nothing where that is not known."""
        try:
            last = json.loads(self.samples.read_bytes().splitlines()[-1])
            return tuple(str(text) for text in last["samples"])
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return ()

    def cut_back(self, step: int, *, evaluated: bool = True) -> None:
        """Drops lines after `step`, and one cut short by a crash: a resumed run then tells each step once.

        At step 0 samples are made again; evaluations too, unless they were `evaluated` already.
        """
        for path, last in ((self.metrics, step if evaluated else step - 1), (self.samples, step if step else -1)):
            if path.exists():
                kept = [line for line in path.read_bytes().splitlines(keepends=True) if _step_of(line) <= last]
                write_atomically(path, b"".join(kept))

    def _never_began(self) -> bool:
        names = {path.name for path in self.path.iterdir() if not self._is_leftover(path)}
        known = names <= {self.config.name, self.status.name, self.corpus.name, self.teachers.name}
        status = self.read_status()
        return not names or (known and status is not None and status.state in ("failed", "preparing"))

    def _is_leftover(self, path: Path) -> bool:
        """Whether it is the lock or what a killed process left of a file that it was writing."""
        files = (self.config, self.status, self.corpus)
        return path in (self._lock, self._reserve) or path.name.startswith(tuple(f".{file.name}." for file in files))

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        """A run that has just been discarded must not come back as a folder that is none."""
        write_atomically(path, data, make_folder=False)

    def _append(self, path: Path, values: dict[str, Any]) -> None:
        with explain_write_errors(path), path.open("ab") as stream:
            stream.write(_utf8(json.dumps(values, ensure_ascii=False) + "\n"))


def _utf8(text: str) -> bytes:
    """In place of half a character, which browsers may send and no file can hold, stands a question mark."""
    return text.encode("utf-8", "replace")


def _step_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")


def resolve_checkpoint(path: Path) -> Path:
    """The checkpoint folder that `path` means: itself, or the best (else the last) one of a run."""
    for candidate in (path / "checkpoints" / "best", path / "checkpoints" / "last"):
        if is_file(recover_folder(candidate) / "config.json"):
            return candidate
    return path


def run_of(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint is of, or the checkpoint's own where it is of none.

    A model that somebody fetched lies in such a folder too, with about.json only.
    """
    path = checkpoint.absolute()
    folder = path.parents[1] if path.parent.name == "checkpoints" else path
    return folder if any((folder / name).is_file() for name in ("config.json", "about.json")) else path
