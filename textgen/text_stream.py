"""Text as it is written: the engine's events become characters, and its tokens the texts that they stand for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from textgen.engine.requests import (
    BeamsEvent,
    FinishedEvent,
    FinishReason,
    Hypothesis,
    TokenEvent,
    TokenScore,
    TreeNode,
)
from textgen.engine.streams import GenerationStream
from textgen.errors import TextgenError
from textgen.text.copied_text import Copied, CopyFinder, share_of_all
from textgen.text.stop import StopStrings
from textgen.text.tokenizer import EOS_ID, Tokenizer


@dataclass(frozen=True)
class TextDelta:
    """New text of a sample: `text` is what to append. `tokens` and their rate are those of all samples together."""

    text: str
    tokens: int
    tokens_per_second: float
    sample: int = 0


@dataclass(frozen=True)
class TextHypothesis:
    """A continuation; `score` as in the engine. `node` is where it ends in the tree of a search that is over.

    `copied` tells, once it is over, what of it is copied from the training text, if the model has an index of that, and
    `reason` why it ended.
    """

    text: str
    score: float
    finished: bool
    node: int | None = None
    copied: Copied | None = None
    num_tokens: int = 0
    reason: FinishReason | None = None


@dataclass(frozen=True)
class BeamsUpdate:
    """The running best hypotheses of a beam search, best first."""

    hypotheses: tuple[TextHypothesis, ...]
    tokens: int
    tokens_per_second: float


@dataclass(frozen=True)
class TextAlternative:
    """What might have stood in a token's place, with its natural log-probability; an empty text ends the whole.

    `warped_logprob` is that with which it could have been drawn.
    """

    text: str
    logprob: float
    warped_logprob: float = 0.0


@dataclass(frozen=True)
class TextToken:
    """A token of a finished sample; tokens that hold parts of one character are joined to one.

    `logprob` is its natural log-probability under the model itself, `warped_logprob` that with which it was drawn.
    `alternatives` are the likeliest texts in its place by falling log-probability, itself among them if it belongs
    there. `start` counts the characters before it in the new text. The token that ends a text has none of its own: "".
    `parts` are the tokens themselves where their bytes alone are no text.
    """

    text: str
    logprob: float
    warped_logprob: float
    alternatives: tuple[TextAlternative, ...]
    start: int
    parts: tuple[TokenScore, ...] = ()


@dataclass(frozen=True)
class TextSample:
    """One sampled continuation. The texts of its tokens make up its text; `score` as in the engine.

    `copied` tells what of it is copied from the training text; None where the model has no index of that.
    """

    text: str
    reason: FinishReason
    tokens: tuple[TextToken, ...]
    score: float
    copied: Copied | None = None


@dataclass(frozen=True)
class TextNode:
    """A token of a beam search's tree, as in the engine; half a character is shown by the name of its piece."""

    text: str
    parent: int
    logprob_sum: float
    finished: bool


@dataclass(frozen=True)
class TextEnd:
    """The last event.

    `text` is the whole continuation, the first if there are several; `hypotheses` has all that were asked for.
    Sampling gives `samples` in their order; a beam search its `tree`, parents before children, and the best text as
    the only sample, unless the model that wrote it was adapted and is gone. `copied_share` is that of all samples
    together, of a search that of the best text.
    """

    text: str
    reason: FinishReason
    tokens: int
    seconds: float
    tokens_per_second: float
    seed: int | None
    hypotheses: tuple[TextHypothesis, ...]
    samples: tuple[TextSample, ...] = ()
    tree: tuple[TextNode, ...] = ()
    copied_share: float | None = None


TextEvent = TextDelta | BeamsUpdate | TextEnd


class Writing(Protocol):
    """A text as it is made, wherever that is: an iterator of events, to be left at the end of a `with`."""

    @property
    def seed(self) -> int: ...

    @property
    def backend_name(self) -> str: ...

    def cancel(self) -> None: ...

    def __enter__(self) -> Writing: ...

    def __exit__(self, *exception: object) -> None: ...

    def __iter__(self) -> Iterator[TextEvent]: ...


class TextStream:
    """The continuation of one prompt as it is made: an iterator of events, to be cancelled from any thread.

    `searching` tells a beam search from sampling; of its best text each token gets `top_logprobs` alternatives.
    `copies` finds what is copied, where that can be told.
    """

    def __init__(
        self,
        stream: GenerationStream,
        tokenizer: Tokenizer,
        stop: StopStrings,
        *,
        searching: bool = False,
        top_logprobs: int = 0,
        copies: CopyFinder | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._stream = stream
        self._tokenizer = tokenizer
        self._stop = stop
        self._searching = searching
        self._top_logprobs = top_logprobs
        self._copies = copies
        self._clock = clock
        self._samples: dict[int, _Sample] = {}
        self._at_end: Callable[[], None] = lambda: None

    @property
    def seed(self) -> int:
        """The seed in use, also where the request left it open."""
        return self._stream.seed

    @property
    def backend_name(self) -> str:
        """For people: what runs the model for this text."""
        return self._stream.backend_name

    def at_end(self, call: Callable[[], None]) -> None:
        """Has `call` called once the last event is out, or when the stream is cancelled or left; maybe repeatedly."""
        self._at_end = call

    def cancel(self) -> None:
        self._stream.cancel()
        self._at_end()

    def __enter__(self) -> TextStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.cancel()

    def __iter__(self) -> Iterator[TextEvent]:
        asked, tokens = self._clock(), 0
        for event in self._stream:
            # The engine knows when it wrote them; here several come at once.
            seconds = self._stream.writing_seconds
            if isinstance(event, TokenEvent):
                tokens += 1
                text = self._sample(event.sample).push(event)
                if text:
                    yield TextDelta(text, tokens, _rate(tokens, seconds), event.sample)
            elif isinstance(event, BeamsEvent):
                tokens = max([tokens + 1, *(len(hypothesis.token_ids) for hypothesis in event.hypotheses)])
                yield BeamsUpdate(self._texts(event.hypotheses), tokens, _rate(tokens, seconds))
            else:
                rate = _rate(tokens, seconds)
                rest = list(self._rest(event, tokens, rate)) if tokens else []
                end = self._end(event, tokens, self._clock() - asked, rate)
                self._at_end()
                yield from rest
                yield end

    def _sample(self, number: int) -> _Sample:
        found = self._samples.get(number)
        if found is None:
            found = self._samples[number] = _Sample(self._tokenizer, self._stop)
        return found

    def _rest(self, event: FinishedEvent, tokens: int, rate: float) -> Iterator[TextDelta]:
        """What was held back because it might have been the beginning of a stop string or half a character."""
        for number, hypothesis in enumerate(event.hypotheses[:1] if self._searching else event.hypotheses):
            whole, written = self._text(hypothesis), self._sample(number).written
            if whole != written and whole.startswith(written):
                yield TextDelta(whole[len(written) :], tokens, rate, number)

    def _end(self, event: FinishedEvent, tokens: int, seconds: float, rate: float) -> TextEnd:
        ends = _ends_in_tree(event)
        hypotheses = tuple(
            replace(text, node=node, copied=self._copied(item, text.text))
            for item, text, node in zip(event.hypotheses, self._texts(event.hypotheses), ends, strict=True)
        )
        samples = event.hypotheses
        if self._searching:
            samples = event.hypotheses[:1] if self._score_best(event) else ()
        told = hypotheses[:1] if self._searching else hypotheses
        return TextEnd(
            text=hypotheses[0].text if hypotheses else "",
            reason=event.reason,
            tokens=tokens,
            seconds=seconds,
            tokens_per_second=rate,
            seed=self.seed,
            hypotheses=hypotheses,
            samples=tuple(
                TextSample(
                    text=text.text,
                    reason=item.reason or event.reason,
                    tokens=self._sample(number).tokens(text.text),
                    score=item.score,
                    copied=text.copied,
                )
                for number, (item, text) in enumerate(zip(samples, hypotheses, strict=False))
            ),
            tree=tuple(self._node(node) for node in event.tree),
            copied_share=share_of_all([text.copied for text in told], [text.text for text in told]),
        )

    def _copied(self, hypothesis: Hypothesis, text: str) -> Copied | None:
        return self._copies.find(hypothesis.token_ids, text) if self._copies else None

    def _score_best(self, event: FinishedEvent) -> bool:
        """Makes the tokens of a search's best text known, as far as the model can still be asked about them."""
        best = event.hypotheses[0].token_ids if event.hypotheses else ()
        try:
            scores = self._stream.score(best, top_logprobs=self._top_logprobs)
        except TextgenError:  # closed or busy: the text is worth having without
            return False
        self._samples[0] = _scored(scores, self._tokenizer, self._stop)
        return bool(scores)

    def _texts(self, hypotheses: Iterable[Hypothesis]) -> tuple[TextHypothesis, ...]:
        return tuple(
            TextHypothesis(
                self._text(item), item.score, item.finished, num_tokens=len(item.token_ids), reason=item.reason
            )
            for item in hypotheses
        )

    def _text(self, hypothesis: Hypothesis) -> str:
        return self._stop.trim(self._tokenizer.decode(hypothesis.token_ids))

    def _node(self, node: TreeNode) -> TextNode:
        text = _complete_text(self._tokenizer, node.token_id)
        text = self._tokenizer.piece(node.token_id) if text is None else text
        return TextNode(text, node.parent, node.logprob_sum, node.finished)


def scored_text(
    text: str, scores: Sequence[TokenScore], tokenizer: Tokenizer, copies: CopyFinder | None = None
) -> TextSample:
    """A text whose tokens a model has scored; its score is their mean log-probability."""
    tokens = _scored(scores, tokenizer, StopStrings(())).tokens(text)
    mean = sum(score.logprob for score in scores) / max(1, len(scores))
    copied = copies.find([score.token_id for score in scores], text) if copies else None
    return TextSample(text, "length", tokens, mean, copied)


def _scored(scores: Sequence[TokenScore], tokenizer: Tokenizer, stop: StopStrings) -> _Sample:
    sample = _Sample(tokenizer, stop)
    for index, score in enumerate(scores):
        sample.push(TokenEvent(score.token_id, score.logprob, index, 0, score.logprob, score.alternatives))
    return sample


class _Sample:
    """The text of one sample as its tokens come."""

    def __init__(self, tokenizer: Tokenizer, stop: StopStrings) -> None:
        self.written = ""
        self._tokenizer = tokenizer
        self._decoder = tokenizer.stream()
        self._holdback = stop.holdback()
        self._events: list[TokenEvent] = []

    def push(self, event: TokenEvent) -> str:
        """The text that may be shown now."""
        self._events.append(event)
        text = self._holdback.push(self._decoder.push(event.token_id))
        self.written += text
        return text

    def tokens(self, whole: str) -> tuple[TextToken, ...]:
        """The tokens of the finished text; what lies behind a stop string is none of it."""
        found, position = [], 0
        for text, events in self._characters():
            kept = whole[position : position + len(text)]
            if kept or (not text and position == len(whole)):
                found.append(self._token(kept, position, events))
            position += len(text)
        return tuple(found)

    def _characters(self) -> list[tuple[str, list[TokenEvent]]]:
        """The tokens, those that hold parts of a character joined, with the text that they complete."""
        decoder = self._tokenizer.stream()
        found: list[tuple[str, list[TokenEvent]]] = []
        waiting: list[TokenEvent] = []
        for event in self._events:
            waiting.append(event)
            text = decoder.push(event.token_id)
            if text or (event.token_id == EOS_ID and len(waiting) == 1):
                found.append((text, waiting))
                waiting = []
        # A character may have been left half done, by these tokens or by the end of the last ones.
        rest = decoder.flush()
        if waiting:
            found.append((rest, waiting))
        elif rest:
            text, events = found[-1]
            found[-1] = (text + rest, events)
        return found

    def _token(self, text: str, start: int, events: Sequence[TokenEvent]) -> TextToken:
        # Beside part of a character stand parts of others; what is offered must be text by itself.
        are_texts = len(events) == 1 and _complete_text(self._tokenizer, events[0].token_id) is not None
        others = [(_complete_text(self._tokenizer, item.token_id), item) for item in events[0].alternatives]
        return TextToken(
            text,
            sum(event.logprob for event in events),
            sum(event.warped_logprob for event in events),
            tuple(TextAlternative(other, it.logprob, it.warped_logprob) for other, it in others if other is not None),
            start,
            () if are_texts else tuple(TokenScore(it.token_id, it.logprob, it.alternatives) for it in events),
        )


def _ends_in_tree(event: FinishedEvent) -> list[int | None]:
    """For each hypothesis the node of its last token; None where there is no tree or it has no token."""
    # Beam groups may take the same token after the same tokens: either node stands for the text.
    places = {(node.parent, node.token_id): number for number, node in enumerate(event.tree)}
    ends: list[int | None] = []
    for hypothesis in event.hypotheses:
        node: int | None = -1
        for token_id in hypothesis.token_ids:
            node = None if node is None else places.get((node, token_id))
        ends.append(None if node == -1 else node)
    return ends


def _complete_text(tokenizer: Tokenizer, token_id: int) -> str | None:
    """The text of a token by itself, "" for the end of the text; None for half a character and other specials."""
    data = tokenizer.piece_bytes(token_id)
    if not data:
        return "" if token_id == EOS_ID else None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds if seconds > 0 else 0.0
