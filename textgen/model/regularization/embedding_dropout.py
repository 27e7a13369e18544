"""Embedding dropout: Gal & Ghahramani 2016, https://arxiv.org/abs/1512.05287, section 4.2."""

from __future__ import annotations

import torch
from torch import Tensor


def embedding_dropout(weight: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Drops whole rows of `weight` [vocab, size]: a dropped piece is blank wherever it occurs in the window."""
    if rate == 0.0:
        return weight
    keep = torch.empty(weight.shape[0], 1, device=weight.device, dtype=weight.dtype)
    return weight * keep.bernoulli_(1.0 - rate, generator=generator).div_(1.0 - rate)
