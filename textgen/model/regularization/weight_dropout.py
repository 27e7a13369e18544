"""DropConnect (Wan et al. 2013) on recurrent weights: Merity et al. 2017, https://arxiv.org/abs/1708.02182."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from textgen.imports import can_compile

_LEVELS = 1 << 16


def weight_dropout(weight: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Drops single entries of a recurrent `weight`; the same entries for the whole window, so fused layers can run.

    An entry is dropped where 16 random bits are below the rate, which they render to 1/65,536. Where autocast on a
    processor would round the result to bf16, it is already.
    """
    dropped = round(rate * _LEVELS)
    if dropped == 0:
        return weight
    if _is_rounded(weight):
        seed = torch.empty((), dtype=torch.int64).random_(-(1 << 63), None, generator=generator)
        rounded: Tensor = _Dropped.apply(weight, int(seed), dropped)  # type: ignore[no-untyped-call]
        return rounded
    # Four entries share one draw, which takes an eighth of the time of a draw for each.
    words = torch.empty(-(-weight.numel() // 4), dtype=torch.int64, device=weight.device)
    bits = words.random_(-(1 << 63), None, generator=generator).view(torch.int16)[: weight.numel()]
    keep = bits.view(weight.shape) >= dropped - _LEVELS // 2
    return weight * keep.to(weight.dtype).mul_(_scale(dropped))


def _scale(dropped: int) -> float:
    return _LEVELS / (_LEVELS - dropped)


def _is_rounded(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and can_compile()
    )


class _Dropped(torch.autograd.Function):
    """Drops and rounds in one pass over memory."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, seed: int, dropped: int) -> Tensor:
        from textgen.model.half_precision import halves_of  # slow to import
        from textgen.model.regularization.compiled_dropout import drop, threads_of_drop

        ctx.seed, ctx.dropped = seed, dropped
        kept = torch.empty(weight.shape, dtype=torch.bfloat16)
        given, found = weight.detach().contiguous().view(-1).numpy(), halves_of(kept.view(-1))
        drop(threads_of_drop(given.size), given, seed, dropped, _scale(dropped), found)
        return kept

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        from textgen.model.half_precision import halves_of
        from textgen.model.regularization.compiled_dropout import drop_gradient, threads_of_drop

        (by_kept,) = gradients
        by_weight = torch.empty(by_kept.shape)
        given, found = halves_of(by_kept.contiguous().view(-1)), by_weight.view(-1).numpy()
        drop_gradient(threads_of_drop(given.size), given, ctx.seed, ctx.dropped, _scale(ctx.dropped), found)
        return by_weight, None, None
