"""One model that writes: a checkpoint in memory with its tokenizer and its engine. Text in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textgen.config import AdaptationSettings, BackendName, GenerationSettings, update_settings
from textgen.engine.requests import GenerationRequest, TokenScore
from textgen.engine.statistics import EngineStatistics
from textgen.errors import EngineClosed, InvalidSetting
from textgen.jobs.checkpoints import open_checkpoint, open_copy_index
from textgen.limits import Limits
from textgen.model.front_matter import split_card
from textgen.text.banned import BannedStrings, PieceIndex
from textgen.text.copied_text import CopyFinder
from textgen.text.copying import CopyGuard
from textgen.text.stop import StopStrings
from textgen.text.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID, utf8
from textgen.text_stream import TextEnd, TextSample, TextStream, scored_text

if TYPE_CHECKING:
    import torch

    from textgen.model.language_model import LanguageModel


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

    def warm_up(self) -> None:
        """Writes a token for nobody, whereby all is compiled that the first text would wait for."""
        asked = GenerationRequest(self.prompt_ids(""), GenerationSettings(max_new_tokens=1), counted=False)
        with self.engine.submit(asked) as stream:
            list(stream)

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


def _are_whole_numbers(value: object) -> bool:
    """Whether it is a sequence of them; bytes are numbers that nobody means as such."""
    if not isinstance(value, Sequence) or isinstance(value, bytes | bytearray):
        return False
    return all(isinstance(entry, Integral) for entry in value)
