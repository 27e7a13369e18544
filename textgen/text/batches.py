"""Stateful batches: contiguous streams of a text, cut in windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from textgen.errors import InvalidSetting, NoText
from textgen.text.tokenizer import BOS_ID


@dataclass(frozen=True, eq=False)
class Batch:
    """One window of every stream.

    `targets` are the tokens that follow `inputs`, and `StreamBatches.IGNORE` where that is `<bos>`, which no model
    has to predict. `fresh`: the first window of an epoch, before which carried state must be zeroed. `resets`: where
    the state is zeroed before the step, which is where the input is `<bos>`; None when documents run on.
    """

    inputs: NDArray[np.int64]  # [batch, time]
    targets: NDArray[np.int64]  # [batch, time]
    fresh: bool
    resets: NDArray[np.bool_] | None  # [batch, time]


class StreamBatches:
    """An endless sequence of batches over a circular stream of token ids [tokens].

    Each epoch turns the circle by a random shift and cuts it in `batch_size` rows of equal length; row r is read from
    left to right in windows, the state carried along. The first input of a row is `<bos>`: no context yet. Small texts
    get fewer rows and shorter windows. The batch at a position depends on the seed and that position only, so a run can
    be taken up anywhere.
    """

    IGNORE: ClassVar[int] = -100

    def __init__(
        self,
        ids: NDArray[np.integer],
        *,
        batch_size: int,
        window: int,
        seed: int,
        reset_at_document_ends: bool = False,
    ) -> None:
        """Raises `NoText` for fewer than two tokens and `InvalidSetting` for sizes below 1."""
        for name, value in (("batch_size", batch_size), ("window", window)):
            if value < 1:
                raise InvalidSetting(name, value, "at least 1")
        if len(ids) < 2:
            raise NoText("tokens to train on", str(len(ids)), "2")
        self._ids = ids
        self._seed = seed
        self._reset = reset_at_document_ends
        self.batch_size = min(batch_size, max(1, len(ids) // window))
        self._row_length = len(ids) // self.batch_size
        self.windows_per_epoch, self.window = _fitted_windows(self._row_length, window)
        self._position = (0, 0)
        self._shift: tuple[int, int] | None = None

    @property
    def tokens_per_window(self) -> int:
        """Tokens in one batch, all streams together."""
        return self.batch_size * self.window

    @property
    def position(self) -> tuple[int, int]:
        """(epoch, window) of the next batch."""
        return self._position

    @position.setter
    def position(self, position: tuple[int, int]) -> None:
        epoch, window = position
        if window == self.windows_per_epoch:
            epoch, window = epoch + 1, 0
        if epoch < 0 or not 0 <= window < self.windows_per_epoch:
            allowed = f"an epoch from 0 and a window from 0 to {self.windows_per_epoch - 1}"
            raise InvalidSetting("position", (epoch, window), allowed)
        self._position = (epoch, window)

    def mark(self) -> Any:
        """Where it is, for `go_back` to return to."""
        return self._position

    def go_back(self, mark: Any) -> None:
        self._position = mark

    def next(self) -> Batch:
        """The batch at `position`, which moves on."""
        epoch, window = self._position
        last = window + 1 == self.windows_per_epoch
        self._position = (epoch + 1, 0) if last else (epoch, window + 1)
        # With the token before the window, so that targets and inputs come of the same.
        first = self._shift_of(epoch) + window * self.window - 1 + self._row_length * np.arange(self.batch_size)
        places = (first[:, None] + np.arange(self.window + 1)) % len(self._ids)
        text = self._ids[places].astype(np.int64)  # [batch, 1 + time]
        inputs, targets = text[:, :-1].copy(), text[:, 1:].copy()
        if window == 0:
            inputs[:, 0] = BOS_ID
        targets[targets == BOS_ID] = self.IGNORE
        return Batch(inputs, targets, window == 0, inputs == BOS_ID if self._reset else None)

    def _shift_of(self, epoch: int) -> int:
        if self._shift is None or self._shift[0] != epoch:
            self._shift = epoch, int(np.random.default_rng((self._seed, epoch)).integers(len(self._ids)))
        return self._shift[1]


def _fitted_windows(row_length: int, window: int) -> tuple[int, int]:
    """(number, length) of the windows of a row, none longer than `window`: the choice that leaves fewer tokens over."""
    if row_length <= window:
        return 1, row_length
    number, rest = divmod(row_length, window)
    shorter = row_length // (number + 1)
    return (number, window) if rest <= row_length - (number + 1) * shorter else (number + 1, shorter)
