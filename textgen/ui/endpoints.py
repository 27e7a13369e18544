"""What other programs may ask of the page's server: Gradio's own API, beside the one that speaks as OpenAI's.

Whoever asks is told apart as on the page; nothing here reaches further than what the page offers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypedDict

import gradio as gr

from textgen.config import GenerationSettings, update_settings
from textgen.errors import InvalidSetting, NotFound
from textgen.studio import BeamsUpdate, LoadedModel, Person, Studio, TextDelta, TextEnd
from textgen.ui.generate import whole_characters
from textgen.ui.people import People
from textgen.ui.publishing import publish

# The endpoints that are tools for language models (MCP).
TOOLS = ("generate", "score", "models")
# Time between two pieces of a text: what is sent costs those who write at the same time.
_FLUSH_SECONDS = 0.07
_EXAMPLE = {
    "prompt": "Once upon a time",
    "model": "fairy-tales",
    "max_new_tokens": 100,
    "temperature": 0.8,
    "top_k": 0,
    "top_p": 0.95,
    "min_p": 0.05,
    "repetition_penalty": 1.1,
    "num_beams": 1,
    "stop": ["\n\n"],
    "banned": ["prince"],
    "avoid_copying": False,
    "seed": 42,
    "settings": {"no_repeat_ngram_size": 4},
}


class Alternative(TypedDict):
    """What else might have stood in a token's place."""

    text: str
    logprob: float


class ScoredToken(TypedDict):
    """A token of a scored text; `start` counts the characters before it."""

    text: str
    start: int
    logprob: float
    alternatives: list[Alternative]


class Score(TypedDict):
    """What a model thinks of a text."""

    model: str
    tokens: list[ScoredToken]
    logprob: float
    nats_per_char: float


class Model(TypedDict):
    """A model that can be asked; its figures are those of text that it has not seen, where they are known."""

    name: str
    title: str
    cell: str
    nats_per_char: float | None
    accuracy: float | None


class Endpoints:
    """/generate, /score and /models over a studio."""

    def __init__(self, studio: Studio, people: People, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._studio = studio
        self._people = people
        self._clock = clock

    def publish(self) -> None:
        """Offers them inside the current `gr.Blocks`."""
        publish(self.generate, examples=_EXAMPLE)
        text = {"text": "To be, or not to be", "model": "shakespeare", "top_logprobs": 3}
        publish(self.score, examples=text, queue=False)
        publish(self.models, examples={}, queue=False)

    def generate(
        self,
        request: gr.Request,
        prompt: str,
        model: str | None = None,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        num_beams: int | None = None,
        stop: list[str] | None = None,
        banned: list[str] | None = None,
        avoid_copying: bool | None = None,
        seed: int | None = None,
        settings: dict[str, Any] | None = None,
    ) -> Iterator[str]:
        """Continue a text. What is not given is as it suits the model.

        The new text streams in; cancelling the job ends the writing.

        Parameters:
            prompt: the text to be continued
            model: a name from /models; the first of them when not given
            settings: any other setting of `textgen generate` by its name

        Returns:
            text: the new text so far; the last answer is all of it
        """
        yield ""  # a generator that has not yielded could not be cancelled
        person = self._people.of(request)
        named = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
            "num_beams": num_beams,
            "stop": stop,
            "banned": banned,
            "avoid_copying": avoid_copying,
            "seed": seed,
        }
        given = {name: value for name, value in named.items() if value is not None}
        model = model or self._first(person)
        with self._studio.borrow(model, person) as loaded:
            asked = _settings(loaded, {**(settings or {}), **given})
        with self._studio.generate(model, whole_characters(prompt), asked, person) as stream:
            yield from self._texts(iter(stream))

    def _texts(self, events: Iterator[Any]) -> Iterator[str]:
        """The text as it grows, not more often than it can be sent."""
        text, shown = "", self._clock()
        for event in events:
            if isinstance(event, TextEnd):
                yield event.text
                return
            if isinstance(event, TextDelta):
                text += event.text
            elif isinstance(event, BeamsUpdate) and event.hypotheses:
                text = event.hypotheses[0].text
            if self._clock() - shown >= _FLUSH_SECONDS:
                shown = self._clock()
                yield text

    def score(self, request: gr.Request, text: str, model: str | None = None, top_logprobs: int = 0) -> Score:
        """Say how likely a model finds a text, token by token.

        Parameters:
            text: the text to be scored, at least one character
            model: a name from /models; the first of them when not given

        Returns:
            score: the tokens with their natural log-probabilities, their sum, and nats per character
        """
        person, most = self._people.of(request), self._studio.limits.max_prompt_chars
        text, model = whole_characters(text), model or self._first(person)
        if len(text) > most:
            raise InvalidSetting("text", f"{len(text)} characters", f"at most {most}")
        with self._studio.borrow(model, person) as loaded:
            tokens = loaded.score(text, top_logprobs=top_logprobs).tokens
        total = sum(token.logprob for token in tokens)
        return {
            "model": model,
            "tokens": [
                {
                    "text": token.text,
                    "start": token.start,
                    "logprob": token.logprob,
                    "alternatives": [{"text": it.text, "logprob": it.logprob} for it in token.alternatives],
                }
                for token in tokens
            ],
            "logprob": total,
            "nats_per_char": -total / len(text),
        }

    def models(self, request: gr.Request) -> list[Model]:
        """List the models that can be asked.

        Returns:
            models: their names, titles and cells, and how well they predict text that they have not seen
        """
        return [
            {
                "name": info.name,
                "title": info.title,
                "cell": str(info.config["model"]["cell"]),
                "nats_per_char": _figure(info.config, "nats_per_char"),
                "accuracy": _figure(info.config, "accuracy"),
            }
            for info in self._studio.models(self._people.of(request))
        ]

    def _first(self, person: Person) -> str:
        names = [info.name for info in self._studio.models(person)]
        if not names:
            raise NotFound("model", "", "")
        return names[0]


def _settings(model: LoadedModel, given: Mapping[str, Any]) -> GenerationSettings:
    asked = update_settings(model.defaults, **given)
    for name in ("num_samples", "num_return"):
        if getattr(asked, name) > 1:
            raise InvalidSetting(name, getattr(asked, name), "1; ask once for each text")
    return asked


def _figure(config: Mapping[str, Any], name: str) -> float | None:
    """A figure of a checkpoint, which may come from anywhere."""
    value = config["figures"].get(name)
    return value if isinstance(value, float) and math.isfinite(value) else None
