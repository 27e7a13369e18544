"""What an LSTM does at a step beside its products, in bf16, as machine code: one pass over what stays in the cache.

Where this processor has dot products of bf16 numbers, a whole window is one call, its products by a step's rows too.
Gates are computed, and sums over time kept, in float32. The slow reference is `lstm_window` when it works plainly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from textgen.compiled import compiled, part
from textgen.compiled_parts import bounds_of_part, in_parts, threads_for, wait_for_others
from textgen.model.dot_products import COLUMNS, ROWS, Words, multiply, pack_rows
from textgen.model.half_precision import Halves, narrowed, widened
from textgen.model.lstm_lines import TANH_EVEN, TANH_LIMIT, TANH_ODD, UNITS, line_backward, line_forward

_Floats = NDArray[np.float32]

# Entries [batch, hidden] that take a thread some microseconds, several times what it takes to wake it.
_EACH = 2048

_float = np.float32
_ONE, _HALF = _float(1.0), _float(0.5)
_LIMIT = _float(TANH_LIMIT)
_P13, _P11, _P9, _P7, _P5, _P3, _P1 = map(_float, TANH_ODD)
_Q6, _Q4, _Q2, _Q0 = map(_float, TANH_EVEN)


def _plain(function: Any) -> Any:
    """For a part of a loop: written out there, it is made parallel with it."""
    return part(function, inline="always")


@_plain
def _tanh(number: Any) -> Any:
    number = min(max(number, -_LIMIT), _LIMIT)
    square = number * number
    above = (((((_P13 * square + _P11) * square + _P9) * square + _P7) * square + _P5) * square + _P3) * square + _P1
    below = ((_Q6 * square + _Q4) * square + _Q2) * square + _Q0
    return number * above / below


@_plain
def _sigmoid(number: Any) -> Any:
    return _HALF * _tanh(_HALF * number) + _HALF


@_plain
def _sigmoids(given: Any, added: Any, bias: Any, found: Any) -> None:
    for j in range(found.size):
        found[j] = _sigmoid(widened(given[j]) + widened(added[j]) + bias[j])


def of_rows(function: Any) -> Any:
    """For a step of some rows of a batch."""
    return part(function, fastmath=True)


def threads_of_step(squashed: Tensor) -> int:
    """How many threads share a step of a window of [time, batch, hidden]."""
    _, rows, size = squashed.shape
    return min(rows, threads_for(rows * size, each=_EACH))


def threads_of_window(rows: int, size: int) -> int:
    """How many threads share the `size` units of a window."""
    return min(size // COLUMNS, threads_for(rows * size, each=_EACH))


# Loops are short and many: those over many arrays at once are not made parallel by the compiler.


@of_rows
def _forward(
    number: int,
    parts: int,
    step: int,
    by_hidden: Halves,
    by_inputs: Halves,
    bias: _Floats,
    gates: _Floats,
    cells: _Floats,
    squashed: _Floats,
    outputs: Halves,
) -> None:
    rows, size = squashed.shape[1:]
    first, last = bounds_of_part(number, parts, rows, 1)
    for row in range(first, last):
        given, added, gate = by_hidden[row], by_inputs[step, row], gates[step, row]
        before, after = cells[step, row], cells[step + 1, row]
        tanh_of_cell, output = squashed[step, row], outputs[step + 1, row]
        i, f, g, o = gate[:size], gate[size : 2 * size], gate[2 * size : 3 * size], gate[3 * size :]
        _sigmoids(given[: 2 * size], added[: 2 * size], bias[: 2 * size], gate[: 2 * size])
        _sigmoids(given[3 * size :], added[3 * size :], bias[3 * size :], o)
        to_g, added_to_g = given[2 * size : 3 * size], added[2 * size : 3 * size]
        bias_of_g = bias[2 * size : 3 * size]
        for j in range(size):
            g[j] = _tanh(widened(to_g[j]) + widened(added_to_g[j]) + bias_of_g[j])
        for j in range(size):
            after[j] = f[j] * before[j] + i[j] * g[j]
        for j in range(size):
            squash = _tanh(after[j])
            tanh_of_cell[j] = squash
            output[j] = narrowed(o[j] * squash)


@compiled
def step_forward(threads: int, *arguments: Any) -> None:
    """From what the gates of a step are given to its cell and output.

    Arguments are those of `_forward`. The gates, i, f, g and o side by side, are given the sum of `by_hidden` [batch,
    4 · hidden], the step's of `by_inputs` [time, batch, 4 · hidden] and `bias` [4 · hidden]. `gates` [time, batch,
    4 · hidden] and `squashed`, tanh of the cell, [time, batch, hidden] are written at `step`, `cells` and `outputs`
    [time + 1, batch, hidden] at the next.
    """
    in_parts(_forward, threads, arguments)


@of_rows
def _backward(
    number: int,
    parts: int,
    step: int,
    by_hidden: Halves,
    by_outputs: Halves,
    gates: _Floats,
    cells: _Floats,
    squashed: _Floats,
    by_cell: _Floats,
    by_gates: Halves,
    by_bias: _Floats,
) -> None:
    rows, size = by_hidden.shape
    bias = by_bias[number]
    by_i, by_f, by_g, by_o = bias[:size], bias[size : 2 * size], bias[2 * size : 3 * size], bias[3 * size :]
    first, last = bounds_of_part(number, parts, rows, 1)
    for row in range(first, last):
        later, now, before, tanh_of_cell = by_hidden[row], by_outputs[step, row], cells[step, row], squashed[step, row]
        gate, found, cell = gates[step, row], by_gates[step, row], by_cell[row]
        i, f, g, o = gate[:size], gate[size : 2 * size], gate[2 * size : 3 * size], gate[3 * size :]
        to_i, to_f, to_g, to_o = found[:size], found[size : 2 * size], found[2 * size : 3 * size], found[3 * size :]
        for j in range(size):
            output = widened(later[j]) + widened(now[j])
            cell[j] += output * o[j] * (_ONE - tanh_of_cell[j] * tanh_of_cell[j])
            gradient = output * tanh_of_cell[j] * o[j] * (_ONE - o[j])
            by_o[j] += gradient
            to_o[j] = narrowed(gradient)
        for j in range(size):
            gradient = cell[j] * g[j] * i[j] * (_ONE - i[j])
            by_i[j] += gradient
            to_i[j] = narrowed(gradient)
        for j in range(size):
            gradient = cell[j] * i[j] * (_ONE - g[j] * g[j])
            by_g[j] += gradient
            to_g[j] = narrowed(gradient)
        for j in range(size):
            kept = cell[j] * f[j]
            gradient = kept * before[j] * (_ONE - f[j])
            by_f[j] += gradient
            to_f[j] = narrowed(gradient)
            cell[j] = kept


@compiled
def step_backward(threads: int, *arguments: Any) -> None:
    """From the gradient of a step's output and cell to those of its gates and of the cell before.

    Arguments are those of `_backward`. The gradient of the output is the sum of `by_hidden` [batch, hidden], by the
    steps after it, and `by_outputs` [time, batch, hidden]. `by_cell` [batch, hidden] is replaced by the one of the cell
    before, `by_gates` [time, batch, 4 · hidden] is written at `step`, and added to `by_bias` [threads, 4 · hidden], in
    parts.
    """
    in_parts(_backward, threads, arguments)


# What a window at once keeps lies unit by unit: threads share the units, and two that write to pieces of the same rows
# fetch each other's ahead. So there are panels of COLUMNS units, of each the rows one behind the other.
assert COLUMNS % UNITS == 0


@of_rows
def panel_forward(
    step: int,
    panel: int,
    squares: _Floats,
    by_inputs: Halves,
    bias: _Floats,
    gates: _Floats,
    cells: _Floats,
    squashed: _Floats,
    outputs: Halves,
) -> None:
    """What a panel of units does at a step; where `by_inputs` has one step alone, it is every step's."""
    rows, unit, size = by_inputs.shape[1], panel * COLUMNS, outputs.shape[2]
    panels, entries = squashed.shape[1], rows * COLUMNS
    at, given = (step * panels + panel) * entries, step % len(by_inputs) * rows
    for row in range(rows):
        for left in range(0, COLUMNS, UNITS):
            place, first = row * COLUMNS + left, unit + left
            line_forward(
                (
                    squares,
                    place,
                    squares.shape[1] * COLUMNS,
                    by_inputs,
                    (given + row) * 4 * size + first,
                    bias,
                    first,
                    size,
                    gates,
                    4 * at + place,
                    entries,
                    cells,
                    at + place,
                    at + panels * entries + place,
                    squashed,
                    at + place,
                    outputs,
                    ((step + 1) * rows + row) * size + first,
                )
            )


@of_rows
def _window_forward(
    number: int,
    parts: int,
    weight: Words,
    packed: Words,
    words: Words,
    squares: _Floats,
    by_inputs: Halves,
    bias: _Floats,
    gates: _Floats,
    cells: _Floats,
    squashed: _Floats,
    outputs: Halves,
) -> None:
    steps, panels = squashed.shape[:2]
    rows = outputs.shape[1]
    first, last = bounds_of_part(number, parts, panels, 1)
    pack_rows(words[0], packed[0], first * COLUMNS // 2, last * COLUMNS // 2)
    for step in range(steps):
        wait_for_others(parts)
        hidden, following = packed[step % 2], packed[(step + 1) % 2]
        for panel in range(first, last):
            for gate in range(4):
                for row in range(0, rows, ROWS):
                    multiply(hidden, row, weight, gate * panels + panel, squares[number, gate])
            panel_forward(step, panel, squares[number], by_inputs, bias, gates, cells, squashed, outputs)
            pack_rows(words[step + 1], following, panel * COLUMNS // 2, (panel + 1) * COLUMNS // 2)


@compiled
def window_forward(threads: int, *arguments: Any) -> None:
    """All steps of a window, with the products of each output by the recurrent weight.

    Arguments are those of `_window_forward`. `weight` is as from `columns_packed`, `words` are those of `outputs` [time
    + 1, batch, hidden / 2]; `packed`, as from `room_for_rows`, and `squares` [threads, 4, rows, COLUMNS], of whole
    panels of rows, are to be written to. `by_inputs`, `bias` and `outputs` are as for `step_forward`, `gates` [time,
    panels, 4, batch · COLUMNS], and `cells` [time + 1, panels, batch · COLUMNS] and `squashed` without the 1.
    """
    in_parts(_window_forward, threads, arguments)


@of_rows
def panel_backward(
    step: int,
    panel: int,
    by_hidden: _Floats,
    by_outputs: Halves,
    gates: _Floats,
    cells: _Floats,
    squashed: _Floats,
    by_cell: _Floats,
    by_gates: Halves,
    by_bias: _Floats,
) -> None:
    """From the gradient of a panel's outputs to that of its gates."""
    rows, unit, size = by_outputs.shape[1], panel * COLUMNS, by_outputs.shape[2]
    panels, entries = squashed.shape[1], rows * COLUMNS
    at = (step * panels + panel) * entries
    for row in range(rows):
        for left in range(0, COLUMNS, UNITS):
            place, first = row * COLUMNS + left, unit + left
            line_backward(
                (
                    by_hidden,
                    panel * by_hidden.shape[1] * COLUMNS + place,
                    by_outputs,
                    (step * rows + row) * size + first,
                    gates,
                    4 * at + place,
                    entries,
                    cells,
                    at + place,
                    squashed,
                    at + place,
                    by_cell,
                    panel * entries + place,
                    by_gates,
                    (step * rows + row) * 4 * size + first,
                    by_bias,
                    first,
                    size,
                )
            )


@of_rows
def _window_backward(
    number: int,
    parts: int,
    weight: Words,
    packed: Words,
    words: Words,
    by_hidden: _Floats,
    by_outputs: Halves,
    gates: _Floats,
    cells: _Floats,
    squashed: _Floats,
    by_cell: _Floats,
    by_gates: Halves,
    by_bias: _Floats,
) -> None:
    steps, panels = squashed.shape[:2]
    rows = by_outputs.shape[1]
    first, last = bounds_of_part(number, parts, panels, 1)
    for step in range(steps - 1, -1, -1):
        given = packed[step % 2]
        for panel in range(first, last):
            panel_backward(
                step,
                panel,
                by_hidden,
                by_outputs,
                gates,
                cells,
                squashed,
                by_cell,
                by_gates,
                by_bias,
            )
            for gate in range(4):
                start = (gate * panels + panel) * COLUMNS // 2
                pack_rows(words[step], given, start, start + COLUMNS // 2)
        wait_for_others(parts)
        for panel in range(first, last):
            for row in range(0, rows, ROWS):
                multiply(given, row, weight, panel, by_hidden[panel])


@compiled
def window_backward(threads: int, *arguments: Any) -> None:
    """All steps of a window backwards, with the products of the gates' gradients by the recurrent weight.

    Arguments are those of `_window_backward`. `weight` is as from `rows_packed`, `words` are those of `by_gates` [time,
    batch, 2 · hidden]; `packed`, as from `room_for_rows`, is to be written to. `by_hidden` [panels, rows, COLUMNS], of
    whole panels of rows, holds the gradient of the last output and then that of the one before the first, `by_cell`
    [panels, batch · COLUMNS] those of the cells. `by_outputs` and `by_gates` are as for `step_backward`, `by_bias` is
    [4 · hidden], the others are as `window_forward` left them.
    """
    in_parts(_window_backward, threads, arguments)
