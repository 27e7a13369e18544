"""An LSTM layer over a window with its gradient written out, for low-precision training on processors.

PyTorch hands a bf16 `nn.LSTM` to oneDNN, whose backward pass is wrong from 1,024 hidden units on (relative error of the
input's gradient 1.1 in torch 2.13 on a processor with AMX; right at 1,016). Here gates are computed in the low
precision, and what is added up over time, the cell and its gradient, in fp32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# These take what sigmoid and tanh gave, not what they were given.
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward
_tanh_backward_out = torch.ops.aten.tanh_backward.grad_input

_Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, None]


def lstm_window(
    inputs: Tensor, hidden: Tensor, cell: Tensor, weights: tuple[Tensor, Tensor, Tensor, Tensor], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs [batch, time, hidden] in `dtype`, and h and c after the last step [batch, hidden] in fp32.

    `inputs` is [batch, time, input], `hidden` and `cell` [batch, hidden]; `weights` are the layer's `GateWeights`. The
    equations are those of `cells.LSTM`, the slow reference is its `step`.
    """
    of_input, of_hidden, input_bias, hidden_bias = weights
    bias = input_bias + hidden_bias
    after: tuple[Tensor, Tensor, Tensor] = _Window.apply(inputs, hidden, cell, of_input, of_hidden, bias, dtype)  # type: ignore[no-untyped-call]
    return after


class _Window(torch.autograd.Function):
    """Time is the first dimension inside, so that every step's values lie together."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        hidden: Tensor,
        cell: Tensor,
        weight_input: Tensor,
        weight_hidden: Tensor,
        bias: Tensor,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, time, _ = inputs.shape
        size = weight_hidden.shape[1]
        with torch.autocast("cpu", enabled=False):
            by_time = inputs.transpose(0, 1).to(dtype).contiguous()  # [time, batch, input]
            weight_input, weight_hidden = weight_input.to(dtype), weight_hidden.to(dtype)
            projected = F.linear(by_time, weight_input, bias.to(dtype))  # [time, batch, 4 · hidden]
            recur = _Product(weight_hidden, batch)
            gates = torch.empty(time, batch, 4 * size)
            cells = torch.empty(time + 1, batch, size)
            squashed = torch.empty(time, batch, size)
            outputs = torch.empty(time + 1, batch, size, dtype=dtype)
            cells[0], outputs[0] = cell, hidden
            for step in range(time):
                gate = gates[step]
                gate.copy_(recur(outputs[step], projected[step]))
                torch.sigmoid_(gate[:, : 2 * size])
                torch.tanh_(gate[:, 2 * size : 3 * size])
                torch.sigmoid_(gate[:, 3 * size :])
                i, f, g, o = gate.chunk(4, -1)
                torch.mul(f, cells[step], out=cells[step + 1]).addcmul_(i, g)
                torch.tanh(cells[step + 1], out=squashed[step])
                outputs[step + 1] = o * squashed[step]
        ctx.save_for_backward(by_time, weight_input, weight_hidden, gates, cells, squashed, outputs)
        return outputs[1:].transpose(0, 1), outputs[time].float(), cells[time].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> _Gradients:
        by_outputs, by_hidden, by_cell = gradients
        by_time, weight_input, weight_hidden, gates, cells, squashed, outputs = ctx.saved_tensors
        time, batch, width = by_time.shape
        size = weight_hidden.shape[1]
        by_gates = torch.empty(time, batch, 4 * size, dtype=weight_hidden.dtype)
        back = _Product(weight_hidden.t(), batch)
        by_step = by_outputs.transpose(0, 1)  # [time, batch, hidden]
        cell_gradient = by_cell.float().clone()
        hidden_gradient = by_hidden.float()
        # One step's values stay in the cache; those of a whole window, read operation by operation, would not.
        by_gate = torch.empty(batch, 4 * size)
        by_bias = torch.zeros(batch, 4 * size)
        by_i, by_f, by_g, by_o = by_gate.chunk(4, -1)  # each [batch, hidden]
        for step in range(time - 1, -1, -1):
            i, f, g, o = gates[step].chunk(4, -1)
            hidden_gradient = hidden_gradient.float() + by_step[step]
            cell_gradient += _tanh_backward(hidden_gradient * o, squashed[step])
            _sigmoid_backward(hidden_gradient.mul_(squashed[step]), o, grad_input=by_o)
            _sigmoid_backward(cell_gradient * g, i, grad_input=by_i)
            _sigmoid_backward(cell_gradient * cells[step], f, grad_input=by_f)
            _tanh_backward_out(cell_gradient * i, g, grad_input=by_g)
            by_gates[step] = by_gate
            by_bias += by_gate
            cell_gradient *= f
            hidden_gradient = back(by_gates[step])
        flat = by_gates.view(time * batch, 4 * size)
        return (
            (flat @ weight_input).view(time, batch, width).transpose(0, 1),
            hidden_gradient.float(),
            cell_gradient,
            (flat.t() @ by_time.view(time * batch, width)).float(),
            (flat.t() @ outputs[:-1].view(time * batch, size)).float(),
            by_bias.sum(0),
            None,
        )


class _Product:
    """Products of [rows, in] with one weight [out, in], which is put in oneDNN's own order once where that is had."""

    def __init__(self, weight: Tensor, rows: int) -> None:
        self._weight = weight.contiguous()
        self._packed: Tensor | None = None
        if torch.backends.mkldnn.is_available():
            try:
                self._packed = torch.ops.mkldnn._reorder_linear_weight(self._weight, rows)
            except (RuntimeError, AttributeError):  # not an operator that PyTorch promises
                self._packed = None

    def __call__(self, rows: Tensor, added: Tensor | None = None) -> Tensor:
        if self._packed is None:
            return F.linear(rows, self._weight) if added is None else torch.addmm(added, rows, self._weight.t())
        product: Tensor
        if added is None:
            product = torch.ops.mkldnn._linear_pointwise(rows, self._packed, None, "none", [], "")
        else:
            product = torch.ops.mkldnn._linear_pointwise.binary(rows, added, self._packed, None, "add")
        return product
