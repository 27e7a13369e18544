"""ZeroGPU: Hugging Face lends a GPU to one call at a time, and runs the call in a process forked from this one.

That process has what was in memory here, but none of this one's threads, and what it changes stays there: it makes a
studio of its own, and tells of it what can be pickled. Only this module knows the package `spaces`.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gradio as gr

from textgen.config import GenerationSettings
from textgen.errors import GpuRefused, TextgenError, error_as_dict, error_from_dict
from textgen.limits import Limits
from textgen.studio import EVERYBODY, LoadedModel, Person, Studio, TextEvent, Writing
from textgen.workshop import TrainSlice, train_slice

# For a process to be forked, CUDA to be started and a model to be read; then for the slowest writing there is.
_WRITING_START_SECONDS = 15
_SLOWEST_TOKENS_PER_SECOND = 40
_MOST_WRITING_SECONDS = 120
# For CUDA, the text and the model, and to save them; with the usual slice it makes a minute.
_SLICE_MARGIN_SECONDS = 20
_LOGGER = logging.getLogger(__name__)


def lends_gpu(environment: Mapping[str, str]) -> bool:
    """Whether this is a Space on ZeroGPU."""
    asked = environment.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")
    return asked and find_spec("spaces") is not None


@dataclass(frozen=True)
class _Asked:
    model: str
    prompt: str | Sequence[int]
    settings: GenerationSettings
    person: Person


@dataclass(frozen=True)
class _Begun:
    backend_name: str
    seed: int


@dataclass(frozen=True)
class _Failed:
    """An error of ours: `spaces` would hand on the name of its class only."""

    content: dict[str, Any]


_Told = _Begun | _Failed | TextEvent


class ZeroGpuStudio(Studio):
    """Writes on the GPU where text is asked for by `generate`; what else is asked of its models runs on the processor.

    To be made before the page is launched.
    """

    def __init__(
        self, folders: Sequence[Path], *, cache_folder: Path | None = None, limits: Limits | None = None
    ) -> None:
        super().__init__(folders, device="cpu", cache_folder=cache_folder, limits=limits)
        self._make = partial(Studio, folders, cache_folder=cache_folder, limits=limits)
        self._there: Studio | None = None
        self._lent = _lent(self._write, _writing_seconds)
        # A fork made while a thread here imports torch, say, would wait for that import for ever: so that comes first.
        for info in self.models()[:1]:
            with suppress(TextgenError):
                self.borrow(info.name).release()

    def writer_name(self, _model: LoadedModel) -> str:
        return "ZeroGPU"

    def generate(
        self, model: str, prompt: str | Sequence[int], settings: GenerationSettings, person: Person = EVERYBODY
    ) -> Writing:
        """Starts nothing yet: a GPU is asked for when the first event is. Without one the processor writes."""
        asked = _Asked(model, prompt, settings, person)
        return _LentWriting(partial(self._lent, asked), partial(super().generate, model, prompt, settings, person))

    def _write(self, asked: _Asked, stop: Path) -> Iterator[_Told]:
        """In the process that has the GPU, until there is a file `stop`."""
        try:
            if self._there is None:
                self._there = self._make()
            with self._there.generate(asked.model, asked.prompt, asked.settings, asked.person) as stream:
                yield _Begun(stream.backend_name, stream.seed)
                for event in stream:
                    if stop.exists():
                        stream.cancel()
                    yield event
        except TextgenError as error:
            yield _Failed(error_as_dict(error))


class _LentWriting:
    """A text that another process writes: `lent` asks for it, given the path of a file that ends it.

    Where no GPU is lent at all, it is what `here` gives.
    """

    def __init__(self, lent: Callable[[Path], Generator[_Told, None, None]], here: Callable[[], Writing]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="textgen-")
        self._stop = Path(self._folder.name) / "stop"
        self._told = lent(self._stop)
        self._write_here = here
        self._here: Writing | None = None
        self._begun = _Begun("ZeroGPU", 0)

    @property
    def seed(self) -> int:
        return self._here.seed if self._here else self._begun.seed

    @property
    def backend_name(self) -> str:
        return self._here.backend_name if self._here else self._begun.backend_name

    def cancel(self) -> None:
        with suppress(OSError):  # it has been left, and its folder is gone
            self._stop.touch()
        if self._here is not None:
            self._here.cancel()

    def __enter__(self) -> Writing:
        return self

    def __exit__(self, *exception: object) -> None:
        self.cancel()
        # Once it has begun this waits for one more event, at which the other process finds out.
        self._told.close()
        self._folder.cleanup()

    def __iter__(self) -> Iterator[TextEvent]:
        try:
            first = next(self._told)
        except Exception as error:
            _LOGGER.warning("writing on the processor: %s", _refused(error))
            yield from self._events_here()
            return
        yield from self._events(first)

    def _events_here(self) -> Iterator[TextEvent]:
        self._here = self._write_here()
        with self._here:
            if self._stop.exists():
                self._here.cancel()
            yield from self._here

    def _events(self, told: _Told | None) -> Iterator[TextEvent]:
        while told is not None:
            if isinstance(told, _Begun):
                self._begun = told
            elif isinstance(told, _Failed):
                raise error_from_dict(told.content)
            else:
                yield told
            try:
                told = next(self._told, None)
            except Exception as error:
                raise _refused(error) from error


def lent_training() -> TrainSlice:
    """Trains in the process that has the GPU; raises `GpuRefused`. To be made before the page is launched."""
    lent = _lent(train_slice, _slice_seconds)

    def train(runs: Path, run_id: str, limits: Limits) -> None:
        try:
            lent(runs, run_id, limits)
        except Exception as error:
            raise _refused(error) from error

    return train


def _slice_seconds(_runs: Path, _run_id: str, limits: Limits) -> int:
    return round(limits.training_slice_seconds) + _SLICE_MARGIN_SECONDS


def _writing_seconds(asked: _Asked, _stop: Path) -> int:
    """What is asked for; whoever takes longer may be interrupted."""
    seconds = _WRITING_START_SECONDS + asked.settings.max_new_tokens // _SLOWEST_TOKENS_PER_SECOND
    return min(seconds, _MOST_WRITING_SECONDS)


def _lent(call: Callable[..., Any], seconds: int | Callable[..., int]) -> Callable[..., Any]:
    """`call` where the GPU is, with its arguments and what it gives pickled."""
    import spaces

    lent: Callable[..., Any] = spaces.GPU(call, duration=seconds)
    return lent


def _refused(error: Exception) -> GpuRefused:
    """What `spaces` says in an error of Gradio's; any other is a mistake of the program, and logged."""
    if not isinstance(error, gr.Error):
        _LOGGER.error("the process with the GPU failed", exc_info=error)
    return GpuRefused(str(getattr(error, "message", error)))
