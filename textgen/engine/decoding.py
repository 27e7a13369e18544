"""What samplers and beam searches have in common: logits go in, the tokens to step next come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from textgen.engine.requests import BeamsEvent, FinishReason, Hypothesis, TokenEvent

Logits = NDArray[np.float32]
TokenIds = NDArray[np.int64]


@dataclass(frozen=True)
class Advance:
    """What one step of a decoder decided.

    `token_ids` [rows] are to be stepped next, from the rows `parents` [rows] of the present state (None: row by row).
    When `reason` is given the decoder has finished and there is nothing to step.
    """

    event: TokenEvent | BeamsEvent
    token_ids: TokenIds
    parents: list[int] | None = None
    reason: FinishReason | None = None


class Decoder(Protocol):
    """Turns the logits of one request into tokens. Knows no model, no threads, no clock."""

    @property
    def rows(self) -> int:
        """The most rows of state it ever steps at once."""

    def advance(self, logits: Logits) -> Advance:
        """Chooses from logits [rows, vocab]; one row, the prompt's, the first time. Raises `BrokenModel`."""

    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """The results so far, best first, at most `num_return`."""
