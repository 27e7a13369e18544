"""What an LSTM does with a line of units beside its products, within registers: for AVX-512, whose length they have.

The equations are those of `cells.LSTM`; gradients are by what gates and cell were. Arrays are float32 or bf16, of any
number of axes in C order; entries are counted through all of them, and those of a line are all there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from textgen.model.half_precision import upper_halves

# Units of a line.
UNITS = 16
_GATES = range(4)

_FLOATS, _WORDS = ir.VectorType(ir.FloatType(), UNITS), ir.VectorType(ir.IntType(32), UNITS)
_HALVES = ir.VectorType(ir.IntType(16), UNITS)
# Sums and products may be done in one instruction, and in any order; numbers that are none stay none.
_FLAGS = ("contract", "reassoc", "arcp", "nsz")

# Here the quotient below is 1 to the last bit.
TANH_LIMIT = 7.90531110763549805
# tanh as the quotient of two polynomials, of odd and even powers from the highest on: the approximation of Eigen
# (https://eigen.tuxfamily.org, generic_fast_tanh_float), right to 3e-7. It takes no branch and no exponential.
TANH_ODD = (
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
)
TANH_EVEN = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)


class _Line:
    """Writes instructions for lines of units of what is `given`, a tuple."""

    def __init__(self, context: Any, builder: Any, kinds: Any, given: Any) -> None:
        self._context, self._builder, self._kinds, self._given = context, builder, kinds, given

    def number(self, place: int) -> Any:
        """What is given there and is an integer."""
        return self._builder.extract_value(self._given, place)

    def _address(self, place: int, entry: Any) -> tuple[Any, bool]:
        kind = self._kinds[place]
        array = self._context.make_array(kind)(self._context, self._builder, self.number(place))
        is_half = kind.dtype == types.uint16
        start = self._builder.gep(array.data, [entry])
        return self._builder.bitcast(start, (_HALVES if is_half else _FLOATS).as_pointer()), is_half

    def load(self, place: int, entry: Any) -> Any:
        """A line of the array there."""
        address, is_half = self._address(place, entry)
        loaded = self._builder.load(address, align=2 if is_half else 4)
        if not is_half:
            return loaded
        wide = self._builder.shl(self._builder.zext(loaded, _WORDS), ir.Constant(_WORDS, [16] * UNITS))
        return self._builder.bitcast(wide, _FLOATS)

    def store(self, line: Any, place: int, entry: Any) -> None:
        """Writes a line to the array there, rounded where that is bf16."""
        address, is_half = self._address(place, entry)
        if is_half:
            line = upper_halves(self._builder, line, _WORDS, _HALVES, lambda bits: ir.Constant(_WORDS, [bits] * UNITS))
        self._builder.store(line, address, align=2 if is_half else 4)

    def offset(self, entry: Any, count: int, stride: Any) -> Any:
        """`entry`, and so many strides more."""
        return self._builder.add(entry, self._builder.mul(stride, stride.type(count)))

    def sum(self, first: Any, *others: Any) -> Any:
        for other in others:
            first = self._builder.fadd(first, other, flags=_FLAGS)
        return first

    def product(self, first: Any, *others: Any) -> Any:
        for other in others:
            first = self._builder.fmul(first, other, flags=_FLAGS)
        return first

    def rest(self, line: Any) -> Any:
        """What is missing to 1."""
        return self._builder.fsub(_all(1.0), line, flags=_FLAGS)

    def tanh(self, line: Any) -> Any:
        """The hyperbolic tangent; of what is no number, none."""
        for relation, limit in (("<", -TANH_LIMIT), (">", TANH_LIMIT)):
            # With a flag of its own: numba would else let it assume that no number is none.
            beyond = self._builder.fcmp_ordered(relation, line, _all(limit), flags=("nsz",))
            line = self._builder.select(beyond, _all(limit), line)
        square = self.product(line, line)
        above, below = (self._polynomial(square, numbers) for numbers in (TANH_ODD, TANH_EVEN))
        return self._builder.fdiv(self.product(line, above), below, flags=_FLAGS)

    def sigmoid(self, line: Any) -> Any:
        return self.sum(self.product(self.tanh(self.product(line, _all(0.5))), _all(0.5)), _all(0.5))

    def _polynomial(self, line: Any, numbers: tuple[float, ...]) -> Any:
        value = _all(numbers[0])
        for number in numbers[1:]:
            value = self.sum(self.product(value, line), _all(number))
        return value


def _all(number: float) -> Any:
    return ir.Constant(_FLOATS, [float(np.float32(number))] * UNITS)


def _instruction(write: Callable[[_Line], None]) -> Any:
    """For compiled code: `write` with a tuple."""

    def instruction(_context: Any, given: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            write(_Line(context, builder, signature.args[0].types, arguments[0]))
            return context.get_dummy_value()

        return types.void(given), generate

    return intrinsic(instruction)


def _forward(line: _Line) -> None:
    product, product_stride, by_input, biased, stride, gate, gate_stride, before, after, squash, output = map(
        line.number, (1, 2, 4, 6, 7, 9, 10, 12, 13, 15, 17)
    )
    given = [
        line.sum(
            line.load(0, line.offset(product, number, product_stride)),
            line.load(3, line.offset(by_input, number, stride)),
            line.load(5, line.offset(biased, number, stride)),
        )
        for number in _GATES
    ]
    i, f, o = (line.sigmoid(given[number]) for number in (0, 1, 3))
    g = line.tanh(given[2])
    for number, found in enumerate((i, f, g, o)):
        line.store(found, 8, line.offset(gate, number, gate_stride))
    cell = line.sum(line.product(f, line.load(11, before)), line.product(i, g))
    line.store(cell, 11, after)
    tanh_of_cell = line.tanh(cell)
    line.store(tanh_of_cell, 14, squash)
    line.store(line.product(o, tanh_of_cell), 16, output)


def _backward(line: _Line) -> None:
    hidden, output, gate, gate_stride, before, squash, cell, by_gate, biased, stride = map(
        line.number, (1, 3, 5, 6, 8, 10, 12, 14, 16, 17)
    )
    by_output = line.sum(line.load(0, hidden), line.load(2, output))
    i, f, g, o = (line.load(4, line.offset(gate, number, gate_stride)) for number in _GATES)
    tanh_of_cell = line.load(9, squash)
    slope = line.rest(line.product(tanh_of_cell, tanh_of_cell))
    by_state = line.sum(line.load(11, cell), line.product(by_output, o, slope))
    kept = line.product(by_state, f)
    line.store(kept, 11, cell)
    found = (
        line.product(by_state, g, i, line.rest(i)),
        line.product(kept, line.load(7, before), line.rest(f)),
        line.product(by_state, i, line.rest(line.product(g, g))),
        line.product(by_output, tanh_of_cell, o, line.rest(o)),
    )
    for number, gradient in enumerate(found):
        line.store(gradient, 13, line.offset(by_gate, number, stride))
        at = line.offset(biased, number, stride)
        line.store(line.sum(line.load(15, at), gradient), 15, at)


def _mogrified(line: _Line) -> None:
    product, given, gate, found = map(line.number, (1, 3, 5, 7))
    factor = line.product(line.sigmoid(line.load(0, product)), _all(2.0))
    line.store(factor, 4, gate)
    line.store(line.product(factor, line.load(2, given)), 6, found)


def _mogrified_backward(line: _Line) -> None:
    gradient, given, gate, by_product = map(line.number, (1, 3, 5, 7))
    by_found, factor = line.load(0, gradient), line.load(4, gate)
    slope = line.product(factor, line.sum(_all(1.0), line.product(factor, _all(-0.5))))  # of 2σ, by what it is
    line.store(line.product(by_found, line.load(2, given), slope), 6, by_product)
    line.store(line.product(by_found, factor), 0, gradient)


def _added(line: _Line) -> None:
    total, number = line.number(1), line.number(3)
    line.store(line.sum(line.load(0, total), line.load(2, number)), 0, total)


def _copied(line: _Line) -> None:
    line.store(line.load(0, line.number(1)), 2, line.number(3))


# For compiled code, of one tuple. `line_forward`, each an array and the entry where the line begins: what the gates i,
# f, g and o get from the last output, and the stride of these; the same from the input; their bias, and the stride of
# both; room for the gates, and their stride; the cells, where those before and after begin; room for tanh of the cell;
# room for the output.
line_forward: Any = _instruction(_forward)
# `line_backward`: the gradient of the output by later steps; by this one; what the gates were, and their stride; the
# cells before; tanh of the cell; the gradient of the cell, which becomes that of the cell before; room for those of the
# gates; that of the bias, which they are added to, and the stride of these two.
line_backward: Any = _instruction(_backward)
# `line_mogrified`: what 2σ is taken of; what is multiplied with that; room for 2σ; room for the product. Its gradient:
# that of the product, which becomes that of what was multiplied; this itself; what 2σ was; room for the gradient of
# what it was taken of.
line_mogrified: Any = _instruction(_mogrified)
line_mogrified_backward: Any = _instruction(_mogrified_backward)
# `line_added`: what is added to, and what to it. `line_copied`: from where, and to where.
line_added: Any = _instruction(_added)
line_copied: Any = _instruction(_copied)
