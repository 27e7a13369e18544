"""Text that a run is judged by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from textgen.model.language_model import LanguageModel
from textgen.training.evaluation import Evaluation, evaluate
from textgen.training.gradients import is_out_of_memory

_STREAMS = 16
_WINDOW = 256


@dataclass(frozen=True)
class HeldOut:
    """The text that is evaluated on and never trained on."""

    ids: NDArray[np.integer]
    chars: int
    bytes: int


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
                streams=_STREAMS,
                window=window,
                precision=precision,
            )
        except (RuntimeError, MemoryError) as error:
            if window == 1 or not is_out_of_memory(error):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        window //= 2
