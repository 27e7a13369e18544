"""DropConnect (Wan et al. 2013) on recurrent weights: Merity et al. 2017, https://arxiv.org/abs/1708.02182."""

from __future__ import annotations

import torch
from torch import Tensor

_LEVELS = 1 << 16


def weight_dropout(weight: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Drops single entries of a recurrent `weight`; the same entries for the whole window, so fused layers can run.

    An entry is dropped where 16 random bits are below the rate, which they render to 1/65,536: four entries share one
    draw, which takes an eighth of the time of a draw for each.
    """
    dropped = round(rate * _LEVELS)
    if dropped == 0:
        return weight
    words = torch.empty(-(-weight.numel() // 4), dtype=torch.int64, device=weight.device)
    bits = words.random_(-(1 << 63), None, generator=generator).view(torch.int16)[: weight.numel()]
    keep = bits.view(weight.shape) >= dropped - _LEVELS // 2
    return weight * keep.to(weight.dtype).mul_(_LEVELS / (_LEVELS - dropped))
