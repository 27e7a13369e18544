"""bfloat16 for machine code: the upper half of a float32, held in 16 bits, since NumPy and numba have no such type."""

from __future__ import annotations

from collections.abc import Callable
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
# Numbers that are read and written at once, whole lines of the cache.
LINE = 32
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
def _transpose_tile(_context: Any, matrix: Any, _top: Any, _left: Any, turned: Any, _row: Any, _column: Any) -> Any:
    """Within registers: read entry by entry, rows a power of two apart would share a few places of the cache.

    First the halves of a tile that lie off its diagonal change places, then those of each quarter, and so on
    (Eklundh 1972, https://doi.org/10.1109/T-C.1972.223584).
    """
    row_of_tile, place = ir.VectorType(ir.IntType(matrix.dtype.bitwidth), _TILE), ir.IntType(64)

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        def address(argument: int, row: Any, column: Any) -> Any:
            array = context.make_array(signature.args[argument])(context, builder, given[argument])
            by_row, by_column = (builder.extract_value(array.strides, axis) for axis in range(2))
            offset = builder.add(builder.mul(row, by_row), builder.mul(column, by_column))
            start = builder.bitcast(array.data, ir.IntType(8).as_pointer())
            return builder.bitcast(builder.gep(start, [offset]), row_of_tile.as_pointer())

        _, top, left, _, row, column = given
        lines = [builder.load(address(0, builder.add(top, place(k)), left), align=2) for k in range(_TILE)]
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
            builder.store(line, address(3, builder.add(row, place(k)), column), align=2)
        return context.get_dummy_value()

    return types.void(matrix, types.intp, types.intp, turned, types.intp, types.intp), generate


# For compiled code, `tile_transposed(matrix, top, left, turned, row, column)`: 16 x 16 numbers of `matrix`, of 16 or 32
# bits each, are written to `turned` at that row and column.
tile_transposed: Any = _transpose_tile


@part
def _transpose_part(number: int, parts: int, matrix: Halves, turned: Halves) -> None:
    rows, columns = matrix.shape
    first, last = bounds_of_part(number, parts, columns, _TILE)
    whole_rows, whole_columns = rows - rows % _TILE, last - (last - first) % _TILE
    for left in range(first, whole_columns, _TILE):
        for top in range(0, whole_rows, _TILE):
            tile_transposed(matrix, top, left, turned, left, top)
    for column in range(first, last):
        for row in range(whole_rows if column < whole_columns else 0, rows):
            turned[column, row] = matrix[row, column]


@intrinsic
def _widened(_context: Any, half: Any) -> Any:
    def generate(_: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(builder.shl(builder.zext(arguments[0], _BITS), _BITS(16)), ir.FloatType())

    return types.float32(half), generate


def upper_halves(builder: Any, numbers: Any, bits: Any, halves: Any, same: Callable[[int], Any]) -> Any:
    """Float32 numbers to the nearest 16 bits; `same` makes a constant of the type `bits`."""
    given = builder.bitcast(numbers, bits)
    odd = builder.and_(builder.lshr(given, same(16)), same(1))
    rounded = builder.add(given, builder.add(odd, same(0x7FFF)))
    return builder.trunc(builder.lshr(rounded, same(16)), halves)


@intrinsic
def _narrowed(_context: Any, number: Any) -> Any:
    def generate(_: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return upper_halves(builder, arguments[0], _BITS, ir.IntType(16), _BITS)

    return types.uint16(number), generate


# For compiled code: 16 bits as a float32, and a float32 rounded to the nearest 16 bits, of two as near to the even one.
widened: Any = _widened
narrowed: Any = _narrowed


@intrinsic
def _line_joined(_context: Any, halves: Any, _even: Any, _odd: Any, words: Any, _at: Any) -> Any:
    given, joined = ir.VectorType(ir.IntType(16), LINE), ir.VectorType(_BITS, LINE)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def line(argument: int, place: Any, kind: Any) -> Any:
            array = context.make_array(signature.args[argument])(context, builder, arguments[argument])
            return builder.bitcast(builder.gep(array.data, [place]), kind.as_pointer())

        even, odd = (builder.zext(builder.load(line(0, arguments[place], given), align=2), joined) for place in (1, 2))
        found = builder.or_(even, builder.shl(odd, ir.Constant(joined, [16] * LINE)))
        builder.store(found, line(3, arguments[4], joined), align=4)
        return context.get_dummy_value()

    return types.void(halves, types.intp, types.intp, words, types.intp), generate


# For compiled code, `line_joined(halves, i, j, words, at)`: LINE numbers from entry `i` on, and those from `j` on as
# upper halves, are written to `words` from `at` on. Entries are counted through all axes, in C order.
line_joined: Any = _line_joined
