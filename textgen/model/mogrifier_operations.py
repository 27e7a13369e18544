"""A Mogrifier layer over a window with its gradient written out, operation by operation of PyTorch.

Left to autograd, every step would add to the gradients of all weights, which takes most of the time.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from textgen.model.lstm_window import Product, advanced, advanced_backward
from textgen.model.mogrifier_window import Rounds

# Takes what tanh gave, not what it was given.
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


def mogrifier_operations(
    inputs: Tensor, hidden: Tensor, cell: Tensor, weights: tuple[Tensor, Tensor, Tensor, Tensor], rounds: Rounds
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs [batch, time, hidden], and h and c after the last step [batch, hidden].

    `inputs` is [batch, time, input], `hidden` and `cell` [batch, hidden]; `weights` are the layer's `GateWeights`. All
    are of one type, fp32 as a rule, and there must be no autocast. The equations are those of `cells.MogrifierLSTM`,
    the slow reference is its `step`.
    """
    of_input, of_hidden, input_bias, hidden_bias = weights
    # 2σ(z) = 1 + tanh(z / 2)
    halved = rounds._replace(upper_of_inputs=rounds.upper_of_inputs / 2, upper_of_hidden=rounds.upper_of_hidden / 2)
    after: tuple[Tensor, Tensor, Tensor] = _Window.apply(  # type: ignore[no-untyped-call]
        inputs, hidden, cell, of_input, of_hidden, input_bias + hidden_bias, *halved
    )
    return after


class _Window(torch.autograd.Function):
    """Rounds are numbered by their pair and by what they scale: 0, inputs by outputs; 1, outputs by inputs."""

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
        batch, time, width = inputs.shape
        size, (pairs, rank, _) = hidden.shape[1], rounds[0].shape
        room = inputs.new_empty
        # Before the first pair of rounds and after each; the outputs before the first are those of the last step.
        values = room(pairs + 1, time, batch, width), room(pairs + 1, time + 1, batch, size)
        values[0][0], values[1][0, 0] = inputs.transpose(0, 1), hidden
        ranks = room(2, pairs, time, batch, rank)
        factors = room(pairs, time, batch, width), room(pairs, time, batch, size)
        gates, squashed, cells = room(time, batch, 4 * size), room(time, batch, size), room(time + 1, batch, size)
        cells[0] = cell
        lower, upper = rounds[::2], rounds[1::2]
        from_inputs, from_hidden = (Product(weight.contiguous(), batch) for weight in (weight_input, weight_hidden))
        for step in range(time):
            for pair, side in product(range(pairs), (0, 1)):
                scaling, before = values[1 - side][pair + side, step], values[side][pair, step]
                by_rank = torch.mm(scaling, lower[side][pair].t(), out=ranks[side, pair, step])
                factor = torch.mm(by_rank, upper[side][pair].t(), out=factors[side][pair, step]).tanh_()
                torch.addcmul(before, before, factor, out=values[side][pair + 1, step])
            gate, (x, h) = gates[step], (value[pairs, step] for value in values)
            torch.add(from_inputs(x), from_hidden(h), out=gate).add_(bias)
            values[1][0, step + 1] = advanced(gate, cells[step], cells[step + 1], squashed[step])
        ctx.save_for_backward(*values, ranks, *factors, gates, squashed, cells, weight_input, weight_hidden, *rounds)
        outputs = values[1][0]
        return outputs[1:].transpose(0, 1), outputs[-1].clone(), cells[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        by_outputs, by_hidden, by_cell = gradients
        xs, hs, ranks, *kept = ctx.saved_tensors
        factors, (gates, squashed, cells, weight_input, weight_hidden), rounds = kept[:2], kept[2:7], kept[7:]
        values, lower, upper = (xs, hs), rounds[::2], rounds[1::2]
        pairs, time, batch, width = factors[0].shape
        to_inputs, to_hidden = (Product(weight.t().contiguous(), batch) for weight in (weight_input, weight_hidden))
        by_cell, by_hidden = by_cell.clone(), by_hidden.clone()
        by_gates, by_inputs, by_ranks = torch.empty_like(gates), torch.empty_like(xs[0]), torch.empty_like(ranks)
        by_products = [torch.empty_like(factor) for factor in factors]
        for step in range(time - 1, -1, -1):
            by_hidden += by_outputs[:, step]
            by_gate = by_gates[step]
            advanced_backward(by_hidden, by_cell, gates[step], cells[step], squashed[step], by_gate)
            by_values = to_inputs(by_gate), to_hidden(by_gate)
            for pair, side in product(range(pairs - 1, -1, -1), (1, 0)):
                by_value, factor = by_values[side], factors[side][pair, step]
                by_product, by_rank = by_products[side][pair, step], by_ranks[side, pair, step]
                _tanh_backward(by_value * values[side][pair, step], factor, grad_input=by_product)
                torch.mm(by_product, upper[side][pair], out=by_rank)
                by_value.addcmul_(by_value, factor)
                by_values[1 - side].addmm_(by_rank, lower[side][pair])
            by_inputs[step], by_hidden = by_values
        turned, rows = by_gates.flatten(0, 1).t(), batch * time
        # What scaled in each round; [pairs, time · batch, ..] as all below.
        scaling = hs[:-1, :time].flatten(1, 2), xs[1:].flatten(1, 2)
        by_rounds: list[Tensor] = []
        for side in (0, 1):
            by_rounds.append(by_ranks[side].flatten(1, 2).mT @ scaling[side])
            by_rounds.append(by_products[side].flatten(1, 2).mT @ ranks[side].flatten(1, 2))
        return (
            by_inputs.transpose(0, 1),
            by_hidden,
            by_cell,
            turned @ xs[-1].view(rows, width),
            turned @ hs[-1, :time].reshape(rows, -1),
            by_gates.sum((0, 1)),
            *by_rounds,
        )
