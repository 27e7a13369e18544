"""The façade: text in, text out. It owns the models and their engines.

Models are listed without torch, which takes seconds to import, and run with it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from textgen.config import BackendName, GenerationSettings
from textgen.engine.requests import TokenScore
from textgen.engine.statistics import (
    FIRST_TOKEN_BOUNDS_SECONDS,
    GAP_BOUNDS_SECONDS,
    EngineFigures,
    EngineStatistics,
)
from textgen.errors import NotFound, TextgenError
from textgen.jobs.people import EVERYBODY, Person
from textgen.jobs.run_folder import RunFolder, resolve_checkpoint
from textgen.library import Lease, ModelLibrary
from textgen.limits import Limits
from textgen.loaded_model import LoadedModel, Running
from textgen.model.checkpoint import is_checkpoint, read_model_settings
from textgen.text.copied_text import Copied
from textgen.text.tokenizer import BOS_ID, EOS_ID
from textgen.text_stream import (
    BeamsUpdate,
    TextAlternative,
    TextDelta,
    TextEnd,
    TextEvent,
    TextHypothesis,
    TextNode,
    TextSample,
    TextStream,
    TextToken,
    Writing,
)

if TYPE_CHECKING:
    import torch


# The page and the API know this module only: what comes out of a stream is had from here.
__all__ = [
    "BOS_ID",
    "EOS_ID",
    "EVERYBODY",
    "FIRST_TOKEN_BOUNDS_SECONDS",
    "GAP_BOUNDS_SECONDS",
    "BackendName",
    "BeamsUpdate",
    "Copied",
    "EngineFigures",
    "LoadedModel",
    "ModelInfo",
    "Person",
    "Running",
    "Studio",
    "StudioFigures",
    "TextAlternative",
    "TextDelta",
    "TextEnd",
    "TextEvent",
    "TextHypothesis",
    "TextNode",
    "TextSample",
    "TextStream",
    "TextToken",
    "TokenScore",
    "Writing",
]

# So many models are named where another one was not found.
_MOST_NAMED = 5


@dataclass(frozen=True)
class ModelInfo:
    """What the page shows of a model before it is loaded.

    `title` is what people call it and `owner` the key of the person whose run it is; None for one that is everybody's.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    title: str = ""
    owner: str | None = None


@dataclass(frozen=True)
class StudioFigures:
    """What all models have done, and what is going on now: requests that run and wait, models in memory."""

    engines: EngineFigures
    model_loads: int
    running_requests: int
    waiting_requests: int
    models_in_memory: int
    models_bytes: int


class Studio:
    """The models in a folder or in several, loaded when first used; to be closed, or used in a `with` statement."""

    def __init__(
        self,
        folders: str | Path | Sequence[str | Path],
        *,
        device: str = "auto",
        backend: BackendName = "auto",
        threads: int | None = None,
        cache_folder: Path | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self._device_name = device
        self._backend: BackendName = backend
        self._threads = threads
        self._cache_folder = cache_folder
        self._folders = [Path(folder) for folder in ([folders] if isinstance(folders, str | Path) else folders)]
        self._statistics = EngineStatistics()
        self._lock = threading.Lock()
        self._loads = 0
        self._warm = False
        self._library = ModelLibrary(
            self._load,
            size_of=lambda model: model.size_bytes,
            close=LoadedModel.close,
            max_bytes=self.limits.max_models_bytes,
        )
        if device not in ("auto", "cpu"):
            _ = self.device  # one that is asked for by its name must be there

    @cached_property
    def device(self) -> torch.device:
        """What models run on; raises `InvalidSetting` for one that is not there."""
        from textgen.training.device import choose_device  # imports torch

        return choose_device(self._device_name)  # type: ignore[arg-type]

    def figures(self) -> StudioFigures:
        """What there is to be watched."""
        loaded = self._library.models
        return StudioFigures(
            engines=self._statistics.figures(),
            model_loads=self._loads,
            running_requests=sum(model.engine.live_requests for model in loaded),
            waiting_requests=sum(model.engine.waiting_requests for model in loaded),
            models_in_memory=len(loaded),
            models_bytes=self._library.nbytes,
        )

    @property
    def ready(self) -> bool:
        """Whether a model has written: what takes its time only once, loading and compiling, is over."""
        return self._warm or self._statistics.figures().generated_tokens > 0

    def warm_up(self, name: str) -> None:
        """Makes the model of that name ready to write at once; no figure counts it as a text. Raises as `borrow`."""
        with self.borrow(name) as model:
            model.warm_up()
        self._warm = True

    def _load(self, folder: Path) -> LoadedModel:
        running = Running(self.device, self._backend, self._threads, self._cache_folder)
        model = LoadedModel(folder, running=running, limits=self.limits, statistics=self._statistics)
        with self._lock:
            self._loads += 1
        return model

    def models(self, person: Person = EVERYBODY) -> list[ModelInfo]:
        """The readable checkpoints that a person may use: each folder itself, or the folders in it.

        Damaged ones are left out, and so are other people's.
        """
        return self._models(person)

    def _models(self, person: Person, folder_name: str | None = None) -> list[ModelInfo]:
        """All of them, or those in folders of that name: the last part of the model's own."""
        found: dict[str, ModelInfo] = {}
        for folder in self._folders:
            for candidate in (folder, *_children(folder)):
                if folder_name is not None and candidate.name != folder_name:
                    continue
                checkpoint = resolve_checkpoint(candidate)
                if not is_checkpoint(checkpoint):
                    continue
                # Whose it is comes first: of a run that is discarded meanwhile nothing can be read, or all is known.
                run = RunFolder(candidate)
                about = run.read_about()
                if run.discarded.exists():
                    continue
                try:
                    _, config = read_model_settings(checkpoint, limits=self.limits)
                except TextgenError:
                    continue
                name = candidate.name if candidate.name not in found else f"{candidate.parent.name}/{candidate.name}"
                title, owner = str(about.get("title") or name), about.get("owner")
                found[name] = ModelInfo(name, checkpoint, config, title, None if owner is None else str(owner))
        return [info for info in found.values() if info.owner is None or person.owns(info.owner)]

    def shared_titles(self) -> dict[str, str]:
        """What the models of everybody are called, by their names."""
        return {info.name: info.title for info in self.models() if info.owner is None}

    def info(self, name: str, person: Person = EVERYBODY) -> ModelInfo:
        """One of `models`, by its name or by a title that only it has; raises `NotFound`.

        Another person's is as one that does not exist.
        """
        found = next((info for info in self._models(person, PurePath(name).name) if info.name == name), None)
        if found is not None:
            return found
        models = self.models(person)
        titled = [info for info in models if info.title == name]
        if len(titled) != 1:
            raise NotFound("model", name, ", ".join(info.title for info in models[:_MOST_NAMED]))
        return titled[0]

    def borrow(self, name: str, person: Person = EVERYBODY) -> Lease[LoadedModel]:
        """The model of that name, as it now is on disk, to use until the lease is released.

        Raises `NotFound`, also for another person's, `BadCheckpoint` and whatever else keeps it from running.
        """
        return self._library.borrow(self.info(name, person).folder)

    def load(self, name: str, person: Person = EVERYBODY) -> LoadedModel:
        """The model of that name to look at; to use it, `borrow` it. Raises as `borrow`."""
        return self.borrow(name, person).model

    def writer_name(self, model: LoadedModel) -> str:
        """For people: what is to run the model when it writes."""
        return model.engine.backend_name

    def generate(
        self, model: str, prompt: str | Sequence[int], settings: GenerationSettings, person: Person = EVERYBODY
    ) -> Writing:
        """Starts to continue `prompt` with the model of that name, which stays in memory until the stream has ended."""
        lease = self.borrow(model, person)
        try:
            stream = lease.model.generate(prompt, settings)
        except BaseException:
            lease.release()
            raise
        stream.at_end(lease.release)
        return stream

    def close(self) -> None:
        """Ends all engines; streams that run end as cancelled."""
        self._library.close()

    def __enter__(self) -> Studio:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _children(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
