"""Requests in few words; models; backends, some held by the hand; a clock that stands still."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from textgen.config import GenerationSettings, ModelSettings, parse_settings
from textgen.engine import (
    Backend,
    FinishedEvent,
    GenerationRequest,
    GenerationStream,
    StatePool,
    TokenEvent,
)
from textgen.engine.backends import Slots, StateVector
from textgen.engine.decoding import Logits, TokenIds
from textgen.engine.onnx_backend import OnnxBackend
from textgen.engine.onnx_model import build_onnx_model
from textgen.model import LanguageModel

VOCAB, BOS, EOS = 40, 1, 2
PATIENCE_SECONDS = 30.0  # how long a test waits for what should come at once, before it fails


def request(
    *prompt: int,
    eos_id: Any = EOS,
    forbidden_ids: Any = frozenset(),
    stop_condition: Any = None,
    forbidden_next: Any = None,
    start: Any = None,
    adaptation: Any = None,
    **settings: Any,
) -> GenerationRequest:
    return GenerationRequest(
        prompt or ((BOS, 5, 6) if start is None else ()),
        parse_settings(GenerationSettings, {"max_new_tokens": 20, "seed": 0, **settings}),
        stop_condition=stop_condition,
        forbidden_next=forbidden_next,
        forbidden_ids=forbidden_ids,
        eos_id=eos_id,
        start=start,
        adaptation=adaptation,
    )


def read(stream: GenerationStream) -> tuple[list[TokenEvent], FinishedEvent]:
    """All events of a stream that samples."""
    *tokens, finished = list(stream)
    assert isinstance(finished, FinishedEvent)
    assert all(isinstance(event, TokenEvent) for event in tokens)
    return tokens, finished  # type: ignore[return-value]


def ids(stream: GenerationStream) -> list[int]:
    return [event.token_id for event in read(stream)[0]]


def text(*seeds: int, size: int) -> tuple[int, ...]:
    """Any tokens but the special ones, the same for the same numbers."""
    return tuple(np.random.default_rng(seeds).integers(4, VOCAB, size).tolist())


def tiny_model(
    cell: str = "lstm",
    *,
    hidden_size: int = 17,
    embedding_size: int = 6,
    num_layers: int = 2,
    members: int = 1,
    vocab_size: int = VOCAB,
    seed: int = 0,
) -> LanguageModel:
    """Random weights, such that logits differ by about one whatever the shape."""
    model = LanguageModel(
        ModelSettings(
            cell=cell,
            vocab_size=vocab_size,
            embedding_size=embedding_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            members=members,
        )
    )
    model.reset_parameters(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        model.embedding.normal_(0.0, 1.0, generator=generator)
        model.projection.weight.mul_(3.0)
    return model


def open_onnx(model: LanguageModel) -> OnnxBackend:
    return OnnxBackend(build_onnx_model(model), threads=1)


class HeldBackend:
    """Runs another backend, but each call only after a test has allowed it, or after `open`.

    `calls` tells what was asked for: ("read", tokens) of prompts, ("score", tokens) or ("step", rows); `pools` are the
    other backend's.
    """

    name = "held"
    note = None

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.calls: list[tuple[str, int]] = []
        self.pools: list[StatePool] = []
        self._changed = threading.Condition()
        self._allowed = 0.0
        self._arrived = 0
        self.size_bytes = inner.size_bytes
        self.model_hash = inner.model_hash
        self.vocab_size = inner.vocab_size
        self.state_size = inner.state_size
        self.exact_rows = inner.exact_rows
        self.batched = inner.batched

    @property
    def tokens_read(self) -> int:
        """Of prompts, so far."""
        return sum(size for kind, size in self.calls if kind == "read")

    def open_pool(self, capacity: int) -> StatePool:
        self.pools.append(self.inner.open_pool(capacity))
        return _HeldPool(self, self.pools[-1])

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

    def take_call(self, kind: str, size: int) -> None:
        with self._changed:
            self.calls.append((kind, size))
            self._arrived += 1
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._allowed >= self._arrived, PATIENCE_SECONDS)


class _HeldPool:
    def __init__(self, backend: HeldBackend, inner: StatePool) -> None:
        self._backend = backend
        self._inner = inner
        self.grow, self.reset, self.copy = inner.grow, inner.reset, inner.copy
        self.get, self.put = inner.get, inner.put

    @property
    def capacity(self) -> int:
        return self._inner.capacity

    def step(self, slots: Slots, token_ids: TokenIds) -> Logits:
        self._backend.take_call("step", slots.size)
        return self._inner.step(slots, token_ids)

    def read_many(self, slots: Slots, token_ids: Sequence[TokenIds]) -> None:
        self._backend.take_call("read", sum(ids.size for ids in token_ids))
        self._inner.read_many(slots, token_ids)

    def read_all(self, slot: int, token_ids: TokenIds) -> Logits:
        self._backend.take_call("score", token_ids.size)
        return self._inner.read_all(slot, token_ids)


class TableBackend:
    """A model that is a table: the logits after a token are a function of that token and of how many were read.

    A row of state is that number.
    """

    name = "table"
    note = None
    size_bytes = 0
    model_hash = "0" * 64
    state_size = 1
    exact_rows = True

    def __init__(
        self, logits: Callable[[int, int], np.ndarray[Any, Any]], vocab_size: int, *, batched: bool = True
    ) -> None:
        self.logits = logits
        self.vocab_size = vocab_size
        self.batched = batched

    def open_pool(self, capacity: int) -> StatePool:
        return _TablePool(self, capacity)


class _TablePool:
    def __init__(self, backend: TableBackend, capacity: int) -> None:
        self._backend = backend
        self._counts = np.zeros(capacity, dtype=np.float32)

    @property
    def capacity(self) -> int:
        return self._counts.size

    def grow(self, capacity: int) -> None:
        self._counts = np.append(self._counts, np.zeros(capacity - self.capacity, dtype=np.float32))

    def reset(self, slots: Slots) -> None:
        self._counts[slots] = 0

    def step(self, slots: Slots, token_ids: TokenIds) -> Logits:
        self._counts[slots] += 1
        pairs = zip(token_ids.tolist(), self._counts[slots].tolist(), strict=True)
        return np.stack([self._backend.logits(token, int(count)) for token, count in pairs]).astype(np.float32)

    def read_many(self, slots: Slots, token_ids: Sequence[TokenIds]) -> None:
        self._counts[slots] += np.array([ids.size for ids in token_ids])

    def read_all(self, slot: int, token_ids: TokenIds) -> Logits:
        return np.concatenate(
            [self.step(np.array([slot]), token_ids[place : place + 1]) for place in range(len(token_ids))]
        )

    def copy(self, sources: Slots, targets: Slots) -> None:
        self._counts[targets] = self._counts[sources]

    def get(self, slot: int) -> StateVector:
        return self._counts[slot : slot + 1].copy()

    def put(self, slot: int, vector: StateVector) -> None:
        self._counts[slot] = vector[0]


class ManualClock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds
