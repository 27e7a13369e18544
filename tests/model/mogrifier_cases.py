"""A Mogrifier layer, what to give it, and what its equations make of that."""

from __future__ import annotations

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
