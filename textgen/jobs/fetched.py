"""Models that people have brought from elsewhere. They lie beside the runs and look like what a run leaves.

ID/about.json        title, owner, time, where it came from, and for one from the Hub the commit
ID/checkpoints/best  the checkpoint; there is no config.json as in the folder of a run
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from textgen.errors import NotFound
from textgen.files import explain_write_errors, folder_bytes, is_file
from textgen.jobs.people import Person
from textgen.jobs.run_folder import RunFolder
from textgen.progress import FINISHING, Progress, ProgressCallback, ignore_progress

Origin = Literal["hub", "zip"]

_FOLDER = ".fetched"
# What about.json calls the repository or the file that a model came from, and how the names of its folders begin.
_SOURCES: dict[Origin, str] = {"hub": "fetched_from", "zip": "imported_from"}
_PREFIXES: dict[Origin, str] = {"hub": "fetched", "zip": "imported"}
_DAY_SECONDS = 86_400.0


class FetchedModels:
    """The fetched models of all people in the folder `runs`."""

    def __init__(self, runs: Path, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._runs = runs
        self._wall_clock = wall_clock

    @property
    def downloads(self) -> Path:
        """Where files come in."""
        return self._runs / _FOLDER / "downloads"

    def add(
        self,
        source: str,
        person: Person,
        fetch: Callable[[Path], str | None],
        *,
        origin: Origin = "hub",
        title: Callable[[], str] | None = None,
        progress: ProgressCallback = ignore_progress,
    ) -> str:
        """Lets `fetch` make a checkpoint in the folder that it is given, and keeps that as the person's own.

        `source` is the repository or the file that it is from, and its title where none is given; what gives one is
        asked last, since others may come meanwhile. `fetch` returns the commit, if there is one; where it makes nothing
        since that `is_there`, the model that is there is the answer.

        Returns the name of the model. Raises `CannotWrite`, `NotFound` where the one that was there is deleted
        meanwhile, and what `fetch` and `progress` raise; nothing of it stays then.
        """
        self._sweep()
        now = time.strftime("%Y%m%d-%H%M%S", time.gmtime(self._wall_clock()))
        name = f"{_PREFIXES[origin]}-{now}-{secrets.token_hex(6)}"
        folder = RunFolder(self._runs / _FOLDER / name)
        try:
            commit = fetch(folder.best)
            if commit is not None and not folder.best.is_dir():
                there = self._of_commit(source, commit, person)
                if there is None:
                    raise NotFound("model", source, "")
                return there
            about = {"owner": person.key, "created": self._wall_clock(), _SOURCES[origin]: source}
            if commit is not None:
                about["commit"] = commit
            folder.write_about(title=title() if title else source, **about)
            progress(Progress(FINISHING, 0))
            with explain_write_errors(self._runs / name):
                os.replace(folder.path, self._runs / name)
        except BaseException:
            shutil.rmtree(folder.path, ignore_errors=True)
            raise
        return name

    def is_there(self, source: str, commit: str, person: Person) -> bool:
        """Whether a person has what a repository holds at a commit."""
        return self._of_commit(source, commit, person) is not None

    def names(self, person: Person) -> list[str]:
        """The models of a person."""
        return list(self.titles(person))

    def titles(self, person: Person) -> dict[str, str]:
        """What the models of a person are called, by their names."""
        about = {folder.path.name: folder.read_about() for folder in self._folders()}
        own = {name: values for name, values in about.items() if person.owns(str(values.get("owner")))}
        return {name: str(values.get("title") or name) for name, values in own.items()}

    def person_bytes(self, person: Person) -> int:
        """What a person's models take on the disk."""
        return sum(folder_bytes(self._runs / name) for name in self.names(person))

    def rename(self, name: str, title: str, person: Person) -> None:
        """Gives a model another title; raises as `remove`."""
        self.check_own(name, person)
        RunFolder(self._runs / name).write_about(title=title)

    def remove(self, name: str, person: Person) -> None:
        """Deletes a model; `NotFound` for another person's as for one that does not exist."""
        self.check_own(name, person)
        # Out of sight first: whoever looks meanwhile must not find half a model.
        gone = self._runs / _FOLDER / name
        with explain_write_errors(gone):
            gone.parent.mkdir(exist_ok=True)
            try:
                os.replace(self._runs / name, gone)
            except FileNotFoundError:  # somebody else was quicker
                raise NotFound("model", name, "") from None
        shutil.rmtree(gone, ignore_errors=True)

    def check_own(self, name: str, person: Person) -> None:
        """`NotFound` for what is none of the person's models."""
        if name not in self.names(person):
            raise NotFound("model", name, "")

    def _of_commit(self, source: str, commit: str, person: Person) -> str | None:
        own = set(self.names(person))
        for folder in self._folders():
            about = folder.read_about()
            if folder.path.name in own and (about.get(_SOURCES["hub"]), about.get("commit")) == (source, commit):
                return folder.path.name
        return None

    def _folders(self) -> list[RunFolder]:
        if not self._runs.is_dir():
            return []
        candidates = [path for path in self._runs.iterdir() if path.name[0] != "." and path.is_dir()]
        folders = [RunFolder(path) for path in sorted(candidates) if not path.is_symlink()]
        return [folder for folder in folders if not is_file(folder.config) and origin_of(folder) is not None]

    def _sweep(self) -> None:
        """Deletes what a server that died has left."""
        root = self._runs / _FOLDER
        for path in root.iterdir() if root.is_dir() else ():
            with suppress(OSError):  # another one may be taking its place just now
                if path != self.downloads and self._wall_clock() - path.stat().st_mtime > _DAY_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)


def origin_of(folder: RunFolder) -> tuple[Origin, str] | None:
    """Where the model in a folder was brought from, and the repository or the file; None where a run has made it."""
    about = folder.read_about()
    return next(((origin, str(about[key])) for origin, key in _SOURCES.items() if key in about), None)
