"""The optimizer, its learning-rate schedule and the moving average of weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from textgen.config import TrainingSettings


def build_optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101); only matrices decay."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.99), fused=fused)


def learning_rate_factor(progress: float, warmup: float) -> float:
    """Linear rise over the first `warmup` of the budget, then half a cosine down to zero (Loshchilov & Hutter 2017).

    `progress` is the spent share of the budget, whatever the budget is counted in.
    """
    if progress < warmup:
        # Never exactly zero, or the first step of a run measured in time would do nothing.
        return max(progress / warmup, 1e-3)
    if warmup >= 1.0:
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (progress - warmup) / (1.0 - warmup))))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, *, decay: float, step: int) -> None:
    """Moves `average` towards `model` after optimizer step `step` (from 1): Polyak & Juditsky 1992, exponential form.

    Early on the decay is held down to (1 + step) / (10 + step), so that the random start is soon forgotten.
    """
    weight = 1.0 - min(decay, (1 + step) / (10 + step))
    targets: list[Tensor] = list(average.parameters())
    torch._foreach_lerp_(targets, list(model.parameters()), weight)
