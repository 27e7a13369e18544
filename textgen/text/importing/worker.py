"""The process that converts: `python -m textgen.text.importing.worker JOB`, started by `child` and trusted by no one.

JOB is a JSON file. What happens is told on standard output, a line of JSON for each event; texts go to the folder that
the job names. Bounds of memory and processor time are set before any library is imported that reads hostile files.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

from textgen.errors import (
    CannotWrite,
    DamagedFile,
    FileTooLarge,
    HoldsNoText,
    ImportTooBig,
    ImportTooLarge,
    MissingFile,
    NoSuchColumn,
    TextgenError,
    TooManyFiles,
)
from textgen.limits import Limits
from textgen.text.importing.archives import Archive, Member, check_member
from textgen.text.importing.conversion import Input, convert
from textgen.text.importing.job import DIGESTS, SPOOLED, Job, output_name
from textgen.text.importing.kinds import find_kind
from textgen.text.importing.records import ImportedText, ImportSource, refused
from textgen.text.importing.sink import ImportedDocuments, write_text

_log = logging.getLogger(__name__)
_TICK_SECONDS = 0.2
# UTF-8 takes more room than most encodings, and files are written while others are read.
_WRITTEN_BYTES_FACTOR = 4


class Worker:
    """Goes through the sources of a job and tells what becomes of them."""

    def __init__(self, job: Job, tell: Callable[..., None]) -> None:
        self._job, self._limits, self._tell = job, job.limits, tell
        self._files, self._bytes = job.files, job.bytes
        self._seen = ImportedDocuments()
        self._digests = job.folder / DIGESTS
        if self._digests.exists():
            self._seen.restore(self._digests.read_bytes())

    def run(self) -> None:
        """Every source, then the end. Raises `CannotWrite`."""
        for number in range(self._job.source, len(self._job.sources)):
            source = self._job.sources[number]
            first = self._job.member if number == self._job.source else 0
            self._tell("begin", source=number, member=first, name=None, consumed=0)
            # A process before this one may have come to the end of a file and no further.
            if _is_archive(source):
                self._archive(number, source, first)
            elif first == 0:
                self._done(number, 0, self._converted(self._input(source.path, source.name, source), number, 0))
        self._tell("end")

    def _archive(self, number: int, source: ImportSource, first: int) -> None:
        try:
            with Archive(source.path, source.name, self._limits) as archive:
                members = archive.members()
                if not members:
                    raise HoldsNoText(source.name)
                consumed = sum(member.compressed_bytes for member in members[:first])
                for index, member in list(enumerate(members))[first:]:
                    self._tell("begin", source=number, member=index, name=member.name, consumed=consumed)
                    result = self._member(number, index, member, archive, source)
                    self._done(number, index, result)
                    consumed += member.compressed_bytes
                    if isinstance(result.problem, (TooManyFiles, ImportTooLarge)):
                        return
        except CannotWrite:
            raise
        except TextgenError as error:
            self._done(number, first, refused(source.name, error, kind="zip", size=source.path.stat().st_size))

    def _member(self, number: int, index: int, member: Member, archive: Archive, source: ImportSource) -> ImportedText:
        name, spooled = f"{source.name}/{member.name}", self._job.folder / SPOOLED
        try:
            self._check_room(name, 0)
            check_member(member, name)
            archive.spool(member, spooled, name)
            return self._converted(self._input(spooled, name, source), number, index, inside_archive=True)
        except CannotWrite:
            raise
        except TextgenError as error:
            return refused(name, error)
        finally:
            spooled.unlink(missing_ok=True)

    def _converted(self, file: Input, number: int, member: int, *, inside_archive: bool = False) -> ImportedText:
        """What becomes of one file that is no archive, whatever its content does to those who read it."""
        kind, size = "", 0
        columns: tuple[str, ...] = ()
        target = self._job.folder / output_name(number, member)
        problem: TextgenError
        try:
            size = file.size_bytes
            self._check_room(file.name, size)
            kind = find_kind(file.path, file.name, inside_archive=inside_archive)
            tick = self._ticker(number, member, size, told=not inside_archive)
            result = write_text(
                convert(file, kind), target, name=file.name, kind=kind, size_bytes=size, seen=self._seen, tick=tick
            )
            with self._digests.open("ab") as stream:
                stream.write(self._seen.keep())
            return result
        except CannotWrite as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EFBIG:
                raise
            problem = FileTooLarge(file.name, self._limits.max_import_member_bytes)
        except TextgenError as error:
            problem, columns = error, error.columns if isinstance(error, NoSuchColumn) else ()
        except MemoryError:
            problem = ImportTooBig(file.name, self._limits.max_import_memory_bytes)
        except OSError as error:
            problem = MissingFile(file.name, error.strerror or str(error))
        except Exception:
            # Readers of formats raise anything over damaged files.
            _log.exception("%s read as %s", file.name, kind)
            problem = DamagedFile(file.name, kind.upper())
        self._seen.drop()
        target.unlink(missing_ok=True)
        return refused(file.name, problem, kind=kind, size=size, columns=columns)

    def _check_room(self, name: str, size: int) -> None:
        limits = self._limits
        if self._files >= limits.max_import_files:
            raise TooManyFiles(name, limits.max_import_files)
        if size > limits.max_import_member_bytes:
            raise FileTooLarge(name, limits.max_import_member_bytes)
        if self._bytes + size > limits.max_import_total_bytes:
            raise ImportTooLarge(name, limits.max_import_total_bytes)

    def _done(self, number: int, member: int, result: ImportedText) -> None:
        self._files += 1
        self._bytes += result.bytes if result.usable else 0
        self._tell("done", source=number, member=member, result=result.as_dict())

    def _input(self, path: Path, name: str, source: ImportSource) -> Input:
        return Input(path, name, source.encoding, source.column, self._limits)

    def _ticker(self, number: int, member: int, size: int, *, told: bool) -> Callable[[int], None]:
        """Tells now and then how much of a file is written, as a guess of how much was read."""
        due = time.monotonic() + _TICK_SECONDS

        def tick(written: int) -> None:
            nonlocal due
            if told and time.monotonic() >= due:
                due = time.monotonic() + _TICK_SECONDS
                self._tell("progress", source=number, member=member, consumed=min(size, written))

        return tick


def _is_archive(source: ImportSource) -> bool:
    try:
        return find_kind(source.path, source.name) == "zip"
    except (OSError, TextgenError):
        # Whatever it is will be said when it is converted.
        return False


def _limit_process(limits: Limits) -> None:
    """Bounds of this process where the system has them: address space, processor time, size of files, no core dumps."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for kind, amount in (
        (resource.RLIMIT_AS, limits.max_import_memory_bytes),
        (resource.RLIMIT_CPU, math.ceil(limits.max_import_seconds)),
        (resource.RLIMIT_FSIZE, _WRITTEN_BYTES_FACTOR * limits.max_import_member_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        _, highest = resource.getrlimit(kind)
        amount = amount if highest == resource.RLIM_INFINITY else min(amount, highest)
        try:
            resource.setrlimit(kind, (amount, amount))
        except (ValueError, OSError):  # macOS does not bound address space
            _log.warning("no limit of kind %d", kind)


def _tell(event: str, **content: object) -> None:
    sys.stdout.write(json.dumps({"event": event, **content}) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Does the job that the first argument names."""
    job = Job.from_dict(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    _limit_process(job.limits)
    logging.getLogger("pdfminer").setLevel(logging.ERROR)
    try:
        Worker(job, _tell).run()
    except CannotWrite as error:
        _tell("cannot_write", reason=str(error.params["reason"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
