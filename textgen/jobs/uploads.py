"""Text that people brought and have not trained on yet: what they uploaded and what came out of it."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from textgen.errors import InvalidSetting, MissingFile, NoRoom, NotFound
from textgen.files import explain_write_errors, folder_bytes, write_atomically
from textgen.jobs.people import Person
from textgen.limits import Limits
from textgen.progress import ProgressCallback, ignore_progress
from textgen.text.importing import ImportedText, ImportSource, import_texts, write_pasted

# The name of what was not in a file.
PASTED = "pasted"
_FOLDER = ".uploads"
_DAY_SECONDS = 86_400.0


@dataclass(frozen=True)
class Upload:
    """Imported text, and the files it came from so that they can be read once more in another way."""

    upload_id: str
    folder: Path
    sources: tuple[ImportSource, ...]
    pasted: str
    texts: tuple[ImportedText, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """The converted texts that there are."""
        return tuple(text.path for text in self.texts if text.path is not None)

    @property
    def title(self) -> str:
        """What a run on it is called when nobody says: the first file that could be read, without its ending."""
        return next((PurePath(text.name).stem for text in self.texts if text.usable), "")

    @property
    def characters(self) -> int:
        return sum(text.characters for text in self.texts)

    @property
    def documents(self) -> int:
        return sum(text.documents for text in self.texts)


class UploadStore:
    """The uploads of all people, in a hidden folder beside the runs. What nobody trains on goes after a day.

    `kept_elsewhere` says how many bytes a person keeps beside that, in runs: they count towards the same limit.
    """

    def __init__(
        self,
        runs: Path,
        *,
        limits: Limits,
        kept_elsewhere: Callable[[Person], int] = lambda _: 0,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._root = runs / _FOLDER
        self._limits = limits
        self._kept_elsewhere = kept_elsewhere
        self._wall_clock = wall_clock
        self._in_use: Counter[str] = Counter()
        self._lock = threading.Lock()

    def receive(
        self,
        files: Sequence[tuple[Path, str]],
        pasted: str,
        person: Person,
        progress: ProgressCallback = ignore_progress,
        *,
        before: str = "",
    ) -> Upload:
        """Takes files (path, what the person calls it) and pasted text, and imports them.

        Files that were in the person's upload `before` are read with the encoding and the column chosen there.
        Raises `InvalidSetting` when there is nothing, too much or too many, `MissingFile`, and `CannotWrite`.
        """
        if not files and not pasted.strip():
            raise InvalidSetting("files", "none", "text files, or pasted text")
        size = sum(size_of(path, name) for path, name in files) + len(pasted.encode("utf-8", "replace"))
        if size > self._limits.max_upload_bytes:
            raise InvalidSetting(
                "files", f"{size / 1e6:,.0f} MB", f"at most {self._limits.max_upload_bytes / 1e6:,.0f} MB at once"
            )
        self.sweep()
        self._check_room(size, person)
        upload_id = secrets.token_hex(8)
        folder = self._root / upload_id
        sources = []
        known = self._chosen(before, person)
        try:
            with explain_write_errors(folder):
                (folder / "raw").mkdir(parents=True)
                for number, (path, name) in enumerate(files, 1):
                    raw = folder / "raw" / f"{number:04}"
                    shutil.copyfile(path, raw)
                    chosen = known.get((name, _digest(raw))) if known else None
                    sources.append(replace(chosen, path=raw) if chosen else ImportSource(raw, name))
            return self._imported(upload_id, tuple(sources), pasted, person.key, progress)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _chosen(self, upload_id: str, person: Person) -> dict[tuple[str, bytes], ImportSource]:
        """The files of an upload that were to be read in a certain way, by name and content."""
        try:
            sources = self.get(upload_id, person).sources
            return {(item.name, _digest(item.path)): item for item in sources if item.encoding or item.column}
        except (NotFound, OSError):
            return {}

    def _check_room(self, size: int, person: Person) -> None:
        with explain_write_errors(self._root):
            self._root.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self._root).free - size
        if free < self._limits.min_free_disk_bytes:
            raise NoRoom(max(0, free), self._limits.min_free_disk_bytes)
        if person.is_admin:
            return
        mine = [folder for folder in self._root.iterdir() if person.owns(str(self._content(folder).get("owner")))]
        kept = sum(folder_bytes(folder) for folder in mine) + self._kept_elsewhere(person)
        if kept + size > self._limits.max_person_bytes:
            most = f"at most {self._limits.max_person_bytes / 1e6:,.0f} MB in all"
            raise InvalidSetting("files", f"{(kept + size) / 1e6:,.0f} MB", most)

    def read_again(
        self,
        upload_id: str,
        person: Person,
        name: str,
        *,
        encoding: str | None = None,
        column: str | None = None,
        progress: ProgressCallback = ignore_progress,
    ) -> Upload:
        """Imports an upload once more, with another encoding or column for the file of that name (or the archive).

        Raises what `receive` raises, and `NotFound`; the texts from before are then still there.
        """
        with self.using(upload_id, person) as before:
            sources = tuple(
                replace(source, encoding=encoding, column=column)
                if name == source.name or name.startswith(f"{source.name}/")
                else source
                for source in before.sources
            )
            content = self._content(before.folder)
            return self._imported(upload_id, sources, before.pasted, str(content["owner"]), progress)

    def get(self, upload_id: str, person: Person) -> Upload:
        """An upload of that person; `NotFound` for any other."""
        known = {path.name for path in self._root.iterdir()} if self._root.is_dir() else set()
        if upload_id not in known:
            raise NotFound("upload", upload_id, "")
        folder = self._root / upload_id
        content = self._content(folder)
        if "owner" not in content or not person.owns(str(content["owner"])):
            raise NotFound("upload", upload_id, "")
        try:
            sources = tuple(
                ImportSource(Path(item["path"]), item["name"], item["encoding"], item["column"])
                for item in content["sources"]
            )
            texts = tuple(map(ImportedText.from_dict, content["texts"]))
            return Upload(upload_id, folder, sources, str(content["pasted"]), texts)
        except (KeyError, TypeError, ValueError):  # damaged, or of another version of the program
            raise NotFound("upload", upload_id, "") from None

    @contextmanager
    def using(self, upload_id: str, person: Person) -> Iterator[Upload]:
        """An upload that is not replaced meanwhile; raises what `get` raises."""
        with self._lock:
            upload = self.get(upload_id, person)
            self._in_use[upload_id] += 1
        try:
            yield upload
        finally:
            with self._lock:
                self._in_use[upload_id] -= 1
                if not self._in_use[upload_id]:
                    del self._in_use[upload_id]

    def replaced(self, upload_id: str, person: Person) -> None:
        """Deletes an upload of that person in whose place another has come; one that is in use is left to `sweep`."""
        with self._lock, suppress(NotFound):
            if upload_id not in self._in_use:
                self.remove(self.get(upload_id, person))

    def remove(self, upload: Upload) -> None:
        """Deletes an upload, and nothing of a run that has just taken its texts away."""
        _delete(upload.folder)

    def sweep(self) -> None:
        """Deletes what nobody has trained on for a day."""
        if self._root.is_dir():
            for folder in self._root.iterdir():
                with self._lock, suppress(FileNotFoundError):  # a run has just taken it
                    unused = folder.name not in self._in_use
                    if unused and self._wall_clock() - folder.stat().st_mtime > _DAY_SECONDS:
                        _delete(folder)

    def _imported(
        self, upload_id: str, sources: tuple[ImportSource, ...], pasted: str, owner: str, progress: ProgressCallback
    ) -> Upload:
        folder = self._root / upload_id
        destination = folder / "texts"
        with _kept_on_failure(destination):
            texts = import_texts(sources, destination, limits=self._limits, progress=progress) if sources else []
            if pasted.strip():
                texts.append(write_pasted(pasted, destination, name=PASTED, limits=self._limits))
            content = {
                "owner": owner,
                "pasted": pasted,
                "sources": [
                    {"path": str(item.path), "name": item.name, "encoding": item.encoding, "column": item.column}
                    for item in sources
                ],
                "texts": [text.as_dict() for text in texts],
            }
            # As ASCII: lone surrogates, which UTF-8 has no place for, come back as they were.
            write_atomically(folder / "upload.json", json.dumps(content, ensure_ascii=True).encode())
        return Upload(upload_id, folder, sources, pasted, tuple(texts))

    @staticmethod
    def _content(folder: Path) -> Mapping[str, Any]:
        try:
            content = json.loads((folder / "upload.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


def _delete(folder: Path) -> None:
    """Under another name nobody can begin to use what is being deleted."""
    gone = folder.with_name(f".{secrets.token_hex(8)}")
    with suppress(OSError):
        os.replace(folder, gone)
        shutil.rmtree(gone, ignore_errors=True)


def size_of(path: Path, name: str) -> int:
    """The bytes of a file that somebody has sent and calls `name`; raises `MissingFile`."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise MissingFile(name, error.strerror or str(error)) from None


@contextmanager
def _kept_on_failure(folder: Path) -> Iterator[None]:
    """Lets `folder` be written anew; what was there comes back when that fails."""
    aside = folder.with_name(f"{folder.name}.before")
    with explain_write_errors(folder):
        shutil.rmtree(aside, ignore_errors=True)
        if folder.exists():
            os.replace(folder, aside)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        if aside.exists():
            os.replace(aside, folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _digest(path: Path) -> bytes:
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while part := stream.read(1 << 20):
            found.update(part)
    return found.digest()
