"""Dropping recurrent weights: machine code against numbers drawn one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from textgen.model.half_precision import halves_of
from textgen.model.regularization import weight_dropout
from textgen.model.regularization.compiled_dropout import drop, drop_gradient

_WORD = (1 << 64) - 1


def splitmix(seed: int, number: int) -> int:
    """Word `number` after `seed`, by the definition."""
    word = (seed + (number + 1) * 0x9E3779B97F4A7C15) & _WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)


def kept_slowly(entries: int, seed: int, dropped: int) -> list[bool]:
    words = [splitmix(seed & _WORD, number) for number in range(-(-entries // 4))]
    return [(words[j // 4] >> (16 * (j % 4))) & 0xFFFF >= dropped for j in range(entries)]


def test_words_are_those_of_splitmix() -> None:
    """The first numbers after seed 0 as they are given with the algorithm elsewhere."""
    assert [splitmix(0, number) for number in range(2)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("entries", [1, 6, 4097, 9001])
@pytest.mark.parametrize("seed", [0, 5, -(1 << 63), (1 << 63) - 1])
def test_what_is_dropped_and_its_gradient(threads: int, entries: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(1)
    weight, by_kept = torch.randn(2, entries, generator=generator)
    dropped, scale = 20_000, 65_536 / 45_536
    kept, by_weight = torch.empty(entries, dtype=torch.bfloat16), torch.empty(entries)
    drop(threads, weight.numpy(), seed, dropped, scale, halves_of(kept))
    drop_gradient(threads, halves_of(by_kept.bfloat16()), seed, dropped, scale, by_weight.numpy())
    keep = torch.tensor(kept_slowly(entries, seed, dropped)) * np.float32(scale)
    assert torch.equal(kept, (weight * keep).bfloat16())
    assert torch.equal(by_weight, by_kept.bfloat16().float() * keep)


def dropped_once(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    weight = torch.ones(300, 70, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        kept = weight_dropout(weight, 0.3, torch.Generator().manual_seed(seed))
    (gradient,) = torch.autograd.grad(kept.float().sum(), [weight])
    return kept, gradient


def test_under_autocast_weights_are_dropped_and_rounded_at_once() -> None:
    kept, gradient = dropped_once(0)
    assert kept.dtype == torch.bfloat16
    assert kept.float().mean().item() == pytest.approx(1.0, abs=0.02)
    assert sorted(kept.unique().tolist()) == [0.0, torch.tensor(1 / 0.7).bfloat16().item()]
    assert torch.equal(gradient > 0, kept > 0)
    again, other = dropped_once(0), dropped_once(1)
    assert torch.equal(kept, again[0])
    assert not torch.equal(kept, other[0])
