"""Writing so that a crash leaves either the old content or the new, never a mixture."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs
from safetensors import SafetensorError

from textgen.errors import CannotWrite, NoRoom

# Where a Space has a storage bucket, if it has one; without it the folder may be there, too, and does not last.
SPACE_STORAGE = Path("/data")


def is_mounted(folder: Path) -> bool:
    """Whether `folder` lies in a file system of its own, below the root, that may be written to."""
    places = [place for place in (folder.absolute(), *folder.absolute().parents) if os.path.ismount(place)]
    return places[0] != Path(folder.absolute().anchor) and os.access(places[0], os.W_OK)


def runs_folder(
    environment: Mapping[str, str], root: Path, asked: Path | None = None, *, storage: Path = SPACE_STORAGE
) -> Path:
    """Where runs are kept: where it was `asked` for, else where TEXTGEN_RUNS says.

    Else that is in the `storage` of a Space that has any, or in `root`.
    """
    given = asked or environment.get("TEXTGEN_RUNS")
    if given:
        return Path(given)
    return (storage if "SPACE_ID" in environment and is_mounted(storage) else root) / "runs"


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Where things go that can be made again: TEXTGEN_CACHE, or the folder that the system has for that."""
    given = environment.get("TEXTGEN_CACHE")
    return Path(given) if given else platformdirs.user_cache_path("textgen-studio", appauthor=False)


def is_file(path: Path) -> bool:
    """As pathlib has it, which raises in a folder that may not be searched, such as lost+found: there is none here."""
    try:
        return path.is_file()
    except OSError:
        return False


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turns an `OSError` (full disk, missing rights) into `CannotWrite`, a sentence that names the path."""
    try:
        yield
    except OSError as error:
        raise CannotWrite(str(path), error.strerror or str(error)) from error
    except SafetensorError as error:  # safetensors has no other word for a full disk
        raise CannotWrite(str(path), str(error)) from error


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new folder for as long as the block takes; raises `CannotWrite` where none can be made, as on a full disk."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="textgen-", ignore_cleanup_errors=True)
    except OSError as error:
        raise CannotWrite(tempfile.tempdir or "TMPDIR", error.strerror or str(error)) from error
    with folder as path:
        yield Path(path)


def write_atomically(path: Path, data: bytes, *, make_folder: bool = True) -> None:
    """Replaces the file at `path` by `data`; raises `CannotWrite`, where its folder is not to be made if it is gone."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    with explain_write_errors(path):
        try:
            if make_folder:
                path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def replace_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Replaces `folder` by one that `fill` writes into an empty folder beside it; raises `CannotWrite`.

    No file system call replaces a full folder, so the old one steps aside under a name that `recover_folder` knows:
    whenever the process dies, one complete folder is there.
    """
    new, old = folder.with_name(f".{folder.name}.{os.getpid()}.new"), _aside(folder)
    with explain_write_errors(folder):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            recover_folder(folder)
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            fill(new)
            for path in new.iterdir():
                _sync(path)
            _sync(new)
            _swap(folder, new, old)
            _sync(folder.parent)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def recover_folder(folder: Path) -> Path:
    """`folder`, put back in its place first if a crash caught it stepping aside."""
    if not folder.name:  # "." and "/" are there, and nothing steps aside from them
        return folder
    old = _aside(folder)
    # A `replace_folder` in another process that is just done is no crash: then the new one is there.
    with suppress(OSError):
        if not folder.exists() and old.is_dir():
            os.rename(old, folder)
    return folder


def check_free(folder: Path, needed_bytes: int, *, min_free_bytes: int) -> None:
    """Makes `folder`; raises `NoRoom` where after `needed_bytes` more its disk had fewer than `min_free_bytes` free."""
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    if free < needed_bytes + min_free_bytes:
        raise NoRoom(free, needed_bytes + min_free_bytes)


def folder_bytes(folder: Path) -> int:
    """The size of all files in it; those that vanish meanwhile do not count."""
    total = 0
    # os.walk passes over a folder that is gone; Path.rglob of Python 3.11 fails there.
    for inner, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += Path(inner, name).lstat().st_size
    return total


def _swap(folder: Path, new: Path, old: Path) -> None:
    while True:
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.rename(folder, old)
        try:
            return os.rename(new, folder)
        except OSError as error:
            # A reader took the moment between for a crash and put the old folder back.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
