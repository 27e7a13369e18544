"""A Mogrifier layer in bf16 on processors: over a window with its gradient written out, and step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

if TYPE_CHECKING:
    from textgen.model.dot_products import Words


class Rounds(NamedTuple):
    """The weights of a Mogrifier's rounds, those of each pair one after the other.

    The rank-r factors of what outputs do to inputs, `lower_of_inputs` [pairs, rank, hidden] and `upper_of_inputs`
    [pairs, input, rank], and of what inputs do to outputs, `lower_of_hidden` [pairs, rank, input] and `upper_of_hidden`
    [pairs, hidden, rank].
    """

    lower_of_inputs: Tensor
    upper_of_inputs: Tensor
    lower_of_hidden: Tensor
    upper_of_hidden: Tensor


def mogrifier_window(
    inputs: Tensor, hidden: Tensor, cell: Tensor, weights: tuple[Tensor, Tensor, Tensor, Tensor], rounds: Rounds
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs [batch, time, hidden] in bf16, and h and c after the last step [batch, hidden] in fp32.

    `inputs` is [batch, time, input], `hidden` and `cell` [batch, hidden]; `weights` are the layer's `GateWeights`. The
    equations are those of `cells.MogrifierLSTM`, the slow reference is its `step`. Only for processors with dot
    products of bf16; sizes that these do not come in are filled up with zeros, which stay zeros.
    """
    of_input, of_hidden, bias, rounds = _filled_up(weights, rounds)
    size, (whole, width) = hidden.shape[1], (of_hidden.shape[1], of_input.shape[1])
    state = _wide(hidden, whole), _wide(cell, whole)
    outputs, *after = _Window.apply(_wide(inputs, width), *state, of_input, of_hidden, bias, *rounds)  # type: ignore[no-untyped-call]
    return outputs[..., :size], after[0][:, :size], after[1][:, :size]


class MogrifierSteps:
    """A Mogrifier layer whose weights stay as they are, step by step and without gradients, for one thread's calls.

    The weights, `GateWeights` and `Rounds`, are rounded to bf16 and arranged once, where `mogrifier_window` does so for
    every window. Only for processors with dot products of bf16.
    """

    def __init__(self, weights: tuple[Tensor, Tensor, Tensor, Tensor], rounds: Rounds) -> None:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            of_input, of_hidden, bias, rounds = _filled_up(weights, rounds)
            self._sizes = of_input.shape[1], of_hidden.shape[1], *rounds.lower_of_inputs.shape[:2]
            both = torch.cat([of_input, of_hidden], 1).bfloat16()
            self._weights = *_packed(both, [part.bfloat16().contiguous() for part in rounds]), bias.numpy()
        self._room: _Room | None = None

    @torch.no_grad()
    def step(self, inputs: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """h and c [batch, hidden] in fp32 after `inputs` [batch, input]; h is a number of bf16."""
        from textgen.model.compiled_window import panels_of, rows_of

        width, whole, pairs, rank = self._sizes
        rows, size = hidden.shape
        if self._room is None or not self._room.suits(rows):
            self._room = _Room(rows, 1, width, whole, pairs, rank)
        room = self._room
        room.inputs[0, 0] = _wide(inputs, width)
        room.hidden[0, 0] = _wide(hidden, whole)
        room.cells[0] = panels_of(_wide(cell, whole).float().contiguous())
        room.fill(*self._weights)
        # Copies of what the next step overwrites.
        return room.hidden[0, 1, :, :size].float(), rows_of(room.cells[1])[:, :size].clone()


def _filled_up(weights: tuple[Tensor, Tensor, Tensor, Tensor], rounds: Rounds) -> tuple[Tensor, Tensor, Tensor, Rounds]:
    """The gates' weights of inputs and of outputs, their whole bias, and the rounds: sizes as dot products come in."""
    from textgen.model.dot_products import COLUMNS  # slow to import

    of_input, of_hidden, input_bias, hidden_bias = weights
    bias = input_bias.float() + hidden_bias.float()
    (size, width), rank = (of_hidden.shape[1], of_input.shape[1]), rounds[0].shape[1]
    more, wider, higher = (-number % COLUMNS for number in (size, width, rank))
    if more or wider or higher:
        # Gates lie one below the other, each with its own missing units.
        of_input, of_hidden = (
            F.pad(part.unflatten(0, (-1, size)), (0, by, 0, more)).flatten(0, 1)
            for part, by in ((of_input, wider), (of_hidden, more))
        )
        bias = F.pad(bias.unflatten(0, (-1, size)), (0, more)).flatten()
        missing = ((more, higher), (higher, wider), (wider, higher), (higher, more))
        rounds = Rounds(*(F.pad(part, (0, by, 0, below)) for part, (by, below) in zip(rounds, missing, strict=True)))
    return of_input, of_hidden, bias, rounds


def _wide(given: Tensor, size: int) -> Tensor:
    """With zeros up to so many entries in the last axis."""
    missing = size - given.shape[-1]
    return F.pad(given, (0, missing)) if missing else given


def _packed(weight: Tensor, rounds: Sequence[Tensor]) -> list[Words]:
    """The gates' weight [4 · hidden, input + hidden] and the rounds', all bf16, as `mogrifier_forward` reads them."""
    from textgen.model.dot_products import columns_packed

    return [columns_packed(weight), *(np.stack([columns_packed(one) for one in part.unbind()]) for part in rounds)]


class _Room:
    """What is read and written in a window: first the inputs, h and c that are given, then what follows from them."""

    def __init__(self, rows: int, time: int, width: int, size: int, pairs: int, rank: int) -> None:
        from textgen.model.compiled_window import room_of_panels, whole_rows
        from textgen.model.dot_products import COLUMNS, room_for_rows
        from textgen.model.half_precision import halves_of
        from textgen.model.lstm_steps import threads_of_window

        self._rows, self._size = rows, size
        self._threads = threads_of_window(rows, size)
        self.inputs = _halves(pairs + 1, time, rows, width)
        self.hidden = _halves(pairs + 1, time + 1, rows, size)
        self.ranks = [_halves(pairs, time, rows, rank) for _ in range(2)]
        self.factors = [torch.empty(pairs, time, rows, entries) for entries in (width, size)]
        self.saved = room_of_panels(rows, size, time)
        self.cells = self.saved[1]
        self._arrays = [
            halves_of(_halves(1, rows, 4 * size).zero_()),
            np.empty((self._threads, 4, whole_rows(rows), COLUMNS), dtype=np.float32),
            room_for_rows(rows, width + size)[0],
            *(np.stack([room_for_rows(rows, entries)[0]] * pairs) for entries in (width, size)),
            room_for_rows(rows, rank),
            *map(halves_of, (self.inputs, self.hidden, *self.ranks)),
            *(part.numpy() for part in (*self.factors, *self.saved)),
        ]

    def suits(self, rows: int) -> bool:
        """Whether it is for so many rows and as many threads as now share a window."""
        from textgen.model.lstm_steps import threads_of_window

        return rows == self._rows and self._threads == threads_of_window(rows, self._size)

    def fill(self, *weights: NDArray[Any]) -> None:
        """Computes all of it; `weights` are those of `_packed` and the bias, in float32."""
        from textgen.model.mogrifier_steps import mogrifier_forward

        mogrifier_forward(self._threads, *weights, *self._arrays)


class _Window(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        hidden: Tensor,
        cell: Tensor,
        weight_input: Tensor,
        weight_hidden: Tensor,
        bias: Tensor,
        *rounds: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        from textgen.model.compiled_window import panels_of, rows_of

        with torch.autocast("cpu", enabled=False):
            rows, time, width = inputs.shape
            size, (pairs, rank, _) = hidden.shape[1], rounds[0].shape
            weight = torch.cat([weight_input.bfloat16(), weight_hidden.bfloat16()], 1)  # [4 · hidden, input + hidden]
            rounds = tuple(part.bfloat16().contiguous() for part in rounds)
            room = _Room(rows, time, width, size, pairs, rank)
            room.inputs[0] = inputs.transpose(0, 1)
            room.hidden[0, 0] = hidden
            room.cells[0] = panels_of(cell)
            room.fill(*_packed(weight, rounds), bias.detach().numpy())
        ctx.save_for_backward(room.inputs, room.hidden, *room.ranks, *room.factors, *room.saved, weight, *rounds)
        outputs = room.hidden[0]
        return outputs[1:].transpose(0, 1), outputs[-1].float(), rows_of(room.cells[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        from textgen.model.compiled_window import panels_of, rows_of, whole_rows
        from textgen.model.dot_products import COLUMNS, room_for_rows, rows_packed
        from textgen.model.half_precision import halves_of, transposed
        from textgen.model.lstm_steps import threads_of_window
        from textgen.model.mogrifier_steps import mogrifier_backward

        by_step, by_last, by_cell = gradients
        all_inputs, all_hidden, *rest = ctx.saved_tensors
        ranks, factors, saved, (weight, *rounds) = rest[:2], rest[2:4], rest[4:7], rest[7:]
        pairs, time, rows, width = all_inputs[1:].shape
        rank, size = rounds[0].shape[1:]
        threads = threads_of_window(rows, size)
        by_both = torch.zeros((width + size) // COLUMNS, whole_rows(rows), COLUMNS)
        by_hidden = by_both[width // COLUMNS :, :rows]
        by_hidden.copy_(panels_of(by_last.float().contiguous()).view(-1, rows, COLUMNS))
        cell, by_bias = panels_of(by_cell.float().contiguous()).clone(), torch.zeros(4 * size)
        by_gates = _halves(time, rows, 4 * size)
        by_products = [_halves(pairs, time, rows, entries) for entries in (width, size)]
        by_ranks = [_halves(pairs, time, rows, rank) for _ in range(2)]
        by_inputs = _halves(time, rows, width)
        mogrifier_backward(
            threads,
            rows_packed(weight),
            *(np.stack([rows_packed(one) for one in part.unbind()]) for part in rounds),
            np.empty((threads, 4, whole_rows(rows), COLUMNS), dtype=np.float32),
            *(room_for_rows(rows, entries)[0] for entries in (4 * size, width, size)),
            room_for_rows(rows, rank),
            halves_of(all_inputs),
            halves_of(all_hidden),
            *(part.numpy() for part in (*factors, *saved)),
            by_both.numpy(),
            halves_of(by_step.transpose(0, 1).to(torch.bfloat16).contiguous()),
            cell.numpy(),
            halves_of(by_gates),
            by_bias.numpy(),
            *map(halves_of, (*by_products, *by_ranks, by_inputs)),
        )
        # What the gates' weight multiplied.
        given = torch.cat([all_inputs[-1], all_hidden[-1, :time]], -1).flatten(0, 1)
        by_weight = transposed(by_gates.flatten(0, 1)) @ given
        flat_inputs, flat_hidden = all_inputs.flatten(1, 2), all_hidden[:, :time].flatten(1, 2)
        # Of each pair of rounds: [pairs, out, time · batch] @ [pairs, time · batch, in].
        by_rounds = (
            by_ranks[0].flatten(1, 2).mT @ flat_hidden[:-1],
            by_products[0].flatten(1, 2).mT @ ranks[0].flatten(1, 2),
            by_ranks[1].flatten(1, 2).mT @ flat_inputs[1:],
            by_products[1].flatten(1, 2).mT @ ranks[1].flatten(1, 2),
        )
        return (
            by_inputs.transpose(0, 1),
            rows_of(by_hidden),
            rows_of(cell),
            *by_weight.split([width, size], 1),
            by_bias,
            *by_rounds,
        )


def _halves(*shape: int) -> Tensor:
    """For bf16 numbers."""
    return torch.empty(shape, dtype=torch.bfloat16)
