"""Models in memory: loaded when first wanted, dropped when others need the room, never while in use."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Generic, TypeVar

from textgen.errors import EngineClosed, MissingFile
from textgen.files import recover_folder
from textgen.model.checkpoint import CONFIG, COPY_INDEX
from textgen.model.weight_files import weight_files

T = TypeVar("T")


def checkpoint_version(folder: Path) -> Hashable:
    """Changes whenever the checkpoint in `folder` is replaced; raises `MissingFile`."""
    folder = recover_folder(folder)
    try:
        files = [path.stat() for path in (folder / CONFIG, *weight_files(folder))]
        files += [path.stat() for path in (folder / COPY_INDEX,) if path.exists()]
    except OSError as error:
        raise MissingFile(str(error.filename), error.strerror or str(error)) from None
    return tuple((file.st_ino, file.st_mtime_ns, file.st_size) for file in files)


@dataclass(eq=False)
class _Loaded(Generic[T]):
    """A model in memory, of the `version` that was on disk when its loading began. `leases` counts its users."""

    folder: Path
    version: Hashable
    model: T
    bytes: int
    leases: int = 0


class Lease(Generic[T]):
    """The right to use a model until `release`, or until the lease itself is forgotten.

    A context manager that gives the model. Whoever keeps the model without the lease may find it closed.
    """

    def __init__(self, loaded: _Loaded[T], returned: SimpleQueue[_Loaded[T]], tidy: Callable[[], None]) -> None:
        self._model: T | None = loaded.model
        self._tidy = tidy
        # The garbage collector may forget a lease at any moment, also while this very thread holds the library's lock.
        # So handing back is only a note in a queue made for that; the library reads it when it is next asked.
        self._hand_back = weakref.finalize(self, returned.put, loaded)
        self._hand_back.atexit = False

    @property
    def model(self) -> T:
        """The model; raises `EngineClosed` after `release`."""
        if self._model is None:
            raise EngineClosed()
        return self._model

    def release(self) -> None:
        """Ends the lease, from any thread. More than once does no harm."""
        self._model = None
        self._hand_back()
        self._tidy()

    def __enter__(self) -> T:
        return self.model

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class ModelLibrary(Generic[T]):
    """Models by their folders. Beyond `max_bytes` those not in use are closed, least recently used first. Thread-safe.

    `load` reads a folder, `size_of` says how many bytes the model takes and `close` ends it; while they work, other
    folders' models can be borrowed. `version_of` names what is on disk now: when it changes, the folder is loaded
    again, and the model before is closed once nobody uses it. A model makes room when it has been loaded, since its
    size is not known before. The last model stays even if it is too large; otherwise every request would load it.
    """

    def __init__(
        self,
        load: Callable[[Path], T],
        *,
        size_of: Callable[[T], int],
        close: Callable[[T], None],
        max_bytes: int,
        version_of: Callable[[Path], Hashable] = checkpoint_version,
    ) -> None:
        self.max_bytes = max_bytes
        self._load = load
        self._size_of = size_of
        self._close = close
        self._version_of = version_of
        self._lock = threading.Lock()
        self._loading: dict[Path, threading.Lock] = {}
        self._current: OrderedDict[Path, _Loaded[T]] = OrderedDict()  # the one whose use ended first comes first
        self._replaced: list[_Loaded[T]] = []  # of an older version, and in use
        self._returned: SimpleQueue[_Loaded[T]] = SimpleQueue()
        self._closed = False

    @property
    def nbytes(self) -> int:
        """Bytes of all models in memory, by `size_of`."""
        with self._lock:
            return self._nbytes()

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders whose models are in memory; of those not in use, the least recently used first."""
        with self._lock:
            return tuple(self._current)

    @property
    def models(self) -> tuple[T, ...]:
        """All models in memory, those of an older version too."""
        with self._lock:
            return tuple(loaded.model for loaded in (*self._current.values(), *self._replaced))

    def borrow(self, folder: Path) -> Lease[T]:
        """The model in `folder` as it is on disk now, loaded if need be.

        While it is being loaded, others who want it wait and those who want another model do not. Raises what `load`
        and `version_of` raise, when those who waited have their own try, and `EngineClosed` after `close`.
        """
        with self._lock:
            loading = self._loading.setdefault(folder, threading.Lock())
        with loading:
            version = self._version_of(folder)
            lease = self._lend_present(folder, version)
            if lease is None:
                model = self._load(folder)
                lease = self._keep(_Loaded(folder, version, model, self._size_of(model)))
        self.tidy()
        return lease

    def tidy(self) -> None:
        """Closes models that are in nobody's use any more and that there is no room for; `borrow` and `release` do."""
        with self._lock:
            unwanted = self._take_unwanted()
        self._close_all(unwanted)

    def close(self) -> None:
        """Closes all models, those in use too, and lends no more."""
        with self._lock:
            self._closed = True
            loaded = [*self._current.values(), *self._replaced]
            self._current.clear()
            self._replaced.clear()
        self._close_all(loaded)

    def _lend_present(self, folder: Path, version: Hashable) -> Lease[T] | None:
        with self._lock:
            if self._closed:
                raise EngineClosed()
            present = self._current.get(folder)
            return self._lend(present) if present is not None and present.version == version else None

    def _keep(self, loaded: _Loaded[T]) -> Lease[T]:
        with self._lock:
            if not self._closed:
                before = self._current.pop(loaded.folder, None)
                if before is not None:
                    self._replaced.append(before)
                self._current[loaded.folder] = loaded
                return self._lend(loaded)
        self._close(loaded.model)
        raise EngineClosed()

    def _lend(self, loaded: _Loaded[T]) -> Lease[T]:
        loaded.leases += 1
        return Lease(loaded, self._returned, self.tidy)

    def _take_unwanted(self) -> list[_Loaded[T]]:
        self._count_returned()
        unwanted = [loaded for loaded in self._replaced if not loaded.leases]
        self._replaced = [loaded for loaded in self._replaced if loaded.leases]
        surplus = self._nbytes() - self.max_bytes
        for loaded in list(self._current.values()):
            if surplus > 0 and not loaded.leases and len(self._current) > 1:
                del self._current[loaded.folder]
                unwanted.append(loaded)
                surplus -= loaded.bytes
        return unwanted

    def _count_returned(self) -> None:
        while True:
            try:
                loaded = self._returned.get_nowait()
            except Empty:
                return
            loaded.leases -= 1
            if self._current.get(loaded.folder) is loaded:
                self._current.move_to_end(loaded.folder)

    def _nbytes(self) -> int:
        return sum(loaded.bytes for loaded in (*self._current.values(), *self._replaced))

    def _close_all(self, models: Iterable[_Loaded[T]]) -> None:
        # One that cannot be closed must not keep the others open.
        with ExitStack() as stack:
            for loaded in models:
                stack.callback(self._close, loaded.model)
