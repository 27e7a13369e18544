"""All steps of a Mogrifier's window with their products as machine code, for processors with dot products of bf16.

Between the products of a step are four small ones for each pair of rounds, which all wait for each other: as operations
of PyTorch they take several times as long as everything else. Layouts are those of `lstm_steps`; arrays of several
rounds have the round first. The slow reference is the cell's `step`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from textgen.compiled import compiled
from textgen.compiled_parts import bounds_of_part, in_parts, wait_for_others
from textgen.model.dot_products import COLUMNS, ROWS, Words, multiply, pack_rows
from textgen.model.half_precision import Halves
from textgen.model.lstm_lines import UNITS, line_added, line_copied, line_mogrified, line_mogrified_backward
from textgen.model.lstm_steps import of_rows, panel_backward, panel_forward

_Floats = NDArray[np.float32]
_PAIRS = COLUMNS // 2


@of_rows
def _project(
    step: int, bounds: tuple[int, int], packed: Words, weight: Words, square: _Floats, found: Halves, turned: Words
) -> None:
    """Products of a batch's rows with panels of a weight, rounded: into `found` [time, batch, columns], and packed."""
    rows, size = found.shape[1:]
    for panel in range(*bounds):
        _multiply(packed, weight, panel, square, rows)
        for row in range(rows):
            for left in range(0, COLUMNS, UNITS):
                at = (step * rows + row) * size + panel * COLUMNS + left
                line_copied((square, row * COLUMNS + left, found, at))
        _pack(step, panel, found, turned)


@of_rows
def _multiply(packed: Words, weight: Words, panel: int, square: _Floats, rows: int) -> None:
    for row in range(0, rows, ROWS):
        multiply(packed, row, weight, panel, square)


@of_rows
def _pack(step: int, panel: int, found: Halves, turned: Words) -> None:
    pack_rows(found[step].view(np.uint32), turned, panel * _PAIRS, (panel + 1) * _PAIRS)


@of_rows
def _mogrify(
    step: int,
    bounds: tuple[int, int],
    packed: Words,
    weight: Words,
    square: _Floats,
    given: Halves,
    factors: _Floats,
    found: Halves,
    turned: Words,
) -> None:
    """Multiplies `given` [time, batch, size] with 2σ of products of `packed` with panels of a weight."""
    rows, size = found.shape[1:]
    for panel in range(*bounds):
        _multiply(packed, weight, panel, square, rows)
        for row in range(rows):
            for left in range(0, COLUMNS, UNITS):
                at = (step * rows + row) * size + panel * COLUMNS + left
                line_mogrified((square, row * COLUMNS + left, given, at, factors, at, found, at))
        _pack(step, panel, found, turned)


@of_rows
def _mogrify_backward(
    step: int,
    bounds: tuple[int, int],
    by_found: _Floats,
    given: Halves,
    factors: _Floats,
    by_product: Halves,
    turned: Words,
) -> None:
    """From the gradient of what `_mogrify` found, in panels, to those of what it was given and of the products."""
    rows, size = given.shape[1:]
    for panel in range(*bounds):
        for row in range(rows):
            for left in range(0, COLUMNS, UNITS):
                at = (step * rows + row) * size + panel * COLUMNS + left
                place = panel * by_found.shape[1] * COLUMNS + row * COLUMNS + left
                line_mogrified_backward((by_found, place, given, at, factors, at, by_product, at))
        _pack(step, panel, by_product, turned)


@of_rows
def _add_products(
    bounds: tuple[int, int], packed: Words, weight: Words, square: _Floats, rows: int, total: _Floats
) -> None:
    """Adds products with panels of a weight to `total`, in panels."""
    for panel in range(*bounds):
        _multiply(packed, weight, panel, square, rows)
        for row in range(rows):
            for left in range(0, COLUMNS, UNITS):
                place = row * COLUMNS + left
                line_added((total, panel * total.shape[1] * COLUMNS + place, square, place))


@of_rows
def _forward(
    number: int,
    parts: int,
    weight: Words,
    lower_of_inputs: Words,
    upper_of_inputs: Words,
    lower_of_hidden: Words,
    upper_of_hidden: Words,
    bias: _Floats,
    nothing: Halves,
    squares: _Floats,
    packed: Words,
    packed_inputs: Words,
    packed_hidden: Words,
    packed_ranks: Words,
    inputs: Halves,
    hidden: Halves,
    ranks_of_inputs: Halves,
    ranks_of_hidden: Halves,
    factors_of_inputs: _Floats,
    factors_of_hidden: _Floats,
    gates: _Floats,
    cells: _Floats,
    squashed: _Floats,
) -> None:
    steps, panels = squashed.shape[:2]
    pairs, rows = len(lower_of_inputs), hidden.shape[2]
    of_units = bounds_of_part(number, parts, panels, 1)
    of_inputs = bounds_of_part(number, parts, inputs.shape[3] // COLUMNS, 1)
    of_ranks = bounds_of_part(number, parts, ranks_of_inputs.shape[3] // COLUMNS, 1)
    square, outputs, width = squares[number, 0], hidden[0], inputs.shape[3] // 2
    for panel in range(*of_units):
        _pack(0, panel, outputs, packed_hidden[0])
    for step in range(steps):
        for pair in range(pairs):
            # What the last pair gives goes where the gates' product reads it, inputs before outputs.
            is_last = pair == pairs - 1
            to_inputs = packed[:, :width] if is_last else packed_inputs[pair + 1]
            to_hidden = packed[:, width:] if is_last else packed_hidden[pair + 1]
            wait_for_others(parts)
            turned = packed_ranks[0]
            _project(step, of_ranks, packed_hidden[pair], lower_of_inputs[pair], square, ranks_of_inputs[pair], turned)
            wait_for_others(parts)
            _mogrify(
                step,
                of_inputs,
                turned,
                upper_of_inputs[pair],
                square,
                inputs[pair],
                factors_of_inputs[pair],
                inputs[pair + 1],
                to_inputs,
            )
            wait_for_others(parts)
            turned = packed_ranks[1]
            _project(step, of_ranks, to_inputs, lower_of_hidden[pair], square, ranks_of_hidden[pair], turned)
            wait_for_others(parts)
            _mogrify(
                step,
                of_units,
                turned,
                upper_of_hidden[pair],
                square,
                hidden[pair],
                factors_of_hidden[pair],
                hidden[pair + 1],
                to_hidden,
            )
        wait_for_others(parts)
        for panel in range(*of_units):
            for gate in range(4):
                _multiply(packed, weight, gate * panels + panel, squares[number, gate], rows)
            panel_forward(step, panel, squares[number], nothing, bias, gates, cells, squashed, outputs)
            _pack(step + 1, panel, outputs, packed_hidden[0])


@compiled
def mogrifier_forward(threads: int, *arguments: Any) -> None:
    """All steps of a window.

    Arguments are those of `_forward`. Weights are as from `columns_packed`: `weight` is [4 · hidden, input + hidden],
    the others, of each pair of rounds, [rank, hidden], [input, rank], [rank, input] and [hidden, rank]. `nothing` are
    zeros [1, batch, 4 · hidden].

    Written are: `squares` [threads, 4, rows, COLUMNS]; the `packed` ones, each as one half of `room_for_rows`, of input
    + hidden numbers, of those of input and of hidden for each pair, and twice of rank; `inputs` [pairs + 1, time,
    batch, input], of which the first are given; `hidden` [pairs + 1, time + 1, batch, hidden], of which the very first
    is and the first become the outputs; the ranks [pairs, time, batch, rank] that products pass through; the factors
    2σ [pairs, time, batch, input or hidden]; the rest as for `window_forward`.
    """
    in_parts(_forward, threads, arguments)


@of_rows
def _backward(
    number: int,
    parts: int,
    weight: Words,
    lower_of_inputs: Words,
    upper_of_inputs: Words,
    lower_of_hidden: Words,
    upper_of_hidden: Words,
    squares: _Floats,
    packed: Words,
    packed_inputs: Words,
    packed_hidden: Words,
    packed_ranks: Words,
    inputs: Halves,
    hidden: Halves,
    factors_of_inputs: _Floats,
    factors_of_hidden: _Floats,
    gates: _Floats,
    cells: _Floats,
    squashed: _Floats,
    by_both: _Floats,
    by_outputs: Halves,
    by_cell: _Floats,
    by_gates: Halves,
    by_bias: _Floats,
    by_input_products: Halves,
    by_hidden_products: Halves,
    by_input_ranks: Halves,
    by_hidden_ranks: Halves,
    by_inputs: Halves,
) -> None:
    steps, panels = squashed.shape[:2]
    pairs, rows = len(lower_of_inputs), hidden.shape[2]
    input_panels = inputs.shape[3] // COLUMNS
    of_units = bounds_of_part(number, parts, panels, 1)
    of_inputs = bounds_of_part(number, parts, input_panels, 1)
    of_ranks = bounds_of_part(number, parts, by_input_ranks.shape[3] // COLUMNS, 1)
    square, by_input, by_hidden = squares[number, 0], by_both[:input_panels], by_both[input_panels:]
    for step in range(steps - 1, -1, -1):
        for panel in range(*of_units):
            panel_backward(step, panel, by_hidden, by_outputs, gates, cells, squashed, by_cell, by_gates, by_bias)
            for gate in range(4):
                _pack(step, gate * panels + panel, by_gates, packed)
        wait_for_others(parts)
        for panel in range(*of_inputs):
            _multiply(packed, weight, panel, by_input[panel], rows)
        for panel in range(*of_units):
            _multiply(packed, weight, input_panels + panel, by_hidden[panel], rows)
        for pair in range(pairs - 1, -1, -1):
            by_product, by_rank = by_hidden_products[pair], by_hidden_ranks[pair]
            _mogrify_backward(
                step, of_units, by_hidden, hidden[pair], factors_of_hidden[pair], by_product, packed_hidden
            )
            wait_for_others(parts)
            _project(step, of_ranks, packed_hidden, upper_of_hidden[pair], square, by_rank, packed_ranks[0])
            wait_for_others(parts)
            _add_products(of_inputs, packed_ranks[0], lower_of_hidden[pair], square, rows, by_input)
            by_product, by_rank = by_input_products[pair], by_input_ranks[pair]
            _mogrify_backward(
                step, of_inputs, by_input, inputs[pair], factors_of_inputs[pair], by_product, packed_inputs
            )
            wait_for_others(parts)
            _project(step, of_ranks, packed_inputs, upper_of_inputs[pair], square, by_rank, packed_ranks[1])
            wait_for_others(parts)
            _add_products(of_units, packed_ranks[1], lower_of_inputs[pair], square, rows, by_hidden)
        for panel in range(*of_inputs):
            for row in range(rows):
                for left in range(0, COLUMNS, UNITS):
                    at = (step * rows + row) * input_panels * COLUMNS + panel * COLUMNS + left
                    place = (panel * by_input.shape[1] + row) * COLUMNS + left
                    line_copied((by_input, place, by_inputs, at))


@compiled
def mogrifier_backward(threads: int, *arguments: Any) -> None:
    """All steps of a window backwards.

    Arguments are those of `_backward`. Weights are those of `mogrifier_forward` as from `rows_packed`; what that wrote
    is given. The `packed` ones, each as one half of `room_for_rows`, of 4 · hidden, input and hidden numbers and twice
    of rank, and `squares` are to be written to. `by_both` [panels, rows, COLUMNS], of whole panels of rows, are the
    gradients of inputs, to be written, and of outputs, as `by_hidden` of `window_backward`; `by_outputs`, `by_cell`,
    `by_gates` and `by_bias` are as there. Written are also the gradients of the products that 2σ was taken of [pairs,
    time, batch, input or hidden], of the ranks, and of the inputs [time, batch, input].
    """
    in_parts(_backward, threads, arguments)
