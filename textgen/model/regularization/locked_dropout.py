"""Locked ("variational") dropout: Gal & Ghahramani 2016, https://arxiv.org/abs/1512.05287."""

from __future__ import annotations

import torch
from torch import Tensor


def locked_dropout(inputs: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Drops features of `inputs` [batch, time, features] with one mask [batch, 1, features] for all time steps."""
    if rate == 0.0:
        return inputs
    batch, _, features = inputs.shape
    keep = torch.empty(batch, 1, features, device=inputs.device, dtype=inputs.dtype)
    return inputs * keep.bernoulli_(1.0 - rate, generator=generator).div_(1.0 - rate)
