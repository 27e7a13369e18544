"""Zip files, and documents that are zip files inside, read without trusting what they say about themselves."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from textgen.errors import ArchiveBomb, DamagedFile, EncryptedFile, FileTooLarge, UnsafeMember, UnsupportedFile
from textgen.limits import Limits
from textgen.text.importing.formats import ALLOWED
from textgen.text.importing.member_names import decode_names

_CHUNK_BYTES = 1 << 18
# Whatever its ratio, so little does no harm: short repetitive files compress very well.
_HARMLESS_BYTES = 2_000_000
_ENCRYPTED = 0x1
_FILE_TYPE_MASK, _SYMBOLIC_LINK, _REGULAR_FILE = 0o170000, 0o120000, 0o100000


@dataclass(frozen=True)
class Member:
    """A file in an archive. `name` is its own, fit to be shown."""

    name: str
    info: zipfile.ZipInfo

    @property
    def compressed_bytes(self) -> int:
        """What it takes in the archive, as the archive says."""
        return self.info.compress_size


class Archive:
    """An open zip file; `name` and `kind` say in errors what it is.

    Raises `DamagedFile` and, for members that overlap, `ArchiveBomb`.
    """

    def __init__(self, path: Path, name: str, limits: Limits, kind: str = "ZIP") -> None:
        self._name, self._kind, self._limits = name, kind, limits
        self._read_bytes = 0
        with self._explained(name):
            self._zip = zipfile.ZipFile(path)
        # Honest members lie side by side: together they are no longer than the file.
        if sum(info.compress_size for info in self._zip.infolist()) > path.stat().st_size:
            self._zip.close()
            raise ArchiveBomb(name, limits.max_import_ratio)

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def members(self) -> list[Member]:
        """The files in it without folders and the notes that systems leave, in the archive's order."""
        infos = self._zip.infolist()
        named = zip(decode_names(infos), infos, strict=True)
        return [Member(name, info) for name, info in named if not (info.is_dir() or _is_system_note(name))]

    def find(self, name: str) -> Member | None:
        """The member of this exact name."""
        try:
            return Member(name, self._zip.getinfo(name))
        except KeyError:
            return None

    def chunks(self, member: Member, name: str | None = None) -> Iterator[bytes]:
        """The content of a member; `name` says in errors what it is, or the archive's name does.

        Raises `ArchiveBomb`, `FileTooLarge`, `EncryptedFile`, `UnsupportedFile` for an unknown compression, and
        `DamagedFile`.
        """
        name, info, read = name or self._name, member.info, 0
        if info.flag_bits & _ENCRYPTED:
            raise EncryptedFile(name)
        self._check_size(name, info, info.file_size)
        with self._explained(name), self._zip.open(info) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                read += len(chunk)
                self._read_bytes += len(chunk)
                self._check_size(name, info, read)
                yield chunk

    def stream(self, member: Member) -> ChunkReader:
        """`chunks` as something to read from; all that is read so counts towards the size of the document."""
        return ChunkReader(self._limited(member))

    def read(self, member: Member) -> bytes:
        """All of a member of a document."""
        return b"".join(self._limited(member))

    def spool(self, member: Member, target: Path, name: str) -> int:
        """Writes a member to a file of its own and returns its size in bytes; raises what `chunks` does."""
        with target.open("wb") as file:
            for chunk in self.chunks(member, name):
                file.write(chunk)
            return file.tell()

    def _limited(self, member: Member) -> Iterator[bytes]:
        for chunk in self.chunks(member):
            if self._read_bytes > self._limits.max_import_member_bytes:
                raise FileTooLarge(self._name, self._limits.max_import_member_bytes)
            yield chunk

    def _check_size(self, name: str, info: zipfile.ZipInfo, size: int) -> None:
        limits = self._limits
        if size > max(_HARMLESS_BYTES, limits.max_import_ratio * info.compress_size):
            raise ArchiveBomb(name, limits.max_import_ratio)
        if size > limits.max_import_member_bytes:
            raise FileTooLarge(name, limits.max_import_member_bytes)

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except NotImplementedError:
            raise UnsupportedFile(name, f"{self._kind} (compression)", ALLOWED) from None
        except (zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError) as error:
            if isinstance(error, (ArchiveBomb, FileTooLarge)):
                raise
            raise DamagedFile(name, self._kind) from None
        except Exception as error:
            # zlib and lzma have errors of their own.
            if type(error).__module__ in ("zlib", "_lzma", "lzma"):
                raise DamagedFile(name, self._kind) from None
            raise


class ChunkReader:
    """Chunks of bytes as a thing with `read`."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks

    def read(self, _size: int, /) -> bytes:
        """The next chunk, of whatever size; empty at the end."""
        return next(self._chunks, b"")


def check_member(member: Member, name: str) -> None:
    """Raises `UnsafeMember` for a link, a device, or a name that leads out of the archive."""
    mode = member.info.external_attr >> 16
    plain = mode & _FILE_TYPE_MASK in (0, _REGULAR_FILE)
    written = member.name.replace("\\", "/")
    drive = len(written) > 1 and written[1] == ":"
    if not plain or written.startswith("/") or drive or ".." in written.split("/"):
        raise UnsafeMember(name)


def _is_system_note(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    hidden = parts[-1].startswith(".") and ".." not in parts
    return hidden or "__MACOSX" in parts or parts[-1].lower() in ("thumbs.db", "desktop.ini")
