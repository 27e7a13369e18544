"""The façade of models as things that people have: listed, renamed, handed on, deleted.

Where nobody can train or bring a model there is no workshop; models are then only looked at and handed on.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Literal

from textgen.config import ModelSettings
from textgen.errors import InvalidSetting
from textgen.files import folder_bytes
from textgen.hub import ORIGIN, push
from textgen.jobs.checkpoints import open_checkpoint
from textgen.jobs.fetched import origin_of
from textgen.jobs.model_zip import folder_name, pack_folder, pack_model
from textgen.jobs.people import EVERYBODY, Person
from textgen.jobs.run_folder import RunFolder, run_of
from textgen.model.checkpoint import CONFIG, read_card
from textgen.model.front_matter import split_card
from textgen.model.size import count_parameters
from textgen.progress import ProgressCallback, ignore_progress
from textgen.studio import ModelInfo, Studio
from textgen.workshop import Workshop

# The page knows the façades only: what it shows of models is had from here.
__all__ = ["ModelOrigin", "Shelf", "ShelfModel"]

ModelOrigin = Literal["ships", "run", "hub", "zip"]


@dataclass(frozen=True)
class ShelfModel:
    """A model as the list shows it.

    `source` is the repository or the file that it came from. `model` are the settings of its shape. `disk_bytes` counts
    everything that is deleted with it: of a run, the run. `changed` is when its weights were, in seconds since 1970.
    `own`: it may be renamed and deleted.
    """

    name: str
    title: str
    origin: ModelOrigin
    source: str
    checkpoint: Path
    model: ModelSettings
    num_parameters: int
    disk_bytes: int
    nats_per_char: float | None
    changed: float
    own: bool


class Shelf:
    """The models of a studio; those of its own people lie in the folder of the workshop."""

    def __init__(self, studio: Studio, workshop: Workshop | None = None) -> None:
        self._studio = studio
        self._workshop = workshop

    def models(self, person: Person = EVERYBODY) -> list[ShelfModel]:
        """What a person may see: their own, the newest first, then what is everybody's."""
        own = self._own(person)
        found = [self._described(info, own) for info in self._studio.models(person)]
        return sorted(found, key=lambda model: (not model.own, -model.changed if model.own else 0.0))

    def model(self, name: str, person: Person = EVERYBODY) -> ShelfModel:
        """A model as it is now; `NotFound` for another person's as for one that does not exist."""
        return self._described(self._studio.info(name, person), self._own(person))

    def card(self, name: str, person: Person = EVERYBODY) -> str:
        """The model card in Markdown, without what is there for the Hub. Raises `NotFound` and `BadCheckpoint`."""
        card = read_card(self._studio.info(name, person).folder, limits=self._studio.limits)
        return split_card(card)[1].strip()

    def archive(self, name: str, person: Person, folder: Path) -> Path:
        """A zip of a model, at half the size, written into `folder`. Raises `NotFound` and what `pack_model` raises."""
        info = self._studio.info(name, person)
        return pack_model(info.folder, info.title, folder, limits=self._studio.limits)

    def archive_onnx(self, name: str, person: Person, folder: Path) -> Path:
        """A zip of what `textgen export --format onnx` makes of a model, written into `folder`.

        Raises `NotFound`, what reading a checkpoint raises, and what `export_onnx` raises.
        """
        from textgen.export import export_onnx  # slow to import

        info = self._studio.info(name, person)
        checkpoint, tokenizer = open_checkpoint(info.folder, limits=self._studio.limits)
        made = folder / f"{folder_name(info.title)}-onnx"
        export_onnx(made, checkpoint, tokenizer)
        return pack_folder(made)

    def rename(self, name: str, title: str, person: Person = EVERYBODY) -> None:
        """Gives a model another title, and its run with it; whatever it is the base of finds it as before.

        Raises `NotFound`, and `InvalidSetting` for a title of no or too many characters and for everybody's models.
        """
        workshop, model = self._owned(name, person)
        rename = workshop.jobs.rename if model.origin == "run" else workshop.jobs.rename_model
        rename(run_of(model.checkpoint).name, title, person)
        workshop.forget()

    def remove(self, name: str, person: Person = EVERYBODY) -> None:
        """Deletes a model, with the run that has made it.

        Raises `NotFound`, and `InvalidSetting` for everybody's models, while its run trains or waits, and while another
        run is to start from it.
        """
        workshop, model = self._owned(name, person)
        key = run_of(model.checkpoint).name
        if model.origin != "run":
            workshop.jobs.remove_model(key, person)
        else:
            view = workshop.jobs.view(key, person)
            if view.is_active:
                raise InvalidSetting("model", f"one that is {view.state}", "one whose run has ended")
            workshop.jobs.discard(key, person)
        workshop.forget()

    def push(
        self,
        name: str,
        repo_id: str,
        person: Person,
        *,
        token: str | bool | None,
        private: bool,
        progress: ProgressCallback = ignore_progress,
    ) -> str:
        """Puts a model on the Hub; returns its address. Raises `NotFound` and what `hub.push` raises."""
        endpoint = self._workshop.hub if self._workshop is not None else None
        return push(
            self._studio.info(name, person).folder,
            repo_id,
            token=token,
            private=private,
            endpoint=endpoint,
            limits=self._studio.limits,
            progress=progress,
        )

    def _own(self, person: Person) -> set[Path]:
        """The folders of a person's runs and of what they have brought."""
        if self._workshop is None:
            return set()
        jobs = self._workshop.jobs
        return {jobs.root / name for name in jobs.fetched.names(person)} | {
            view.folder.path for view in self._workshop.runs(person)
        }

    def _owned(self, name: str, person: Person) -> tuple[Workshop, ShelfModel]:
        model = self.model(name, person)
        if self._workshop is None or not model.own:
            raise InvalidSetting("model", model.title, "one of your own: trained, fetched or imported")
        return self._workshop, model

    def _described(self, info: ModelInfo, own: set[Path]) -> ShelfModel:
        folder = run_of(info.folder)
        origin, source = _origin(folder, info)
        settings = ModelSettings.model_validate(info.config["model"])
        nats = info.config["figures"].get("nats_per_char")
        return ShelfModel(
            name=info.name,
            title=info.title,
            origin=origin,
            source=source,
            checkpoint=info.folder,
            model=settings,
            num_parameters=count_parameters(settings),
            disk_bytes=folder_bytes(folder),
            # Checkpoints may come from anywhere, and their figures are only read here.
            nats_per_char=nats if isinstance(nats, float) and isfinite(nats) else None,
            changed=_changed(info.folder),
            own=folder in own,
        )


def _origin(folder: Path, info: ModelInfo) -> tuple[ModelOrigin, str]:
    brought = origin_of(RunFolder(folder))
    if brought is not None:
        return brought
    if folder != info.folder.absolute():
        return "run", ""
    pulled = info.config["lineage"].get(ORIGIN)
    if isinstance(pulled, dict) and isinstance(pulled.get("repo"), str):
        return "hub", pulled["repo"]
    return "ships", ""


def _changed(checkpoint: Path) -> float:
    try:
        return (checkpoint / CONFIG).stat().st_mtime
    except OSError:  # it is just being replaced
        return 0.0
