"""bfloat16 for machine code: the upper half of a float32, held in 16 bits, since NumPy and numba have no such type."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor

from textgen.compiled import compiled

Halves = NDArray[np.uint16]

# numba computes with 64 bits whatever it is given less; half as many numbers would then fit in a register.
_BITS = ir.IntType(32)


def halves_of(tensor: Tensor) -> Halves:
    """The same bf16 numbers, in the same memory."""
    return tensor.view(torch.uint16).numpy()


def transposed(matrix: Tensor) -> Tensor:
    """The bf16 `matrix` [rows, columns] with columns as rows, in memory too."""
    turned = torch.empty(matrix.shape[::-1], dtype=torch.bfloat16)
    _transpose(halves_of(matrix.detach().contiguous()), halves_of(turned))
    return turned


@compiled
def _transpose(matrix: Halves, turned: Halves) -> None:
    """Block by block: whole columns, whose entries lie a power of two apart, would share a few places of the cache."""
    rows, columns = matrix.shape
    for top in range(0, rows, 32):
        for left in range(0, columns, 16):
            block, found = matrix[top : top + 32, left : left + 16], turned[left : left + 16, top : top + 32]
            height, width = block.shape
            for column in range(width):
                line = found[column]
                for row in range(height):
                    line[row] = block[row, column]


@intrinsic
def _widened(_context: Any, half: Any) -> Any:
    def generate(_: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(builder.shl(builder.zext(arguments[0], _BITS), _BITS(16)), ir.FloatType())

    return types.float32(half), generate


@intrinsic
def _narrowed(_context: Any, number: Any) -> Any:
    def generate(_: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(arguments[0], _BITS)
        odd = builder.and_(builder.lshr(bits, _BITS(16)), _BITS(1))
        rounded = builder.add(bits, builder.add(odd, _BITS(0x7FFF)))
        return builder.trunc(builder.lshr(rounded, _BITS(16)), ir.IntType(16))

    return types.uint16(number), generate


# For compiled code: 16 bits as a float32, and a float32 rounded to the nearest 16 bits, of two as near to the even one.
widened: Any = _widened
narrowed: Any = _narrowed
