"""The façade: text in, text out. It owns the models and their engines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from textgen.config import GenerationSettings
from textgen.engine import (
    BeamsEvent,
    Engine,
    FinishedEvent,
    FinishReason,
    GenerationRequest,
    GenerationStream,
    TokenEvent,
)
from textgen.errors import InvalidSetting, NotFound, TextgenError
from textgen.jobs.checkpoints import open_checkpoint
from textgen.jobs.run_folder import resolve_checkpoint
from textgen.limits import Limits
from textgen.model.checkpoint import is_checkpoint, read_model_settings
from textgen.text.stop import StopStrings
from textgen.text.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID, Tokenizer
from textgen.training.device import choose_device


@dataclass(frozen=True)
class TextDelta:
    """New text of a sample. `text` is what to append; `tokens` and `tokens_per_second` count from the first token."""

    text: str
    tokens: int
    tokens_per_second: float


@dataclass(frozen=True)
class TextHypothesis:
    """A continuation found by beam search; `score` as in the engine."""

    text: str
    score: float
    finished: bool


@dataclass(frozen=True)
class BeamsUpdate:
    """The running best hypotheses of a beam search, best first."""

    hypotheses: tuple[TextHypothesis, ...]
    tokens: int
    tokens_per_second: float


@dataclass(frozen=True)
class TextEnd:
    """The last event. `text` is the whole continuation; `hypotheses` has all that were asked for."""

    text: str
    reason: FinishReason
    tokens: int
    seconds: float
    tokens_per_second: float
    seed: int | None
    hypotheses: tuple[TextHypothesis, ...]


def _rate(tokens: int, seconds: float) -> float:
    """Tokens a second since the first of `tokens`, which was there when the clock started."""
    return (tokens - 1) / seconds if tokens > 1 else 0.0


TextEvent = TextDelta | BeamsUpdate | TextEnd


class LoadedModel:
    """A checkpoint in memory with its tokenizer and its engine."""

    def __init__(self, folder: Path, *, device: torch.device, limits: Limits) -> None:
        self.folder = folder
        self.checkpoint, self.tokenizer = open_checkpoint(folder, device=device, limits=limits)
        self.engine = Engine(self.checkpoint.model, device=device, limits=limits)
        self.limits = limits
        self.version: tuple[Path, int] | None = None

    def generate(self, prompt: str, settings: GenerationSettings) -> TextStream:
        """Starts to continue `prompt`; raises `InvalidSetting` or `Busy`."""
        if len(prompt) > self.limits.max_prompt_chars:
            raise InvalidSetting("prompt", f"{len(prompt)} characters", f"at most {self.limits.max_prompt_chars}")
        stop = StopStrings(settings.stop)
        request = GenerationRequest(
            prompt_ids=(BOS_ID, *self.tokenizer.encode(prompt)),
            settings=settings,
            stop_condition=stop.condition(self.tokenizer) if settings.stop else None,
            forbidden_ids=frozenset({UNK_ID, BOS_ID, PAD_ID}),
            eos_id=EOS_ID,
        )
        return TextStream(self.engine.submit(request), self.tokenizer, stop)

    def close(self) -> None:
        self.engine.close()


class TextStream:
    """The continuation of one prompt as it is made: an iterator of events, to be cancelled from any thread."""

    def __init__(
        self,
        stream: GenerationStream,
        tokenizer: Tokenizer,
        stop: StopStrings,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._stream = stream
        self._tokenizer = tokenizer
        self._stop = stop
        self._clock = clock

    @property
    def seed(self) -> int:
        """The seed in use, also where the request left it open."""
        return self._stream.seed

    def cancel(self) -> None:
        self._stream.cancel()

    def __enter__(self) -> TextStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.cancel()

    def __iter__(self) -> Iterator[TextEvent]:
        decoder, holdback = self._tokenizer.stream(), self._stop.holdback()
        asked = self._clock()
        # The rate counts from the first token: reading a long prompt is no writing.
        started, tokens, written = 0.0, 0, ""
        for event in self._stream:
            started = started or self._clock()
            seconds = max(1e-9, self._clock() - started)
            if isinstance(event, TokenEvent):
                tokens += 1
                text = holdback.push(decoder.push(event.token_id))
                if text:
                    written += text
                    yield TextDelta(text, tokens, _rate(tokens, seconds))
            elif isinstance(event, BeamsEvent):
                tokens = max([tokens + 1, *(len(hypothesis.token_ids) for hypothesis in event.hypotheses)])
                yield BeamsUpdate(self._texts(event), tokens, _rate(tokens, seconds))
            else:
                hypotheses = self._texts(event)
                whole = hypotheses[0].text if hypotheses else written
                if whole.startswith(written) and whole != written and tokens:
                    yield TextDelta(whole[len(written) :], tokens, _rate(tokens, seconds))
                took, rate = self._clock() - asked, _rate(tokens, seconds)
                yield TextEnd(whole, event.reason, tokens, took, rate, self.seed, hypotheses)

    def _texts(self, event: BeamsEvent | FinishedEvent) -> tuple[TextHypothesis, ...]:
        return tuple(
            TextHypothesis(
                self._stop.trim(self._tokenizer.decode(hypothesis.token_ids)), hypothesis.score, hypothesis.finished
            )
            for hypothesis in event.hypotheses
        )


@dataclass(frozen=True)
class ModelInfo:
    """What the page shows of a model before it is loaded."""

    name: str
    folder: Path
    config: dict[str, Any]


class Studio:
    """The models in some folders, loaded when first used."""

    def __init__(self, folders: Sequence[Path], *, device: str = "auto", limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.device = choose_device(device)  # type: ignore[arg-type]
        self._folders = list(folders)
        self._loaded: dict[str, LoadedModel] = {}
        self._lock = threading.Lock()

    def models(self) -> list[ModelInfo]:
        """The readable checkpoints: each folder itself, or the folders in it. Damaged ones are left out."""
        found: dict[str, ModelInfo] = {}
        for folder in self._folders:
            for candidate in (folder, *_children(folder)):
                checkpoint = resolve_checkpoint(candidate)
                if not is_checkpoint(checkpoint):
                    continue
                try:
                    _, config = read_model_settings(checkpoint, limits=self.limits)
                except TextgenError:
                    continue
                name = candidate.name if candidate.name not in found else f"{candidate.parent.name}/{candidate.name}"
                found[name] = ModelInfo(name, checkpoint, config)
        return list(found.values())

    def load(self, name: str) -> LoadedModel:
        """The model of that name, as it now is on disk; raises `NotFound` or `BadCheckpoint`."""
        with self._lock:
            known = {info.name: info for info in self.models()}
            if name not in known:
                raise NotFound("model", name, ", ".join(known))
            folder = known[name].folder
            version = (folder / "config.json").stat().st_mtime_ns
            loaded = self._loaded.get(name)
            if loaded is None or loaded.version != (folder, version):
                # Streams of the version before keep its engine alive until they end.
                loaded = LoadedModel(folder, device=self.device, limits=self.limits)
                loaded.version = (folder, version)
                self._loaded[name] = loaded
            return loaded

    def generate(self, model: str, prompt: str, settings: GenerationSettings) -> TextStream:
        """Starts to continue `prompt` with the model of that name."""
        return self.load(model).generate(prompt, settings)

    def close(self) -> None:
        """Ends all engines; streams that run end as cancelled."""
        with self._lock:
            for model in self._loaded.values():
                model.close()
            self._loaded.clear()


def _children(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
