"""The dropouts of AWD-LSTM (Merity, Keskar & Socher 2017, https://arxiv.org/abs/1708.02182), one to a file.

Each takes the random generator it draws from, so that training is reproducible and resumable and nothing else in the
process disturbs it. A model is in training exactly when a `Dropout` is passed to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from textgen.config import DropoutSettings
from textgen.model.regularization.embedding_dropout import embedding_dropout
from textgen.model.regularization.locked_dropout import locked_dropout
from textgen.model.regularization.weight_dropout import weight_dropout

__all__ = ["Dropout", "embedding_dropout", "locked_dropout", "weight_dropout"]


@dataclass(frozen=True)
class Dropout:
    """What to drop, and the generator (on the model's device) that says which.

    Rows that are a part of a batch of `batch_size` rows, from `first_row` on, get the masks that they have in the whole
    batch: one that is read in parts then learns the same.
    """

    rates: DropoutSettings
    generator: torch.Generator
    first_row: int = 0
    batch_size: int | None = None

    def lock(self, inputs: Tensor, rate: float) -> Tensor:
        """`locked_dropout` of inputs [batch, time, features]."""
        return locked_dropout(inputs, rate, self.generator, first_row=self.first_row, batch_size=self.batch_size)
