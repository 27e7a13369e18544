"""The loss by machine code against PyTorch's, which takes float32."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from textgen.text.corpus import StreamBatches
from textgen.training.cross_entropy import cross_entropy


def both(logits: Tensor, targets: Tensor, count: int, factor: float = 1.0) -> list[tuple[Tensor, Tensor]]:
    """Loss and gradient of either."""
    results = []
    for in_float32 in (False, True):
        given = logits.clone().requires_grad_()
        if in_float32:
            sums = F.cross_entropy(given.float(), targets, ignore_index=StreamBatches.IGNORE, reduction="sum")
            loss = sums / count
        else:
            loss = cross_entropy(given, targets, count)
        (loss * factor).backward()
        assert given.grad is not None
        assert given.grad.dtype == logits.dtype
        results.append((loss.detach(), given.grad.float()))
    return results


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (3, 7), (64, 1000), (33, 4001)])
@pytest.mark.parametrize("scale", [0.0, 1.0, 40.0])
@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_it_is_that_of_pytorch(rows: int, size: int, scale: float, factor: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (scale * torch.randn(rows, size, generator=generator) - 5).bfloat16()
    targets = torch.randint(0, size, (rows,), generator=generator)
    targets[1::3] = StreamBatches.IGNORE
    (loss, gradient), (expected, by_pytorch) = both(logits, targets, 7 * rows, factor)
    torch.testing.assert_close(loss, expected, rtol=2e-6, atol=1e-6)
    # One rounding to bf16, which may fall to the other side; where more is rounded twice, to another factor.
    torch.testing.assert_close(gradient, by_pytorch, rtol=2**-7, atol=1e-8)
    assert not gradient[1::3].any()


def test_other_numbers_are_pytorchs() -> None:
    logits, targets = torch.randn(5, 9), torch.tensor([0, 8, StreamBatches.IGNORE, 3, 3])
    (loss, gradient), (expected, by_pytorch) = both(logits, targets, 4)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, by_pytorch)


@pytest.mark.parametrize("spoilt", [float("nan"), float("inf")])
def test_a_logit_that_is_no_number_is_not_passed_over(spoilt: float) -> None:
    """Training has to see that it has diverged."""
    logits = torch.zeros(3, 40).bfloat16()
    logits[1, 17] = spoilt
    (loss, gradient), _ = both(logits, torch.tensor([1, 2, 3]), 3)
    assert loss.isnan()
    assert gradient[1].isnan().all()
    assert gradient[0].isfinite().all()


def test_a_target_that_is_no_entry_writes_nowhere() -> None:
    """Machine code looks up what it is told to."""
    logits = torch.zeros(2, 8).bfloat16().requires_grad_()
    loss = cross_entropy(logits, torch.tensor([1, 10**9]), 2)
    loss.backward()
    assert loss.isnan()
    assert logits.grad is not None
    assert logits.grad[1].isnan().all()
    assert logits.grad[0].isfinite().all()


_UNCOMPILED = """
import torch
from textgen.training.cross_entropy import cross_entropy
from textgen.model.regularization import weight_dropout

logits = torch.zeros(2, 8, requires_grad=True)
with torch.autocast("cpu", torch.bfloat16):
    weight = weight_dropout(torch.ones(8, 8), 0.5, torch.Generator())
    loss = cross_entropy((logits @ weight).bfloat16(), torch.tensor([1, 2]), 2)
loss.backward()
torch.testing.assert_close(loss.item(), 2.0794, rtol=1e-3, atol=0)
"""


@pytest.mark.slow
def test_where_nothing_is_compiled_pytorch_does_it() -> None:
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    subprocess.run([sys.executable, "-c", _UNCOMPILED], env=environment, check=True, timeout=120)


def test_all_may_be_ignored() -> None:
    loss = cross_entropy(torch.zeros(2, 3).bfloat16(), torch.full((2,), StreamBatches.IGNORE), 1)
    assert loss == 0
