"""Products by dot products of bf16 within compiled loops, against those of PyTorch in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from textgen.compiled import compiled
from textgen.imports import can_multiply
from textgen.model.dot_products import (
    COLUMNS,
    ROWS,
    SHEET,
    Words,
    columns_packed,
    multiply,
    pack_rows,
    room_for_rows,
    rows_packed,
    words_of,
)

SHAPES = [(32, 32), (64, 96), (96, 64), (160, 512)]


def numbers(words: Words) -> Tensor:
    """Words as the pairs of numbers that they are."""
    return torch.from_numpy(words.view(np.int32)).view(torch.bfloat16).unflatten(-1, (-1, 2))


@pytest.mark.parametrize(("columns", "size"), SHAPES)
def test_either_packing_puts_a_number_beside_the_next_of_its_sum(columns: int, size: int) -> None:
    weight = torch.randn(columns, size).bfloat16()
    expected = weight.reshape(columns // COLUMNS, COLUMNS, size // 2, 2).transpose(1, 2)
    for packed in (columns_packed(weight), rows_packed(weight.t().contiguous())):
        assert torch.equal(numbers(packed), expected)


@pytest.mark.parametrize("rows", [1, 16, 20, 33])
def test_rows_are_packed_in_panels_and_missing_ones_stay_zeros(rows: int) -> None:
    given, packed = torch.randn(rows, 128).bfloat16(), room_for_rows(rows, 128)

    @compiled
    def pack(words: Words, packed: Words) -> None:
        pack_rows(words, packed, 16, 48)

    pack(words_of(given), packed[1])
    assert not packed[0].any()
    expected = torch.zeros(packed.shape[1] * SHEET, 64, 2).bfloat16()
    expected[:rows, 16:48] = given.unflatten(1, (64, 2))[:, 16:48]
    assert torch.equal(numbers(packed[1]), expected.reshape(-1, SHEET, 64, 2).transpose(1, 2))


@pytest.mark.skipif(not can_multiply(), reason="this processor has no dot products of bf16, or something better")
@pytest.mark.parametrize("rows", [1, 16, 40])
@pytest.mark.parametrize(("columns", "size"), SHAPES)
def test_products_are_those_in_float32(rows: int, columns: int, size: int) -> None:
    given, weight = torch.randn(rows, size).bfloat16(), torch.randn(columns, size).bfloat16()
    packed, held = room_for_rows(rows, size)[0], columns_packed(weight)
    found = np.full((len(held), -(-rows // ROWS) * ROWS, COLUMNS), np.nan, dtype=np.float32)

    @compiled
    def product(words: Words, packed: Words, held: Words, found: Any) -> None:
        pack_rows(words, packed, 0, words.shape[1])
        for panel in range(len(held)):
            for row in range(0, found.shape[1], ROWS):
                multiply(packed, row, held, panel, found[panel])

    product(words_of(given), packed, held, found)
    exact = given.double() @ weight.double().t()
    products = torch.from_numpy(found).transpose(0, 1).flatten(1)
    torch.testing.assert_close(products[:rows], exact.float(), rtol=1e-5, atol=1e-5 * size**0.5)
    assert not products[rows:].any()
