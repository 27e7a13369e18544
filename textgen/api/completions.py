"""Carries out completion requests: prompts side by side, whole or as they are written."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from anyio import CapacityLimiter, to_thread

from textgen.api.logprobs import Logprobs
from textgen.api.protocol import MOST_LOGPROBS_AT_ONCE, ApiError, CompletionRequest, TokenIds
from textgen.studio import BOS_ID, LoadedModel, TextDelta, TextEnd, TextEvent, TextStream, TextToken, TokenScore

Chunk = dict[str, Any]
# A text that ended for another reason was cut short, which no word of theirs says.
_FINISHED = {"eos": "stop", "stop": "stop", "length": "length"}


class Completion:
    """One request that is being carried out, to be closed in the end, whatever comes.

    Raises `InvalidSetting`, `Busy` and what else keeps the model from it. `limiter` bounds the threads that wait for
    words; there should be one for each text that the engine may write or let wait.
    """

    def __init__(
        self,
        model: LoadedModel,
        request: CompletionRequest,
        limiter: CapacityLimiter,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._model = model
        self._limiter = limiter
        self._request = request
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(clock()),
            "model": request.model,
        }
        self._prompts = [model.prompt_ids(prompt) for prompt in request.prompts]
        self._texts = [self._text(prompt) for prompt in request.prompts]
        self._settings = request.settings(model.defaults)
        self._streams: list[TextStream] = []
        self._new_tokens = 0
        self._cut: str | None = None
        self._closed = False
        self._deadline = time.monotonic() + model.limits.request_deadline_seconds
        self._check_logprobs()
        try:
            for prompt in request.prompts if request.max_tokens else ():
                self._streams.append(model.generate(prompt, self._settings))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends its streams, and what else it does after the prompt at hand; from any thread, harmless when repeated."""
        self._closed = True
        for stream in self._streams:
            stream.cancel()

    def _text(self, prompt: str | TokenIds) -> str:
        return prompt if isinstance(prompt, str) else self._model.tokenizer.decode(prompt)

    async def whole(self) -> Chunk:
        """The answer when all is written; raises `ApiError` for a text that was cut short."""
        choices: list[Chunk] = []
        for number in range(len(self._prompts)):
            self._check_running()
            end = await self._end(number)
            choices += await self._chosen(number, end)
        self._check_whole()
        return {**self._head, "choices": choices, "usage": self.usage()}

    async def chunks(self) -> AsyncIterator[Chunk]:
        """The answer as it is written, the prompts one after the other; they are written side by side all the same.

        A choice's log-probabilities come with its last chunk, and how it ended unless it was cut short. After all of
        them that raises `ApiError`.
        """
        count = self._request.n
        for number in range(len(self._prompts)):
            self._check_running()
            echoed = self._texts[number] if self._request.echo else ""
            if echoed:
                for sample in range(count):
                    yield self._chunk(number * count + sample, echoed)
            end: TextEnd | None = None
            if self._streams:
                async for event in self._events(number):
                    if isinstance(event, TextDelta):
                        yield self._chunk(number * count + event.sample, event.text)
                    elif isinstance(event, TextEnd):
                        end = event
            for choice in await self._chosen(number, end):
                yield self._with_choice({**choice, "text": ""})
        self._check_whole()
        if self._request.stream_options and self._request.stream_options.include_usage:
            yield {**self._head, "choices": [], "usage": self.usage()}

    def usage(self) -> dict[str, int]:
        """Tokens read and written so far."""
        read = sum(len(prompt) - 1 for prompt in self._prompts)
        new = self._new_tokens
        return {"prompt_tokens": read, "completion_tokens": new, "total_tokens": read + new}

    def _check_logprobs(self) -> None:
        """Raises `ApiError` where they cannot be had, or are more than a server can hold and send."""
        request = self._request
        if request.logprobs is None:
            return
        if request.searches and self._settings.adapt:
            allowed = "none with best_of and adapt, for the model that wrote the texts is gone at their end"
            raise ApiError(400, f"logprobs: {request.logprobs} was given; allowed: {allowed}", param="logprobs")
        read = sum(len(prompt) for prompt in self._prompts) if request.echo else 0
        new = len(self._prompts) * (self._settings.max_new_tokens if request.max_tokens else 0)
        numbers = request.n * (read + new) * (1 + request.logprobs)
        if numbers > MOST_LOGPROBS_AT_ONCE:
            told = f"{numbers:,} log-probabilities in all; allowed: at most {MOST_LOGPROBS_AT_ONCE:,}"
            raise ApiError(400, f"logprobs: {told}", param="logprobs")

    def _check_running(self) -> None:
        """Raises `ApiError` where time is over or nobody waits any more."""
        if self._closed:
            raise ApiError(503, "The request was given up.", kind="server_error")
        if time.monotonic() > self._deadline:
            self._cut = "deadline"
            self._check_whole()

    def _check_whole(self) -> None:
        if self._cut == "deadline":
            seconds = self._model.limits.request_deadline_seconds
            message = f"The text was cut short after {seconds:g} seconds, the most that one may take."
            raise ApiError(503, message, kind="server_error", code="deadline_exceeded")
        if self._cut is not None:
            message = "The server is shutting down; the text was cut short."
            raise ApiError(503, message, kind="server_error", code="shutting_down")

    def _chunk(self, index: int, text: str) -> Chunk:
        return self._with_choice({"index": index, "text": text, "logprobs": None, "finish_reason": None})

    def _with_choice(self, choice: Chunk) -> Chunk:
        options = self._request.stream_options
        usage = {"usage": None} if options is not None and options.include_usage else {}
        return {**self._head, "choices": [choice], **usage}

    async def _end(self, number: int) -> TextEnd | None:
        end: TextEnd | None = None
        if self._streams:
            async for event in self._events(number):
                if isinstance(event, TextEnd):
                    end = event
        return end

    async def _chosen(self, number: int, end: TextEnd | None) -> list[Chunk]:
        """The finished choices of one prompt, which may have to wait for the engine."""
        return await to_thread.run_sync(self._choices, number, end, limiter=self._limiter)

    def _choices(self, number: int, end: TextEnd | None) -> list[Chunk]:
        """The finished choices of one prompt."""
        request, prompt = self._request, self._texts[number] if self._request.echo else ""
        scores: tuple[TokenScore, ...] = ()
        if request.echo and request.logprobs is not None:
            scores = self._model.score_tokens(self._prompts[number], top_logprobs=request.logprobs)
        self._new_tokens += sum(text.num_tokens for text in end.hypotheses[: request.n]) if end else 0
        read = Logprobs()
        read.add_prompt(self._model, scores, begun=request.echo and self._begun(number))
        choices = []
        for index in range(request.n):
            text, reason, logprobs = "", self._reason(end, index), None
            if end is not None and index < len(end.hypotheses):
                text = end.hypotheses[index].text
            if request.logprobs is not None:
                found = read.copy()
                found.add_new(self._model, self._tokens(number, end, index), len(prompt))
                logprobs = found.as_dict()
            choices.append(
                {
                    "index": number * request.n + index,
                    "text": prompt + text,
                    "logprobs": logprobs,
                    "finish_reason": reason,
                }
            )
        return choices

    def _reason(self, end: TextEnd | None, index: int) -> str | None:
        """Why a choice ended, in OpenAI's words: a text of no tokens has all that it may have. None: cut short."""
        if end is None:
            return "length"
        reason = (end.hypotheses[index].reason if index < len(end.hypotheses) else None) or end.reason
        if reason not in _FINISHED:
            self._cut = reason
        return _FINISHED.get(reason)

    def _begun(self, number: int) -> bool:
        """Whether a prompt was given with the token that begins texts, which it has in any case."""
        prompt = self._request.prompts[number]
        return not isinstance(prompt, str) and prompt[:1] == [BOS_ID]

    def _tokens(self, number: int, end: TextEnd | None, index: int) -> Sequence[TextToken]:
        """The tokens of a new text; those of a search's further results are scored once more."""
        if end is None or index >= len(end.hypotheses):
            return ()
        if index < len(end.samples):
            return end.samples[index].tokens
        return self._model.score_after(
            self._prompts[number], end.hypotheses[index].text, top_logprobs=self._request.logprobs or 0
        ).tokens

    async def _events(self, number: int) -> AsyncIterator[TextEvent]:
        """The events of a stream, each waited for in a thread."""
        events = iter(self._streams[number])

        def following() -> TextEvent | None:
            return next(events, None)

        while True:
            event = await to_thread.run_sync(following, abandon_on_cancel=True, limiter=self._limiter)
            if event is None:
                return
            yield event
