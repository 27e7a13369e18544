"""An LSTM layer over a window with its gradient written out, for low-precision training on processors.

PyTorch hands a bf16 `nn.LSTM` to oneDNN, whose backward pass is wrong from 1,024 hidden units on (relative error of the
input's gradient 1.1 in torch 2.13 on a processor with AMX; right at 1,016), and which takes longer. Here products are
computed in the low precision, and what is added up over time, the cell and its gradient, in fp32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from textgen.imports import can_compile

# These take what sigmoid and tanh gave, not what they were given.
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward
_tanh_backward_out = torch.ops.aten.tanh_backward.grad_input

_Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, None, None]


def lstm_window(
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    weights: tuple[Tensor, Tensor, Tensor, Tensor],
    dtype: torch.dtype,
    *,
    plainly: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs [batch, time, hidden] in `dtype`, and h and c after the last step [batch, hidden] in fp32.

    `inputs` is [batch, time, input], `hidden` and `cell` [batch, hidden]; `weights` are the layer's `GateWeights`. The
    equations are those of `cells.LSTM`, the slow reference is its `step`. In bf16 what is between the products is
    machine code, but where it is to be done `plainly`.
    """
    of_input, of_hidden, input_bias, hidden_bias = weights
    bias = input_bias + hidden_bias
    plainly = plainly or dtype != torch.bfloat16 or not can_compile()
    steps = PlainSteps() if plainly else _compiled_steps(*hidden.shape)
    after: tuple[Tensor, Tensor, Tensor] = _Window.apply(  # type: ignore[no-untyped-call]
        inputs, hidden, cell, of_input, of_hidden, bias, dtype, steps
    )
    return after


class Saved(NamedTuple):
    """What a window has computed, time first, so that every step's values lie together.

    `gates` [time, batch, 4 · hidden], `cells` and `outputs` [time + 1, batch, hidden], which begin with the state
    before, and `squashed`, tanh of the cells, [time, batch, hidden]. All but `outputs` are fp32. How a step's values
    lie, but for `outputs`, is the affair of whoever computes them.
    """

    gates: Tensor
    cells: Tensor
    squashed: Tensor
    outputs: Tensor


class PlainSteps:
    """What is between the products, operation by operation."""

    def saved(self, hidden: Tensor, cell: Tensor, time: int, dtype: torch.dtype) -> Saved:
        """Room for a window that begins with this state [batch, hidden]."""
        rows, size = hidden.shape
        saved = Saved(
            gates=torch.empty(time, rows, 4 * size),
            cells=torch.empty(time + 1, rows, size),
            squashed=torch.empty(time, rows, size),
            outputs=torch.empty(time + 1, rows, size, dtype=dtype),
        )
        saved.cells[0], saved.outputs[0] = cell, hidden
        return saved

    def last_cell(self, saved: Saved) -> Tensor:
        """The cell after the last step [batch, hidden]."""
        return saved.cells[-1].clone()

    def transposed(self, matrix: Tensor) -> Tensor:
        """`matrix` with columns as rows, in memory too."""
        return matrix.t().contiguous()

    def forward(self, weight: Tensor, projected: Tensor, bias: Tensor, saved: Saved) -> None:
        """Fills `saved`, from what the gates get: `projected` [time, batch, 4 · hidden] from the input, and `bias`.

        `weight` is the recurrent one, [4 · hidden, hidden].
        """
        gates, cells, squashed, outputs = saved
        recur = Product(weight, cells.shape[1])
        for step in range(len(projected)):
            gate = gates[step]
            gate.copy_(recur(outputs[step])).add_(projected[step]).add_(bias)
            outputs[step + 1] = advanced(gate, cells[step], cells[step + 1], squashed[step])

    def backward(
        self, weight: Tensor, saved: Saved, by_step: Tensor, by_hidden: Tensor, by_cell: Tensor, by_gates: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Fills `by_gates` [time, batch, 4 · hidden]; the gradient of the h before, and of the bias [4 · hidden].

        `by_step` [time, batch, hidden] is the one of the outputs, `by_hidden` that of the last h. `by_cell` [batch,
        hidden], that of the last c, becomes the one of the c before.
        """
        gates, cells, squashed, _ = saved
        back = Product(self.transposed(weight), len(by_hidden))
        # One step's values stay in the cache; those of a whole window, read operation by operation, would not.
        by_gate = torch.empty(gates.shape[1:])
        by_bias = torch.zeros(gates.shape[1:])
        for step in range(len(gates) - 1, -1, -1):
            gradient = by_hidden.float() + by_step[step]
            advanced_backward(gradient, by_cell, gates[step], cells[step], squashed[step], by_gate)
            by_gates[step] = by_gate
            by_bias += by_gate
            by_hidden = back(by_gates[step])
        return by_hidden, by_bias.sum(0)


def advanced(gate: Tensor, before: Tensor, cell: Tensor, squashed: Tensor) -> Tensor:
    """The output of a step [batch, hidden], from what the gates sum up to and the cell before.

    `gate` [batch, 4 · hidden] becomes what the gates are; `cell` and `squashed`, its tanh, are filled.
    """
    size = cell.shape[1]
    torch.sigmoid_(gate[:, : 2 * size])
    torch.tanh_(gate[:, 2 * size : 3 * size])
    torch.sigmoid_(gate[:, 3 * size :])
    i, f, g, o = gate.chunk(4, -1)
    torch.mul(f, before, out=cell).addcmul_(i, g)
    torch.tanh(cell, out=squashed)
    return o * squashed


def advanced_backward(
    by_output: Tensor, by_cell: Tensor, gate: Tensor, before: Tensor, squashed: Tensor, by_gate: Tensor
) -> None:
    """Fills `by_gate`, the gradient of what the gates of a step summed up to.

    `by_output`, that of its output, is used up; `by_cell`, what the step after gave its cell, becomes what it gives the
    cell before.
    """
    i, f, g, o = gate.chunk(4, -1)
    by_i, by_f, by_g, by_o = by_gate.chunk(4, -1)  # each [batch, hidden]
    by_cell += _tanh_backward(by_output * o, squashed)
    _sigmoid_backward(by_output.mul_(squashed), o, grad_input=by_o)
    _sigmoid_backward(by_cell * g, i, grad_input=by_i)
    _sigmoid_backward(by_cell * before, f, grad_input=by_f)
    _tanh_backward_out(by_cell * i, g, grad_input=by_g)
    by_cell *= f


def is_at_once(rows: int, size: int) -> bool:
    """Whether this processor computes all steps of a bf16 window of `size` units by one call of machine code."""
    from textgen.model import compiled_window  # slow to import

    return can_compile() and compiled_window.is_at_once(rows, size)


def _compiled_steps(rows: int, size: int) -> PlainSteps:
    from textgen.model import compiled_window

    return compiled_window.CompiledWindow() if is_at_once(rows, size) else compiled_window.CompiledSteps()


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
        dtype: torch.dtype,
        steps: PlainSteps,
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast("cpu", enabled=False):
            by_time = inputs.transpose(0, 1).to(dtype).contiguous()  # [time, batch, input]
            weight_input, weight_hidden = weight_input.to(dtype), weight_hidden.to(dtype)
            projected = F.linear(by_time, weight_input)  # [time, batch, 4 · hidden]
            saved = steps.saved(hidden, cell, inputs.shape[1], dtype)
            steps.forward(weight_hidden, projected, bias, saved)
        ctx.save_for_backward(by_time, weight_input, weight_hidden, *saved)
        ctx.steps = steps
        return saved.outputs[1:].transpose(0, 1), saved.outputs[-1].float(), steps.last_cell(saved)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> _Gradients:
        by_outputs, by_hidden, by_cell = gradients
        by_time, weight_input, weight_hidden, *kept = ctx.saved_tensors
        saved = Saved(*kept)
        time, batch, width = by_time.shape
        size = weight_hidden.shape[1]
        by_gates = torch.empty(time, batch, 4 * size, dtype=weight_hidden.dtype)
        by_cell = by_cell.float().clone()
        by_hidden, by_bias = ctx.steps.backward(
            weight_hidden, saved, by_outputs.transpose(0, 1), by_hidden.float(), by_cell, by_gates
        )
        flat = by_gates.view(time * batch, 4 * size)
        turned = ctx.steps.transposed(flat)
        return (
            (flat @ weight_input).view(time, batch, width).transpose(0, 1),
            by_hidden.float(),
            by_cell,
            turned @ by_time.view(time * batch, width),
            turned @ saved.outputs[:-1].view(time * batch, size),
            by_bias,
            None,
            None,
        )


class Product:
    """Products of [rows, in] with one contiguous weight [out, in], put in oneDNN's own order once where that is had."""

    def __init__(self, weight: Tensor, rows: int) -> None:
        self._weight = weight
        self._packed: Tensor | None = None
        if torch.backends.mkldnn.is_available():
            try:
                self._packed = torch.ops.mkldnn._reorder_linear_weight(self._weight, rows)
            except (RuntimeError, AttributeError):  # not an operator that PyTorch promises
                self._packed = None

    def __call__(self, rows: Tensor) -> Tensor:
        if self._packed is None:
            return F.linear(rows, self._weight)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._packed, None, "none", [], "")
        return product
