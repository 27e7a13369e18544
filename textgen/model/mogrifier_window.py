"""A Mogrifier layer over a window with its gradient written out, for training in bf16 on processors."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


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
    from textgen.model.dot_products import COLUMNS  # slow to import

    of_input, of_hidden, input_bias, hidden_bias = weights
    bias, size = input_bias + hidden_bias, hidden.shape[1]
    width, rank = of_input.shape[1], rounds.lower_of_inputs.shape[1]
    more, wider, higher = (-number % COLUMNS for number in (size, width, rank))
    if more or wider or higher:
        inputs, hidden, cell = F.pad(inputs, (0, wider)), F.pad(hidden, (0, more)), F.pad(cell, (0, more))
        # Gates lie one below the other, each with its own missing units.
        of_input, of_hidden = (
            F.pad(part.unflatten(0, (-1, size)), (0, by, 0, more)).flatten(0, 1)
            for part, by in ((of_input, wider), (of_hidden, more))
        )
        bias = F.pad(bias.unflatten(0, (-1, size)), (0, more)).flatten()
        missing = ((more, higher), (higher, wider), (wider, higher), (higher, more))
        rounds = Rounds(*(F.pad(part, (0, by, 0, below)) for part, (by, below) in zip(rounds, missing, strict=True)))
    outputs, *after = _Window.apply(inputs, hidden, cell, of_input, of_hidden, bias, *rounds)  # type: ignore[no-untyped-call]
    return outputs[..., :size], after[0][:, :size], after[1][:, :size]


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
        from textgen.model.compiled_window import rows_of, saved_panels, whole_rows
        from textgen.model.dot_products import COLUMNS, columns_packed, room_for_rows
        from textgen.model.half_precision import halves_of
        from textgen.model.lstm_steps import threads_of_window
        from textgen.model.mogrifier_steps import mogrifier_forward

        with torch.autocast("cpu", enabled=False):
            rows, time, width = inputs.shape
            size, (pairs, rank, _) = hidden.shape[1], rounds[0].shape
            weight = torch.cat([weight_input.bfloat16(), weight_hidden.bfloat16()], 1)  # [4 · hidden, input + hidden]
            rounds = tuple(part.bfloat16().contiguous() for part in rounds)
            all_inputs = _room(pairs + 1, time, rows, width)
            all_inputs[0] = inputs.transpose(0, 1)
            all_hidden = _room(pairs + 1, time + 1, rows, size)
            all_hidden[0, 0] = hidden
            ranks = [_room(pairs, time, rows, rank) for _ in range(2)]
            factors = [torch.empty(pairs, time, rows, entries) for entries in (width, size)]
            saved = saved_panels(cell, time)
            threads = threads_of_window(rows, size)
            mogrifier_forward(
                threads,
                columns_packed(weight),
                *(np.stack([columns_packed(one) for one in part.unbind()]) for part in rounds),
                bias.detach().float().numpy(),
                halves_of(_room(1, rows, 4 * size).zero_()),
                np.empty((threads, 4, whole_rows(rows), COLUMNS), dtype=np.float32),
                room_for_rows(rows, width + size)[0],
                *(np.stack([room_for_rows(rows, entries)[0]] * pairs) for entries in (width, size)),
                room_for_rows(rows, rank),
                halves_of(all_inputs),
                halves_of(all_hidden),
                *map(halves_of, ranks),
                *(part.numpy() for part in (*factors, *saved)),
            )
        ctx.save_for_backward(all_inputs, all_hidden, *ranks, *factors, *saved, weight, *rounds)
        outputs = all_hidden[0]
        return outputs[1:].transpose(0, 1), outputs[-1].float(), rows_of(saved[1][-1])

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
        by_gates = _room(time, rows, 4 * size)
        by_products = [_room(pairs, time, rows, entries) for entries in (width, size)]
        by_ranks = [_room(pairs, time, rows, rank) for _ in range(2)]
        by_inputs = _room(time, rows, width)
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


def _room(*shape: int) -> Tensor:
    """For bf16 numbers."""
    return torch.empty(shape, dtype=torch.bfloat16)
