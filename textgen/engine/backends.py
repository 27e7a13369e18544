"""What runs the model for the engine. Every backend is tested against the PyTorch fp32 one, the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from textgen.engine.decoding import Logits, TokenIds

Slots = NDArray[np.int64]
StateVector = NDArray[np.float32]


class Backend(Protocol):
    """A model made ready to run. Thread-safe; the pools it opens are not."""

    @property
    def name(self) -> str:
        """For people: what runs the model, in which number format, where."""

    @property
    def note(self) -> str | None:
        """For people: why it is not the fastest kind, where it is not."""

    @property
    def size_bytes(self) -> int:
        """About how much memory the model takes in it."""

    @property
    def model_hash(self) -> str:
        """SHA-256 of the model's shape and weights, in hexadecimal."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def state_size(self) -> int:
        """Floats of one row of state."""

    @property
    def exact_rows(self) -> bool:
        """Whether a row's results are the same, to the bit, alone and among any others."""

    @property
    def batched(self) -> bool:
        """Whether rows of different requests should run together."""

    def open_pool(self, capacity: int) -> StatePool:
        """Room for `capacity` rows of state, all at the state before any text."""


class StatePool(Protocol):
    """Rows of recurrent state, addressed by slot. Used from one thread.

    A row of state read out is a vector [state_size]: for each layer the parts of its cell (LSTM: h, c) one after the
    other, each hidden_size floats, the same for all backends.
    """

    @property
    def capacity(self) -> int: ...

    def grow(self, capacity: int) -> None:
        """Makes room for `capacity` rows; the present ones stay."""

    def reset(self, slots: Slots) -> None:
        """Sets `slots` to the state before any text."""

    def step(self, slots: Slots, token_ids: TokenIds) -> Logits:
        """Reads one token for each of the distinct `slots`, token_ids [rows]; logits [rows, vocab] after them."""

    def read_many(self, slots: Slots, token_ids: Sequence[TokenIds]) -> None:
        """Reads for each of the distinct `slots` an array [time] of one token or more, of any lengths."""

    def read_all(self, slot: int, token_ids: TokenIds) -> Logits:
        """Reads token_ids [time] into one slot; logits [time, vocab] after each of them."""

    def copy(self, sources: Slots, targets: Slots) -> None:
        """targets[i] becomes what sources[i] was before the call; targets are distinct."""

    def get(self, slot: int) -> StateVector:
        """A copy of a row of state, [state_size]."""

    def put(self, slot: int, vector: StateVector) -> None:
        """Sets a row of state."""


class Draws(NamedTuple):
    """How the next tokens of some rows are drawn: their settings, float64 [rows] but for `top_k`, which is int64.

    `forbidden` are the ids that each of them never takes; `uniforms` [rows, steps] the numbers in [0, 1) that decide,
    one for each token in turn. Everything is as in a `Sampler`.
    """

    temperature: NDArray[np.float64]
    top_k: NDArray[np.int64]
    top_p: NDArray[np.float64]
    min_p: NDArray[np.float64]
    forbidden: Sequence[frozenset[int]]
    uniforms: NDArray[np.float64]


class Drawn(NamedTuple):
    """What was drawn, all [rows, steps]: token ids, and the log-probabilities of a `TokenEvent`.

    `logprobs` is nan where the model gave nothing to choose from; what follows it in the row means nothing.
    """

    token_ids: TokenIds
    logprobs: NDArray[np.float64]
    warped_logprobs: NDArray[np.float64]


@runtime_checkable
class DrawingPool(StatePool, Protocol):
    """A pool that can choose tokens itself, where its logits are, and go on from them without a word."""

    @property
    def max_steps(self) -> int:
        """Tokens of each row in one call."""

    def step_and_draw(self, slots: Slots, token_ids: TokenIds, draws: Draws) -> Drawn:
        """Reads token_ids [rows], one for each of the distinct `slots`, draws the next, reads it, draws the next …

        The last token drawn is not read.
        """
