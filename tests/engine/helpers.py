"""Requests in few words, backends that tests hold by the hand, and a clock that stands still."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from textgen.config import GenerationSettings, parse_settings
from textgen.engine import Backend, FinishedEvent, GenerationRequest, GenerationStream, TokenEvent
from textgen.engine.decoding import Logits, TokenIds
from textgen.model import RecurrentState

VOCAB, BOS, EOS = 40, 1, 2
PATIENCE_SECONDS = 30.0  # how long a test waits for what should come at once, before it fails


def request(
    *prompt: int,
    eos_id: int | None = EOS,
    forbidden_ids: frozenset[int] = frozenset(),
    stop_condition: Any = None,
    **settings: Any,
) -> GenerationRequest:
    return GenerationRequest(
        prompt or (BOS, 5, 6),
        parse_settings(GenerationSettings, {"max_new_tokens": 20, "seed": 0, **settings}),
        stop_condition=stop_condition,
        forbidden_ids=forbidden_ids,
        eos_id=eos_id,
    )


def read(stream: GenerationStream) -> tuple[list[TokenEvent], FinishedEvent]:
    """All events of a stream that samples."""
    *tokens, finished = list(stream)
    assert isinstance(finished, FinishedEvent)
    assert all(isinstance(event, TokenEvent) for event in tokens)
    return tokens, finished  # type: ignore[return-value]


def ids(stream: GenerationStream) -> list[int]:
    return [event.token_id for event in read(stream)[0]]


class HeldBackend:
    """Runs another backend, but each call only after a test has allowed it, or after `open`.

    `calls` tells what was asked for: ("prefill", tokens) or ("step", rows).
    """

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.calls: list[tuple[str, int]] = []
        self._changed = threading.Condition()
        self._allowed = 0.0
        self._arrived = 0

    name = "held"

    @property
    def vocab_size(self) -> int:
        return self.inner.vocab_size

    def initial_state(self, rows: int) -> RecurrentState:
        return self.inner.initial_state(rows)

    def prefill(self, token_ids: TokenIds, state: RecurrentState) -> tuple[Logits, RecurrentState]:
        self._pass("prefill", token_ids.size)
        return self.inner.prefill(token_ids, state)

    def step(self, token_ids: TokenIds, state: RecurrentState) -> tuple[Logits, RecurrentState]:
        self._pass("step", token_ids.size)
        return self.inner.step(token_ids, state)

    def allow(self, calls: float) -> None:
        with self._changed:
            self._allowed += calls
            self._changed.notify_all()

    def open(self) -> None:
        self.allow(float("inf"))

    def wait_for_call(self, number: int) -> None:
        """Returns once the engine has asked for its `number`-th call, from 1."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._arrived >= number, PATIENCE_SECONDS)

    def _pass(self, kind: str, size: int) -> None:
        with self._changed:
            self.calls.append((kind, size))
            self._arrived += 1
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._allowed >= self._arrived, PATIENCE_SECONDS)


class TableBackend:
    """A model that is a table: the logits after a token are a function of that token and of how many were read.

    The state is counted in a RecurrentState of one number per row.
    """

    name = "table"

    def __init__(self, logits: Callable[[int, int], np.ndarray[Any, Any]], vocab_size: int) -> None:
        self._logits = logits
        self.vocab_size = vocab_size

    def initial_state(self, rows: int) -> RecurrentState:
        return RecurrentState(((torch.zeros(rows, 1),),))

    def prefill(self, token_ids: TokenIds, state: RecurrentState) -> tuple[Logits, RecurrentState]:
        after = RecurrentState(((state.layers[0][0] + token_ids.size,),))
        return self._rows(token_ids[-1:], after), after

    def step(self, token_ids: TokenIds, state: RecurrentState) -> tuple[Logits, RecurrentState]:
        after = RecurrentState(((state.layers[0][0] + 1,),))
        return self._rows(token_ids, after), after

    def _rows(self, token_ids: TokenIds, state: RecurrentState) -> Logits:
        counts = state.layers[0][0][:, 0].tolist()
        pairs = zip(token_ids.tolist(), counts, strict=True)
        return np.stack([self._logits(token, int(count)) for token, count in pairs]).astype(np.float32)


class ManualClock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds
