"""Stateful batches: contiguous streams of text, cut in windows that follow one another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textgen.errors import NoText
from textgen.text.tokenizer import BOS_ID

# What PyTorch's cross-entropy ignores by default.
IGNORE = -100
_MIN_ROW_TOKENS = 8


@dataclass(frozen=True)
class Batch:
    """One window of every stream.

    inputs, targets: [batch, time]; targets are `StreamBatches.IGNORE` where the next token is `<bos>`, which is given
    and never predicted. `fresh`: the carried state must be zeroed first. `resets` [batch, time]: the row's state must
    be zeroed before that step (None: never inside a window).
    """

    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    fresh: bool
    resets: NDArray[np.bool_] | None


class StreamBatches:
    """Cuts `ids` [tokens] into `batch_size` contiguous streams and those into windows of `window` tokens.

    Each pass over the text begins at another point, drawn from the seed and the number of the pass, with the end of
    the text followed by its beginning. The first input of every stream in a pass is `<bos>`: it stands for the absence
    of context. Batches are a function of seed and `position` alone.

    For short texts `batch_size` and `window` are lowered to what the text allows; raises `NoText` below two tokens.
    """

    IGNORE = IGNORE

    def __init__(
        self, ids: NDArray[np.integer], *, batch_size: int, window: int, seed: int, reset_at_document_ends: bool = False
    ) -> None:
        if len(ids) < 2:
            raise NoText("training text", f"{len(ids)} tokens", "two tokens")
        self._ids = ids
        self._seed = seed
        self._reset = reset_at_document_ends
        self.batch_size = max(1, min(batch_size, len(ids) // _MIN_ROW_TOKENS))
        self._row_tokens = len(ids) // self.batch_size
        self.window = min(window, self._row_tokens)
        self.windows_per_epoch = self._row_tokens // self.window
        self.position: tuple[int, int] = (0, 0)

    @property
    def tokens_per_window(self) -> int:
        """Tokens of all streams in one window."""
        return self.batch_size * self.window

    def next(self) -> Batch:
        """The batch at `position`, which moves on."""
        epoch, window = self.position
        if window >= self.windows_per_epoch:
            epoch, window = epoch + 1, 0
        shift = int(np.random.default_rng([self._seed, epoch]).integers(len(self._ids)))
        starts = [shift + row * self._row_tokens + window * self.window for row in range(self.batch_size)]
        # One token more than the window, from the one before it: inputs and targets overlap by all but one.
        rows = np.stack([self._circular(start - 1, self.window + 1) for start in starts])
        inputs, targets = rows[:, :-1].copy(), rows[:, 1:].copy()
        if window == 0:
            inputs[:, 0] = BOS_ID
        targets[targets == BOS_ID] = IGNORE
        self.position = (epoch, window + 1)
        return Batch(inputs, targets, window == 0, inputs == BOS_ID if self._reset else None)

    def _circular(self, start: int, count: int) -> NDArray[np.int64]:
        size = len(self._ids)
        start %= size
        pieces = []
        while count > 0:
            piece = self._ids[start : start + count]
            pieces.append(np.asarray(piece, np.int64))
            count -= len(piece)
            start = 0
        return np.concatenate(pieces)
