"""A Mogrifier layer, what to give it, and what its equations make of that."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from textgen.model.cells import CellState, MogrifierLSTM

Case = tuple[MogrifierLSTM, Tensor, Tensor, Tensor]


def case(batch: int, time: int, width: int, size: int) -> Case:
    """A layer, inputs, h and c."""
    layer = MogrifierLSTM(width, size)
    layer.reset_parameters(torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(batch, time, width, generator=generator, requires_grad=True)
    h, c = (torch.randn(batch, size, generator=generator).requires_grad_() for _ in range(2))
    return layer, inputs, h, c


def results(layer: MogrifierLSTM, outputs: Tensor, last: list[Tensor], wanted: list[Tensor]) -> list[Tensor]:
    """What came out, and the gradients of something that all of it has a part in."""
    loss = outputs.float().square().sum() + (last[0] * 0.3).sum() + last[1].square().sum()
    found = [outputs.float(), *last, *torch.autograd.grad(loss, [*wanted, *layer.parameters()])]
    return [part.detach() for part in found]


def by_equations(layer: MogrifierLSTM, inputs: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Outputs [batch, time, hidden] and the last h and c, by `step`."""
    state: CellState = (h, c)
    each = []
    for x in inputs.unbind(1):
        output, state = layer.step(x, state)
        each.append(output)
    return torch.stack(each, 1), list(state)


def assert_rows_stay_apart(window: Callable[..., tuple[Tensor, Tensor, Tensor]], width: int, size: int) -> None:
    """What is no number in some rows, of the inputs or of h, stays in them, forward and backward."""
    layer, inputs, h, c = case(6, 4, width, size)
    with torch.no_grad():
        inputs[2, 1, 5] = torch.nan
        h[4, 7] = torch.nan
    outputs, hidden, cell = window(inputs, h, c, layer.gate_weights(), layer.rounds())
    (by_inputs,) = torch.autograd.grad(outputs.float().sum(), inputs)
    for found in (outputs[:, -1], hidden, cell, by_inputs[:, 0]):
        broken = found.isnan().flatten(1)
        assert broken[2].any()
        assert broken[4].any()
        assert not broken[[0, 1, 3, 5]].any()
