"""Products of a batch's rows with one weight in bf16, within compiled loops: by the dot products of AVX512-BF16.

oneDNN multiplies so few rows no faster, and each of its calls costs some microseconds of a step that takes a hundred.
What is multiplied lies in words of two bf16 numbers that follow each other along what is summed over, the words in
panels, which are read from front to end. Columns, and what is summed over, are multiples of COLUMNS.
"""

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
from textgen.model.half_precision import LINE, line_joined, tile_transposed

Words = NDArray[np.uint32]

# Of what is computed at once: its sums take 16 of 32 registers. With 16 rows and 16 columns it would be as many, and a
# load for each instruction, which takes longer.
ROWS, COLUMNS = 8, 32
# Rows whose numbers of the same place lie side by side.
SHEET = 16
_LANES = 16
assert COLUMNS == LINE
# Words that take a thread many times as long as it takes to wake it.
_EACH = 1 << 15
_INSTRUCTION = "llvm.x86.avx512bf16.dpbf16ps.512"


def words_of(tensor: Tensor) -> Words:
    """Every two bf16 numbers as a word [..., last / 2], in the same memory."""
    return tensor.view(torch.int32).view(torch.uint32).numpy()


def room_for_rows(rows: int, size: int) -> Words:
    """For twice so many rows of `size` numbers, [2, sheets, size / 2, SHEET]; missing ones of a sheet are zeros."""
    return torch.zeros(2, -(-rows // SHEET), size // 2, SHEET, dtype=torch.int32).view(torch.uint32).numpy()


def columns_packed(weight: Tensor) -> Words:
    """The bf16 `weight` [columns, sum] for products of rows [sum] with its rows: [panels, sum / 2, COLUMNS]."""
    columns, size = weight.shape
    packed = torch.empty(columns // COLUMNS, size // 2, COLUMNS, dtype=torch.int32).view(torch.uint32).numpy()
    _turn(threads_for(packed.size, each=_EACH), words_of(weight), packed)
    return packed


def rows_packed(weight: Tensor) -> Words:
    """The bf16 `weight` [sum, columns] for products of rows [sum] with its columns: [panels, sum / 2, COLUMNS]."""
    size, columns = weight.shape
    packed = torch.empty(columns // COLUMNS, size // 2, COLUMNS, dtype=torch.int32).view(torch.uint32).numpy()
    _interleave(threads_for(packed.size, each=_EACH), weight.view(torch.uint16).numpy(), packed)
    return packed


@compiled
def _turn(threads: int, *arrays: Any) -> None:
    in_parts(_turn_part, threads, arrays)


@part
def _turn_part(number: int, parts: int, words: Words, packed: Words) -> None:
    panels, size, _ = packed.shape
    first, last = bounds_of_part(number, parts, panels, 1)
    for panel in range(first, last):
        turned, top = packed[panel], panel * COLUMNS
        for left in range(0, size, _LANES):
            for place in range(0, COLUMNS, _LANES):
                tile_transposed(words, top + place, left, turned, left, place)


@compiled
def _interleave(threads: int, *arrays: Any) -> None:
    in_parts(_interleave_part, threads, arrays)


@part
def _interleave_part(number: int, parts: int, halves: NDArray[np.uint16], packed: Words) -> None:
    panels, size, _ = packed.shape
    columns = halves.shape[1]
    first, last = bounds_of_part(number, parts, panels, 1)
    for panel in range(first, last):
        for pair in range(size):
            even = 2 * pair * columns + panel * COLUMNS
            line_joined(halves, even, even + columns, packed, (panel * size + pair) * COLUMNS)


@part
def pack_rows(words: Words, packed: Words, first: int, last: int) -> None:
    """Puts words `first` to `last` of rows [rows, size / 2] where `multiply` reads them: [sheets, size / 2, SHEET].

    They are whole tiles: `first` and `last` are multiples of SHEET.
    """
    rows = len(words)
    for sheet in range(len(packed)):
        top, turned = sheet * SHEET, packed[sheet]
        if rows - top >= SHEET:
            for left in range(first, last, SHEET):
                tile_transposed(words, top, left, turned, left, 0)
        else:
            for row in range(top, rows):
                for pair in range(first, last):
                    turned[pair, row - top] = words[row, pair]


class _BFloat(ir.Type):  # type: ignore[misc]
    """A bf16 number, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


@intrinsic
def _multiply(_context: Any, rows: Any, _first: Any, columns: Any, _panel: Any, found: Any) -> Any:
    word, place = ir.IntType(32), ir.IntType(64)
    words, floats = ir.VectorType(word, _LANES), ir.VectorType(ir.FloatType(), _LANES)
    halves = ir.VectorType(_BFloat(), 2 * _LANES)
    nothing, zeros = ir.Constant(words, ir.Undefined), ir.Constant(floats, [0.0] * _LANES)
    squares = [(row, left) for row in range(ROWS) for left in range(0, COLUMNS, _LANES)]

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        def array(argument: int) -> Any:
            return context.make_array(signature.args[argument])(context, builder, given[argument])

        def start_of(argument: int, number: Any) -> Any:
            offset = builder.mul(number, builder.extract_value(array(argument).strides, 0))
            start = builder.bitcast(array(argument).data, ir.IntType(8).as_pointer())
            return builder.bitcast(builder.gep(start, [offset]), word.as_pointer())

        def at(start: Any, offset: Any, kind: Any) -> Any:
            return builder.bitcast(builder.gep(start, [offset]), kind.as_pointer())

        _, first, _, panel, _ = given
        sheet, place_in_sheet = builder.udiv(first, place(SHEET)), builder.urem(first, place(SHEET))
        row_words, column_words, sums = at(start_of(0, sheet), place_in_sheet, word), start_of(2, panel), array(4)
        pairs = builder.extract_value(array(0).shape, 1)
        kind = ir.FunctionType(floats, [floats, halves, halves])
        add_products = builder.module.globals.get(_INSTRUCTION) or ir.Function(builder.module, kind, _INSTRUCTION)

        before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.branch(loop)
        builder.position_at_end(loop)
        pair = builder.phi(place)
        held = {square: builder.phi(floats) for square in squares}
        start = builder.mul(pair, place(COLUMNS))
        column = {
            left: builder.bitcast(
                builder.load(at(column_words, builder.add(start, place(left)), words), align=4), halves
            )
            for left in range(0, COLUMNS, _LANES)
        }
        start = builder.mul(pair, place(SHEET))
        row = []
        for number in range(ROWS):
            one = builder.load(at(row_words, builder.add(start, place(number)), word))
            alone = builder.insert_element(nothing, one, word(0))
            everywhere = builder.shuffle_vector(alone, nothing, ir.Constant(words, [0] * _LANES))
            row.append(builder.bitcast(everywhere, halves))
        added = {
            (number, left): builder.call(add_products, [held[number, left], row[number], column[left]])
            for number, left in squares
        }
        following = builder.add(pair, place(1))
        for phi, at_first, then in [(pair, place(0), following), *((held[at], zeros, added[at]) for at in squares)]:
            phi.add_incoming(at_first, before)
            phi.add_incoming(then, loop)
        builder.cbranch(builder.icmp_signed("<", following, pairs), loop, after)

        builder.position_at_end(after)
        top = builder.mul(first, place(COLUMNS))
        for (number, left), line in added.items():
            builder.store(line, at(sums.data, builder.add(top, place(number * COLUMNS + left)), floats), align=4)
        return context.get_dummy_value()

    return types.void(rows, types.intp, columns, types.intp, found), generate


# For compiled code, `multiply(rows, first, columns, panel, found)`: the products of ROWS rows, as from `pack_rows` from
# row `first` on, a multiple of ROWS, with one panel of columns, summed in float32 in the order of what is summed over,
# are written to those rows of `found` [rows, COLUMNS], which has room for them.
multiply: Any = _multiply
