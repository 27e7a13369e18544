"""DropConnect (Wan et al. 2013) on recurrent weights: Merity et al. 2017, https://arxiv.org/abs/1708.02182."""

from __future__ import annotations

import torch
from torch import Tensor


def weight_dropout(weight: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Drops single entries of a recurrent `weight`; the same entries for the whole window, so fused layers can run."""
    if rate == 0.0:
        return weight
    keep = torch.empty_like(weight).bernoulli_(1.0 - rate, generator=generator)
    return weight * keep.div_(1.0 - rate)
