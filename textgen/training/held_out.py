"""Text that a run is judged by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from textgen.model.language_model import LanguageModel
from textgen.training.evaluation import Evaluation, evaluate
from textgen.training.gradients import is_out_of_memory

STREAMS = 16  # that a text is read in, side by side
_WINDOW = 256


@dataclass(frozen=True)
class HeldOut:
    """The text that is evaluated on and never trained on."""

    ids: NDArray[np.integer]
    chars: int
    bytes: int


def passages(ids: NDArray[np.integer], *, max_tokens: int, count: int) -> list[NDArray[np.integer]]:
    """At most `count` passages from all over `ids`, always the same, of at most `max_tokens` in all."""
    if len(ids) <= max_tokens:
        return [np.asarray(ids)]
    count = min(count, max_tokens)
    length = max_tokens // count
    starts = np.linspace(0, len(ids) - length, count, dtype=np.int64)
    return [np.asarray(ids[start : start + length]) for start in starts]


def evaluate_held_out(model: LanguageModel, held_out: HeldOut, precision: torch.dtype = torch.float32) -> Evaluation:
    """Scores `model` on the text, in shorter windows where memory is short; what it carries on stays the same.

    `precision` is that of the matrix products: bf16 changes the figure by some 0.01 %.
    """
    window = _WINDOW
    while True:
        try:
            return evaluate(
                model,
                held_out.ids,
                chars=held_out.chars,
                bytes=held_out.bytes,
                streams=STREAMS,
                window=window,
                precision=precision,
            )
        except (RuntimeError, MemoryError) as error:
            if window == 1 or not is_out_of_memory(error):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        window //= 2
