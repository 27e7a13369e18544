"""The façade: text in, text out. It owns the models and their engines.

Models are listed without torch, which takes seconds to import, and run with it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from textgen.config import AdaptationSettings, BackendName, GenerationSettings, update_settings
from textgen.engine.requests import GenerationRequest, TokenScore
from textgen.engine.statistics import (
    FIRST_TOKEN_BOUNDS_SECONDS,
    GAP_BOUNDS_SECONDS,
    EngineFigures,
    EngineStatistics,
)
from textgen.errors import EngineClosed, InvalidSetting, NotFound, TextgenError
from textgen.jobs.checkpoints import open_checkpoint, open_copy_index
from textgen.jobs.people import EVERYBODY, Person
from textgen.jobs.run_folder import RunFolder, resolve_checkpoint
from textgen.library import Lease, ModelLibrary
from textgen.limits import Limits
from textgen.model.checkpoint import is_checkpoint, read_model_settings
from textgen.model.front_matter import split_card
from textgen.text.banned import BannedStrings, PieceIndex
from textgen.text.copied_text import Copied, CopyFinder
from textgen.text.copying import CopyGuard
from textgen.text.stop import StopStrings
from textgen.text.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID, utf8
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
    scored_text,
)

if TYPE_CHECKING:
    import torch

    from textgen.model.language_model import LanguageModel

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
class Running:
    """How models are run: see `open_backend`."""

    device: torch.device
    backend: BackendName = "auto"
    threads: int | None = None
    cache_folder: Path | None = None


class LoadedModel:
    """A checkpoint in memory with its tokenizer and its engine."""

    def __init__(
        self, folder: Path, *, running: Running, limits: Limits, statistics: EngineStatistics | None = None
    ) -> None:
        from textgen.engine import Engine, open_backend  # imports torch

        self.folder = folder
        checkpoint, self.tokenizer = open_checkpoint(folder, limits=limits)
        self.settings = checkpoint.model.settings
        self.num_parameters = checkpoint.model.num_parameters
        self.defaults = checkpoint.generation  # the settings that suit this model
        self.card = split_card(checkpoint.card)[1].strip()
        self.limits = limits
        self.copy_index = open_copy_index(checkpoint)  # None: nobody can tell what is copied
        self.backend = open_backend(
            checkpoint.model,
            device=running.device,
            kind=running.backend,
            threads=running.threads,
            cache_folder=running.cache_folder,
        )
        self.engine = Engine(self.backend, source=self._weights, limits=limits, statistics=statistics)

    @property
    def size_bytes(self) -> int:
        """About how much memory it takes, with what it may remember of texts."""
        return self.backend.size_bytes + self.limits.max_prefix_cache_bytes

    def _weights(self) -> LanguageModel:
        """The model in fp32, read again: most backends keep something smaller."""
        from textgen.model.fingerprint import fingerprint  # imports torch

        checkpoint, _ = open_checkpoint(self.folder, limits=self.limits)
        if fingerprint(checkpoint.model) != self.backend.model_hash:
            raise EngineClosed()  # another checkpoint has taken its place
        return checkpoint.model

    def generate(self, prompt: str | Sequence[int], settings: GenerationSettings) -> TextStream:
        """Starts to continue `prompt`, a text or token ids.

        Raises `InvalidSetting`, also where copying cannot be avoided, or `Busy`.
        """
        stop, prompt_ids = StopStrings(settings.stop), self.prompt_ids(prompt)
        if not isinstance(prompt, str):
            prompt = self.tokenizer.decode(prompt_ids)
        request = GenerationRequest(
            prompt_ids=prompt_ids,
            settings=settings,
            stop_condition=stop.condition(self.tokenizer) if settings.stop else None,
            forbidden_next=self._banned(settings.banned, prompt) if settings.banned else None,
            avoided_next=self._copy_guard(prompt_ids) if settings.avoid_copying else None,
            forbidden_ids=frozenset({UNK_ID, BOS_ID, PAD_ID, *({EOS_ID} if settings.ignore_eos else ())}),
            eos_id=None if settings.ignore_eos else EOS_ID,
            adaptation=AdaptationSettings() if settings.adapt else None,
        )
        return TextStream(
            self.engine.submit(request),
            self.tokenizer,
            stop,
            searching=settings.num_beams > 1,
            top_logprobs=settings.top_logprobs,
            copies=self._copy_finder(prompt_ids),
        )

    def stream(self, prompt: str | Sequence[int] = "", **settings: Any) -> TextStream:
        """`generate` with the settings that suit this model, but for those given by name (`GenerationSettings`)."""
        return self.generate(prompt, update_settings(self.defaults, **settings))

    def write(self, prompt: str | Sequence[int] = "", **settings: Any) -> str:
        """All that `stream` writes, without the prompt, as one text.

        Raises as `generate`, `InvalidSetting` where several texts are asked for, and `EngineClosed`.
        """
        for field in ("num_samples", "num_return"):
            if settings.get(field, 1) != 1:
                raise InvalidSetting(field, settings[field], "1 in write; stream gives several texts")
        with self.stream(prompt, **settings) as stream:
            for event in stream:
                if isinstance(event, TextEnd):
                    return event.text
        raise EngineClosed

    def prompt_ids(self, prompt: str | Sequence[int]) -> tuple[int, ...]:
        """The tokens of a prompt after `<bos>`.

        Raises `InvalidSetting` for what is neither a text nor token ids of this model, and for one that is too long.
        """
        if not isinstance(prompt, str) and not _are_whole_numbers(prompt):
            raise InvalidSetting("prompt", prompt, "a text or a list of token ids")
        most = self.limits.max_prompt_chars
        if len(prompt) > most:
            unit = "characters" if isinstance(prompt, str) else "tokens"
            raise InvalidSetting("prompt", f"{len(prompt)} {unit}", f"at most {most}")
        if isinstance(prompt, str):
            utf8(prompt, "prompt")
            return (BOS_ID, *self.tokenizer.encode(prompt))
        for token_id in prompt:
            if not 0 <= token_id < self.tokenizer.vocab_size:
                raise InvalidSetting("prompt", token_id, f"token ids from 0 to {self.tokenizer.vocab_size - 1}")
        token_ids = tuple(map(int, prompt))
        return token_ids if token_ids[:1] == (BOS_ID,) else (BOS_ID, *token_ids)

    def score_tokens(self, token_ids: Sequence[int], *, top_logprobs: int = 0) -> tuple[TokenScore, ...]:
        """What the model thinks of each token of a prompt but the first, as `prompt_ids` gives it; none is joined."""
        return self.engine.score(tuple(token_ids), top_logprobs=top_logprobs)

    def score_after(self, prompt_ids: Sequence[int], text: str, *, top_logprobs: int = 0) -> TextSample:
        """`score` of a text that follows a prompt."""
        new = self.tokenizer.encode(text)
        scores = self.engine.score((*prompt_ids, *new), top_logprobs=top_logprobs)[len(prompt_ids) - 1 :]
        return scored_text(text, scores, self.tokenizer, None)

    def score(self, text: str, *, top_logprobs: int = 0) -> TextSample:
        """What the model thinks of each token of `text` after all before it, from the first on.

        `score` is their mean log-probability. Raises `InvalidSetting`, `Busy` or whatever keeps the model from it.
        """
        if not text:
            raise InvalidSetting("text", "an empty text", "at least one character")
        scores = self.engine.score((BOS_ID, *self.tokenizer.encode(text)), top_logprobs=top_logprobs)
        return scored_text(text, scores, self.tokenizer, self._copy_finder(()))

    def _banned(self, texts: Sequence[str], prompt: str) -> BannedStrings:
        return BannedStrings(texts, self.tokenizer, pieces=self._pieces, prompt=prompt)

    def _copy_guard(self, prompt_ids: tuple[int, ...]) -> CopyGuard:
        if self.copy_index is None:
            allowed = "models with an index of their training text; textgen index makes one"
            raise InvalidSetting("avoid_copying", "a model without an index", allowed)
        return CopyGuard(self.copy_index.parts, self.tokenizer.vocab_size, prompt_ids)

    def _copy_finder(self, context_ids: tuple[int, ...]) -> CopyFinder | None:
        return CopyFinder(self.copy_index, self.tokenizer, context_ids) if self.copy_index else None

    @cached_property
    def _pieces(self) -> PieceIndex:
        return PieceIndex(self.tokenizer)

    def tokens_reading(self, text: str) -> list[int]:
        """The ids of the tokens that are `text`, with or without spaces around them."""
        wanted = text.strip(" ")
        return [
            token_id
            for token_id in range(self.tokenizer.vocab_size)
            if (data := self.tokenizer.piece_bytes(token_id)) and data.decode("utf-8", "replace").strip(" ") == wanted
        ]

    def close(self) -> None:
        """Ends the engine; streams that run end as cancelled."""
        self.engine.close()

    def __enter__(self) -> LoadedModel:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


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
        return self._statistics.figures().generated_tokens > 0

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
                try:
                    _, config = read_model_settings(checkpoint, limits=self.limits)
                except TextgenError:
                    continue
                name = candidate.name if candidate.name not in found else f"{candidate.parent.name}/{candidate.name}"
                run = RunFolder(candidate)
                if run.discarded.exists():
                    continue
                about = run.read_about()
                title, owner = str(about.get("title") or name), about.get("owner")
                found[name] = ModelInfo(name, checkpoint, config, title, None if owner is None else str(owner))
        return [info for info in found.values() if info.owner is None or person.owns(info.owner)]

    def shared_titles(self) -> dict[str, str]:
        """What the models of everybody are called, by their names."""
        return {info.name: info.title for info in self.models() if info.owner is None}

    def info(self, name: str, person: Person = EVERYBODY) -> ModelInfo:
        """One of `models`; `NotFound` for another person's as for one that does not exist."""
        found = next((info for info in self._models(person, PurePath(name).name) if info.name == name), None)
        if found is None:
            raise NotFound("model", name, ", ".join(info.title for info in self.models(person)[:_MOST_NAMED]))
        return found

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


def _are_whole_numbers(value: object) -> bool:
    """Whether it is a sequence of them; bytes are numbers that nobody means as such."""
    if not isinstance(value, Sequence) or isinstance(value, bytes | bytearray):
        return False
    return all(isinstance(entry, Integral) for entry in value)


def _children(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
