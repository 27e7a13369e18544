"""Locked ("variational") dropout: Gal & Ghahramani 2016, https://arxiv.org/abs/1512.05287."""

from __future__ import annotations

import torch
from torch import Tensor


def locked_dropout(
    inputs: Tensor, rate: float, generator: torch.Generator, *, first_row: int = 0, batch_size: int | None = None
) -> Tensor:
    """Drops features of `inputs` [batch, time, features] with one mask [batch, 1, features] for all time steps.

    Where the inputs are rows of a larger batch, from `first_row` on, the mask is drawn for all `batch_size` rows.
    """
    if rate == 0.0:
        return inputs
    rows, _, features = inputs.shape
    keep = torch.empty(batch_size or rows, 1, features, device=inputs.device, dtype=inputs.dtype)
    keep.bernoulli_(1.0 - rate, generator=generator).div_(1.0 - rate)
    return inputs * keep[first_row : first_row + rows]
