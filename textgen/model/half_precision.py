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

from textgen.compiled import compiled, part
from textgen.compiled_parts import bounds_of_part, in_parts, threads_for

Halves = NDArray[np.uint16]

# numba computes with 64 bits whatever it is given less; half as many numbers would then fit in a register.
_BITS = ir.IntType(32)
# Rows and columns of a matrix that are turned at once.
_TILE = 16
# Entries that take a thread many times as long as it takes to wake it.
_EACH = 1 << 15


def halves_of(tensor: Tensor) -> Halves:
    """The same bf16 numbers, in the same memory."""
    return tensor.view(torch.uint16).numpy()


def transposed(matrix: Tensor) -> Tensor:
    """The bf16 `matrix` [rows, columns] with columns as rows, in memory too."""
    turned = torch.empty(matrix.shape[::-1], dtype=torch.bfloat16)
    threads = threads_for(matrix.numel(), each=_EACH)
    _transpose(threads, halves_of(matrix.detach().contiguous()), halves_of(turned))
    return turned


@compiled
def _transpose(threads: int, *matrices: Any) -> None:
    in_parts(_transpose_part, threads, matrices)


@intrinsic
def _transpose_tile(_context: Any, matrix: Any, _top: Any, _left: Any, turned: Any) -> Any:
    """Within registers: read entry by entry, rows a power of two apart would share a few places of the cache.

    First the halves of a tile that lie off its diagonal change places, then those of each quarter, and so on
    (Eklundh 1972, https://doi.org/10.1109/T-C.1972.223584).
    """
    row_of_tile, place = ir.VectorType(ir.IntType(16), _TILE), ir.IntType(64)

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        def address(argument: int, row: Any, column: Any) -> Any:
            array = context.make_array(signature.args[argument])(context, builder, given[argument])
            by_row, by_column = (builder.extract_value(array.strides, axis) for axis in range(2))
            offset = builder.add(builder.mul(row, by_row), builder.mul(column, by_column))
            start = builder.bitcast(array.data, ir.IntType(8).as_pointer())
            return builder.bitcast(builder.gep(start, [offset]), row_of_tile.as_pointer())

        _, row, column, _ = given
        lines = [builder.load(address(0, builder.add(row, place(k)), column), align=2) for k in range(_TILE)]
        half = _TILE // 2
        while half:
            upper = [k + _TILE - half if k & half else k for k in range(_TILE)]
            lower = [k + _TILE if k & half else k + half for k in range(_TILE)]
            kept, moved = (ir.Constant(ir.VectorType(ir.IntType(32), _TILE), chosen) for chosen in (upper, lower))
            for k in range(_TILE):
                if not k & half:
                    pair = lines[k], lines[k + half]
                    lines[k] = builder.shuffle_vector(*pair, kept)
                    lines[k + half] = builder.shuffle_vector(*pair, moved)
            half //= 2
        for k, line in enumerate(lines):
            builder.store(line, address(3, builder.add(column, place(k)), row), align=2)
        return context.get_dummy_value()

    return types.void(matrix, types.intp, types.intp, turned), generate


_tile_transposed: Any = _transpose_tile


@part
def _transpose_part(number: int, parts: int, matrix: Halves, turned: Halves) -> None:
    rows, columns = matrix.shape
    first, last = bounds_of_part(number, parts, columns, _TILE)
    whole_rows, whole_columns = rows - rows % _TILE, last - (last - first) % _TILE
    for left in range(first, whole_columns, _TILE):
        for top in range(0, whole_rows, _TILE):
            _tile_transposed(matrix, top, left, turned)
    for column in range(first, last):
        for row in range(whole_rows if column < whole_columns else 0, rows):
            turned[column, row] = matrix[row, column]


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
