"""The loss of a training step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from textgen.imports import can_compile
from textgen.text.corpus import StreamBatches


def cross_entropy(logits: Tensor, targets: Tensor, count: int) -> Tensor:
    """The sum over all rows of their cross-entropy in nats, a `count`-th of it; fp32, of no dimension.

    `logits` is [rows, vocab], in any number format, `targets` [rows]; rows of `StreamBatches.IGNORE` add nothing.
    """
    if logits.device.type == "cpu" and logits.dtype == torch.bfloat16 and can_compile():
        loss: Tensor = _CrossEntropy.apply(logits, targets, 1.0 / count)  # type: ignore[no-untyped-call]
        return loss
    return F.cross_entropy(logits.float(), targets, ignore_index=StreamBatches.IGNORE, reduction="sum") / count


class _CrossEntropy(torch.autograd.Function):
    """Computes the gradient at once: what it is made of is in the cache then."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, share: float) -> Tensor:
        from textgen.model.half_precision import halves_of  # slow to import
        from textgen.training.compiled_loss import lose, threads_of_loss

        logits = logits.detach().contiguous()
        losses, by_logits = torch.empty(len(logits)), torch.empty_like(logits)
        given = halves_of(logits)
        wanted = targets.masked_fill(targets == StreamBatches.IGNORE, -1).numpy()
        lose(threads_of_loss(given), given, wanted, share, losses.numpy(), halves_of(by_logits))
        ctx.save_for_backward(by_logits)
        return losses.sum() * share

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (by_logits,) = ctx.saved_tensors
        (by_loss,) = gradients
        return by_logits if by_loss == 1 else by_logits * by_loss, None, None
