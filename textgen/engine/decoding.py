"""What samplers and beam searches have in common: logits go in, the tokens to step next come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from textgen.engine.requests import BeamsEvent, FinishReason, TokenEvent

Logits = NDArray[np.float32]
TokenIds = NDArray[np.int64]
Scores = NDArray[np.float64]


class Choice(NamedTuple):
    """What a sampled row decided. With a `reason` it has finished, and its token is not to be stepped."""

    event: TokenEvent
    reason: FinishReason | None


@dataclass(frozen=True)
class Advance:
    """What one step of a beam search decided.

    `token_ids` [rows] are to be stepped next, from the rows `parents` [rows] of the present state. When `reason` is
    given the search has finished and there is nothing to step.
    """

    event: BeamsEvent
    token_ids: TokenIds
    parents: list[int]
    reason: FinishReason | None = None
