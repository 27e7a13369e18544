"""Files of others → plain UTF-8 text files, converted in a process of its own that may fail over each of them."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from textgen.errors import (
    CannotWrite,
    HoldsNoText,
    ImportFailed,
    ImportTooBig,
    ImportTooSlow,
    InvalidSetting,
    TextgenError,
)
from textgen.files import explain_write_errors
from textgen.limits import Limits
from textgen.progress import Progress, ProgressCallback, ignore_progress
from textgen.text.encodings import check_encoding
from textgen.text.importing.acceptance import checked_result, next_path
from textgen.text.importing.child import ERRORS, Child, running
from textgen.text.importing.conversion import Conversion
from textgen.text.importing.job import BadEvent, Job, output_name
from textgen.text.importing.records import ImportedText, ImportSource, refused
from textgen.text.importing.sink import write_text
from textgen.text.readers import SeenDocuments

_log = logging.getLogger(__name__)
_MAX_NAME_CHARS = 255
# What a process may take to start on a busy machine, before the time of its first file begins.
_START_SECONDS = 60.0
_MAX_REASON_CHARS = 200
_LOGGED_BYTES = 4_000


def import_texts(
    sources: Sequence[ImportSource],
    destination: Path,
    *,
    limits: Limits = Limits(),
    progress: ProgressCallback = ignore_progress,
) -> list[ImportedText]:
    """Converts files to UTF-8 text under generated names (0001.txt, …) in `destination`, which is made if need be.

    Returns a record for each file in their order, for an archive one for each file in it. What is wrong with a file is
    in its record and harms no other: one over which the converting process ends, or that takes too long or too much
    memory, is given up, and another process goes on with the next. Documents (rows of a table) are separated by a blank
    line, as `split` "blank-line" of `TextSettings` takes them apart.

    `progress` is told of the stage "importing" in bytes of the files. When it raises, the import ends and what was
    converted stays in `destination`.

    Raises `CannotWrite`, and `InvalidSetting` for too many files, an unknown encoding or an empty name.
    """
    _check(sources, limits)
    with explain_write_errors(destination):
        destination.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".import-", dir=destination))
    try:
        named = tuple(
            replace(source, path=source.path.resolve(), name=source.name[-_MAX_NAME_CHARS:]) for source in sources
        )
        sizes = [_size(source.path) for source in named]
        return _Import(named, destination, folder.resolve(), limits, progress, [[] for _ in named], sizes).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_pasted(text: str, destination: Path, *, name: str, limits: Limits = Limits()) -> ImportedText:
    """Writes text that someone typed or pasted to `destination` as `import_texts` does; `name` is for the record.

    Lone surrogates become U+FFFD, all line ends a line feed. Raises `CannotWrite`, and `InvalidSetting` for text beyond
    `max_import_member_bytes`. Text without a visible character is refused in the record.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > limits.max_import_member_bytes:
        raise InvalidSetting("text", f"{size:,} bytes", f"at most {limits.max_import_member_bytes:,} bytes")
    with explain_write_errors(destination):
        destination.mkdir(parents=True, exist_ok=True)
        target = next_path(destination)
    conversion = Conversion(iter([text]), kept=True, encoding="utf-8")
    try:
        return write_text(conversion, target, name=name, kind="txt", size_bytes=size, seen=SeenDocuments())
    except HoldsNoText as problem:
        target.unlink(missing_ok=True)
        return refused(name, problem, kind="txt", size=size)


def _check(sources: Sequence[ImportSource], limits: Limits) -> None:
    if len(sources) > limits.max_import_files:
        raise InvalidSetting("files", f"{len(sources):,}", f"at most {limits.max_import_files:,}")
    for source in sources:
        if not source.name:
            raise InvalidSetting("name", source.name, "what the file is called")
        if source.encoding is not None:
            check_encoding(source.encoding)


@dataclass
class _Import:
    """One import: how far it is, and what came out so far."""

    sources: tuple[ImportSource, ...]
    destination: Path
    folder: Path
    limits: Limits
    progress: ProgressCallback
    results: list[list[ImportedText]]
    sizes: list[int]
    # What comes next: the number of a source, and in an archive the number of a file in it.
    source: int = 0
    member: int = 0
    # What the process is at: "" for a source itself, the name of a file in an archive; None between two files.
    at: str | None = None

    def run(self) -> list[ImportedText]:
        limits = self.limits
        deadline = time.monotonic() + limits.max_import_seconds
        while self.source < len(self.sources):
            if time.monotonic() >= deadline:
                self._give_up(ImportTooSlow(self._name(), limits.max_import_seconds))
            else:
                self._run_child(deadline)
        for source, results in zip(self.sources, self.results, strict=True):
            # No honest process leaves one out.
            if not results:
                results.append(refused(source.name, ImportFailed(source.name)))
        self._report(0)
        return [result for results in self.results for result in results]

    def _run_child(self, deadline: float) -> None:
        """Lets a process go on from here as far as it comes; what it is ended over is given up."""
        done = [result for results in self.results for result in results]
        used = {"files": len(done), "bytes": sum(result.bytes for result in done if result.usable)}
        before = (self.source, self.member)
        self.at = None
        with running(Job(self.sources, self.folder, self.limits, *before, **used)) as child:
            problem: TextgenError | None
            try:
                problem = self._follow(child, deadline)
            except TimeoutError:
                late = time.monotonic() >= deadline
                seconds = self.limits.max_import_seconds if late else self.limits.max_import_file_seconds
                problem = ImportTooSlow(self._name(), seconds)
            except BadEvent:
                problem = ImportFailed(self._name())
        if problem is not None:
            _log_errors(self.folder)
            if self._is_stuck(before):
                self._give_up(problem)

    def _is_stuck(self, before: tuple[int, int]) -> bool:
        """Whether the process ended over something, rather than between two files."""
        return self.at is not None or (self.source, self.member) == before

    def _follow(self, child: Child, deadline: float) -> TextgenError | None:
        """Takes what the process tells until its end; returns why that came if it came too early."""
        seconds = self.limits.max_import_file_seconds
        file_deadline = time.monotonic() + max(seconds, _START_SECONDS)
        while (event := child.next_event(min(deadline, file_deadline))) is not None:
            if event["event"] in ("begin", "done"):
                file_deadline = time.monotonic() + seconds
            self._take(event)
        if self.source == len(self.sources):
            return None
        if child.returncode == -getattr(signal, "SIGXCPU", 0):
            return ImportTooSlow(self._name(), self.limits.max_import_seconds)
        if child.returncode == -getattr(signal, "SIGKILL", 0):
            return ImportTooBig(self._name(), self.limits.max_import_memory_bytes)
        return ImportFailed(self._name())

    def _take(self, event: Mapping[str, Any]) -> None:
        kind, source, member = event["event"], event.get("source"), event.get("member")
        if kind == "cannot_write":
            raise CannotWrite(str(self.destination), str(event.get("reason"))[:_MAX_REASON_CHARS])
        if kind == "end":
            self.source, self.member, self.at = len(self.sources), 0, None
            return
        if type(source) is not int or type(member) is not int or max(source, self.source) >= len(self.sources):
            raise BadEvent
        if kind == "begin" and (source, member) >= (self.source, self.member):
            self.source, self.member, self.at = source, member, str(event.get("name") or "")[:_MAX_NAME_CHARS]
        elif kind == "done" and (source, member) == (self.source, self.member) and self.at is not None:
            converted = self.folder / output_name(source, member)
            result = checked_result(event.get("result"), self._name(), converted, self.limits)
            if result.usable:
                with explain_write_errors(self.destination):
                    path = next_path(self.destination)
                    os.replace(converted, path)
                result = replace(result, path=path)
            self.results[source].append(result)
            self.member, self.at = member + 1, None
        elif kind != "progress":
            raise BadEvent
        if kind != "done":
            self._report(event.get("consumed"))

    def _give_up(self, problem: TextgenError) -> None:
        """What the process is at, or else the next source, cannot be converted; the one after it comes next."""
        self.results[self.source].append(refused(self._name(), problem))
        if self.at:
            self.member += 1
        else:
            self.source, self.member = self.source + 1, 0
        self.at = None

    def _name(self) -> str:
        name = self.sources[self.source].name
        return f"{name}/{self.at}" if self.at else name

    def _report(self, consumed: object) -> None:
        sizes = self.sizes
        here = consumed if isinstance(consumed, int) else 0
        done = sum(sizes[: self.source]) + min(max(0, here), sum(sizes[self.source : self.source + 1]))
        self.progress(Progress("importing", done, sum(sizes), "bytes"))


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


def _log_errors(folder: Path) -> None:
    """The end of what the process wrote to its error stream, for who looks after the server."""
    with suppress(OSError), (folder / ERRORS).open("rb") as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - _LOGGED_BYTES))
        _log.warning("A process that converts files ended early. %s", stream.read().decode("utf-8", "replace"))
