"""The dropouts of AWD-LSTM (Merity, Keskar & Socher 2017, https://arxiv.org/abs/1708.02182), one to a file.

Each takes the random generator it draws from, so that training is reproducible and resumable and nothing else in the
process disturbs it. A model is in training exactly when a `Dropout` is passed to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from textgen.config import DropoutSettings
from textgen.model.regularization.embedding_dropout import embedding_dropout
from textgen.model.regularization.locked_dropout import locked_dropout
from textgen.model.regularization.weight_dropout import weight_dropout

__all__ = ["Dropout", "embedding_dropout", "locked_dropout", "weight_dropout"]


@dataclass(frozen=True)
class Dropout:
    """What to drop, and the generator (on the model's device) that says which."""

    rates: DropoutSettings
    generator: torch.Generator
