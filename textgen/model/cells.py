"""Recurrent cells behind one interface: a fast `forward` over a window and a `step` that writes the equations out.

In the equations `[h, x]` is the previous output and the input side by side, `σ` the logistic function and `⊙` the
product of entries. PyTorch keeps the weights of x and h apart and gives each a bias; their sum is the `W[h, x] + b` of
the papers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from textgen.imports import can_multiply, has_dot_products
from textgen.model.lstm_window import is_at_once, lstm_window
from textgen.model.mogrifier_operations import mogrifier_operations
from textgen.model.mogrifier_window import MogrifierSteps, Rounds, mogrifier_window

CellState = tuple[Tensor, ...]
# A layer's `step`.
LayerStep = Callable[[Tensor, CellState], tuple[Tensor, CellState]]

# Hidden units from which a bf16 `lstm_window` is faster than oneDNN's LSTM, whose gradient is wrong from 1,024 on; and
# those from which it is where a window is computed at once.
_FUSED_BF16_BELOW, _FUSED_BF16_BELOW_AT_ONCE = 384, 256
# Steps of a window for which it is worth multiplying the factors of a Mogrifier's rounds.
_MANY_STEPS = 16


class GateWeights(NamedTuple):
    """What a layer multiplies its input [num_gates · hidden, input] and its last output [.., hidden] with, and biases.

    Gates lie one below the other in the order of the cell's equations in PyTorch: i, f, g, o for an LSTM, then what is
    added to it; r, z, n for a GRU.
    """

    input: Tensor
    hidden: Tensor
    input_bias: Tensor
    hidden_bias: Tensor


class RecurrentLayer(nn.Module):
    """One layer of one kind of cell.

    `forward` takes inputs [batch, time, input_size] and a state of `len(state_names)` tensors [batch, hidden_size] and
    returns outputs [batch, time, hidden_size] and the state after the last step. `recurrent_weight` stands in for the
    layer's own (weight dropout). `step` does the same for inputs [batch, input_size]: the slow reference.
    """

    state_names: ClassVar[tuple[str, ...]]
    num_gates: ClassVar[int]

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size

    @property
    def recurrent_weight(self) -> Tensor:
        """[num_gates · hidden_size, hidden_size]."""
        raise NotImplementedError

    def gate_weights(self) -> GateWeights:
        """The layer's own tensors, for those who run it by other means."""
        raise NotImplementedError

    def step(self, inputs: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        raise NotImplementedError

    def fixed_step(self) -> LayerStep:
        """`step` for as long as the weights stay as they are, which may be arranged for it, without gradients."""
        return self.step

    def forward(
        self, inputs: Tensor, state: CellState, *, recurrent_weight: Tensor | None = None
    ) -> tuple[Tensor, CellState]:
        raise NotImplementedError

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Orthogonal recurrent matrices (Saxe et al. 2013, https://arxiv.org/abs/1312.6120), one for each gate."""
        bound = self.hidden_size**-0.5
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if "bias" in name:
                    parameter.zero_()
                elif parameter.dim() == 2:
                    parameter.uniform_(-bound, bound, generator=generator)
            for block in self.recurrent_weight.split(self.hidden_size):
                nn.init.orthogonal_(block, generator=generator)


class _FusedLayer(RecurrentLayer):
    """A layer that runs on one of PyTorch's fused recurrent modules."""

    module: ClassVar[type[Any]]

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.fused: nn.RNNBase = self.module(input_size, hidden_size, batch_first=True)

    @property
    def recurrent_weight(self) -> Tensor:
        return self.gate_weights().hidden

    def gate_weights(self) -> GateWeights:
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        # Not `get_parameter`: where a model is called with other weights they are plain tensors.
        return GateWeights(*(cast(Tensor, getattr(self.fused, name)) for name in names))

    def forward(
        self, inputs: Tensor, state: CellState, *, recurrent_weight: Tensor | None = None
    ) -> tuple[Tensor, CellState]:
        if inputs.shape[1] == 1 and recurrent_weight is None and not torch.is_grad_enabled():
            # A fused module repacks its weights at every call, which for one step costs more than the step itself.
            output, after_step = self.step(inputs.squeeze(1), tuple(part.to(inputs.dtype) for part in state))
            return output.unsqueeze(1), after_step
        # The fused modules expect [layers, batch, hidden], contiguous.
        packed = tuple(part.to(inputs.dtype).unsqueeze(0).contiguous() for part in state)
        packed_state = packed if len(packed) > 1 else packed[0]
        if recurrent_weight is None:
            outputs, after = self.fused(inputs, packed_state)
        else:
            outputs, after = functional_call(self.fused, {"weight_hh_l0": recurrent_weight}, (inputs, packed_state))
        return outputs, tuple(part.squeeze(0) for part in (after if isinstance(after, tuple) else (after,)))

    def _projections(self, inputs: Tensor, hidden: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """What each gate gets from the input and from the previous output, each [batch, hidden]."""
        from_input = F.linear(inputs, self.fused.get_parameter("weight_ih_l0"), self.fused.get_parameter("bias_ih_l0"))
        from_hidden = F.linear(hidden, self.recurrent_weight, self.fused.get_parameter("bias_hh_l0"))
        return from_input.chunk(self.num_gates, -1), from_hidden.chunk(self.num_gates, -1)


class LSTM(_FusedLayer):
    """Long short-term memory with a forget gate (Hochreiter & Schmidhuber 1997; Gers et al. 2000).

        i_t = σ(W_i[h_{t-1}, x_t] + b_i)          f_t = σ(W_f[h_{t-1}, x_t] + b_f)
        c̃_t = tanh(W_g[h_{t-1}, x_t] + b_g)       o_t = σ(W_o[h_{t-1}, x_t] + b_o)
        c_t = f_t ⊙ c_{t-1} + i_t ⊙ c̃_t           h_t = o_t ⊙ tanh(c_t)

    The forget gate's bias starts at 1 (Jozefowicz et al. 2015), so that at first everything is remembered.
    """

    state_names = ("h", "c")
    num_gates = 4
    module = nn.LSTM

    def forward(
        self, inputs: Tensor, state: CellState, *, recurrent_weight: Tensor | None = None
    ) -> tuple[Tensor, CellState]:
        if not self._written_out(inputs):
            return super().forward(inputs, state, recurrent_weight=recurrent_weight)
        weights = self.gate_weights()
        if recurrent_weight is not None:
            weights = weights._replace(hidden=recurrent_weight)
        outputs, *after = lstm_window(inputs, state[0], state[1], weights, torch.bfloat16)
        return outputs, tuple(after)

    def _written_out(self, inputs: Tensor) -> bool:
        """Whether the fused layer would be slower, or its gradient wrong, see `lstm_window`."""
        return (
            torch.is_grad_enabled()
            and in_bf16_on_processor(inputs)
            and self.hidden_size >= _FUSED_BF16_BELOW_AT_ONCE
            and (self.hidden_size >= _FUSED_BF16_BELOW or is_at_once(len(inputs), self.hidden_size))
        )

    def step(self, inputs: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        weights = self.gate_weights()
        gates = F.linear(inputs, weights.input, weights.input_bias)
        hidden, cell = self._advance(gates + F.linear(state[0], weights.hidden, weights.hidden_bias), state[1])
        return hidden, (hidden, cell)

    @staticmethod
    def _advance(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """h and c from what the gates sum up to, [batch, 4 · hidden], and the cell before."""
        i, f, g, o = gates.chunk(4, -1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(cell), cell

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        super().reset_parameters(generator)
        with torch.no_grad():
            self.fused.get_parameter("bias_hh_l0")[self.hidden_size : 2 * self.hidden_size] = 1.0


class MogrifierLSTM(LSTM):
    """An LSTM whose input and previous output first scale each other in turns (Melis et al. 2020,
    https://arxiv.org/abs/1909.01792), with low-rank matrices as in that paper's section 3. For k = 1 … pairs

        x ← 2σ(U_k V_k h) ⊙ x
        h ← 2σ(U'_k V'_k x) ⊙ h

    and then the equations of `LSTM`. In bf16 on a processor with dot products of such numbers that takes a tenth to a
    quarter longer to train; in fp32 1.4 to 2.2 times as long, and up to four times for a single row. Elsewhere
    its steps are left to autograd.
    """

    pairs: ClassVar[int] = 2
    _most_ranks: ClassVar[int] = 64

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        pairs, rank = self.pairs, min(self._most_ranks, hidden_size)
        self.lower_of_inputs = nn.Parameter(torch.empty(pairs, rank, hidden_size))
        self.upper_of_inputs = nn.Parameter(torch.empty(pairs, input_size, rank))
        self.lower_of_hidden = nn.Parameter(torch.empty(pairs, rank, input_size))
        self.upper_of_hidden = nn.Parameter(torch.empty(pairs, hidden_size, rank))

    def rounds(self) -> Rounds:
        """The weights of the rounds."""
        return Rounds(self.lower_of_inputs, self.upper_of_inputs, self.lower_of_hidden, self.upper_of_hidden)

    def round_products(self) -> list[tuple[Tensor, Tensor]]:
        """For each pair of rounds the products of their factors, for those who run it by other means.

        Half of the matrices UV [input, hidden] and U'V' [hidden, input], since 2σ(z) = 1 + tanh(z / 2).
        """
        return [
            (from_hidden @ to_inputs / 2.0, from_inputs @ to_hidden / 2.0)
            for to_inputs, from_hidden, to_hidden, from_inputs in zip(*self.rounds(), strict=True)
        ]

    def step(self, inputs: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        inputs, hidden = self._mogrified(inputs, state[0])
        return super().step(inputs, (hidden, state[1]))

    def fixed_step(self) -> LayerStep:
        weight = self.recurrent_weight
        if weight.dtype != torch.bfloat16 or weight.device.type != "cpu" or not can_multiply():
            return self.step
        steps = MogrifierSteps(self.gate_weights(), self.rounds())

        def step(inputs: Tensor, state: CellState) -> tuple[Tensor, CellState]:
            hidden, cell = steps.step(inputs, *state)
            return hidden, (hidden, cell)

        return step

    def forward(
        self, inputs: Tensor, state: CellState, *, recurrent_weight: Tensor | None = None
    ) -> tuple[Tensor, CellState]:
        weights = self.gate_weights()
        if recurrent_weight is not None:
            weights = weights._replace(hidden=recurrent_weight)
        if inputs.shape[1] > 1 and in_bf16_on_processor(inputs) and has_dot_products():
            outputs, *after = mogrifier_window(inputs, state[0], state[1], weights, self.rounds())
            return outputs, tuple(after)
        if torch.is_grad_enabled() and inputs.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
            outputs, *after = mogrifier_operations(inputs, state[0], state[1], weights, self.rounds())
            return outputs, tuple(after)
        hidden, cell = state
        each: list[Tensor] = []
        # Multiplied out, the factors make half as many products: for many steps, and where no gradient needs them.
        many = inputs.shape[1] >= _MANY_STEPS and not torch.is_grad_enabled()
        products = self.round_products() if many else None
        for x in inputs.unbind(1):
            x, hidden = self._mogrified(x, hidden) if products is None else _scaled(x, hidden, products)
            gates = F.linear(x, weights.input, weights.input_bias) + F.linear(
                hidden, weights.hidden, weights.hidden_bias
            )
            hidden, cell = self._advance(gates, cell)
            each.append(hidden)
        return torch.stack(each, 1), (hidden, cell)

    def _mogrified(self, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        for to_inputs, from_hidden, to_hidden, from_inputs in zip(*self.rounds(), strict=True):
            inputs = 2.0 * torch.sigmoid(F.linear(F.linear(hidden, to_inputs), from_hidden)) * inputs
            hidden = 2.0 * torch.sigmoid(F.linear(F.linear(inputs, to_hidden), from_inputs)) * hidden
        return inputs, hidden

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        super().reset_parameters(generator)
        with torch.no_grad():
            for weight in self.rounds():
                weight.normal_(0.0, weight.shape[2] ** -0.5, generator=generator)


class GRU(_FusedLayer):
    """Gated recurrent unit (Cho et al. 2014, https://arxiv.org/abs/1406.1078), in the form cuDNN computes.

    r_t = σ(W_r[h_{t-1}, x_t] + b_r)          z_t = σ(W_z[h_{t-1}, x_t] + b_z)
    n_t = tanh(W_n x_t + b_n + r_t ⊙ (U_n h_{t-1} + d_n))
    h_t = (1 − z_t) ⊙ n_t + z_t ⊙ h_{t-1}
    """

    state_names = ("h",)
    num_gates = 3
    module = nn.GRU

    def step(self, inputs: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        (hidden,) = state
        (r_x, z_x, n_x), (r_h, z_h, n_h) = self._projections(inputs, hidden)
        reset, update = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
        candidate = torch.tanh(n_x + reset * n_h)
        hidden = (1 - update) * candidate + update * hidden
        return hidden, (hidden,)


class TanhRNN(_FusedLayer):
    """The simple recurrent network (Elman 1990): h_t = tanh(W[h_{t-1}, x_t] + b)."""

    state_names = ("h",)
    num_gates = 1
    module = nn.RNN

    def step(self, inputs: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        (from_input,), (from_hidden,) = self._projections(inputs, state[0])
        hidden = torch.tanh(from_input + from_hidden)
        return hidden, (hidden,)


class UpdateGateLSTM(RecurrentLayer):
    """An LSTM with an extra update gate, after the Chinese tutorial this project grew from.

    The usual c_t and h_t are computed as in `LSTM`, and beside them, with weights of their own,

        u_t = σ(W_u[h_{t-1}, x_t] + b_u)          c''_t = tanh(W_c[h_{t-1}, x_t] + b_c)
        c⁺_t = u_t ⊙ c_{t-1} + (1 − u_t) ⊙ c''_t  h⁺_t = o_t ⊙ tanh(c⁺_t)

    and the two are mixed: h = m ⊙ h_t + (1 − m) ⊙ h⁺_t and c = m ⊙ c_t + (1 − m) ⊙ c⁺_t with m = σ(w) learned for
    each unit and starting at one half. The tutorial leaves the mixing open; this is our reading. h and c are what the
    next step sees as h_{t-1} and c_{t-1}.
    """

    state_names = ("h", "c")
    num_gates = 6

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_input = nn.Parameter(torch.empty(self.num_gates * hidden_size, input_size))
        self.weight_hidden = nn.Parameter(torch.empty(self.num_gates * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.empty(self.num_gates * hidden_size))
        self.mixing = nn.Parameter(torch.empty(hidden_size))

    @property
    def recurrent_weight(self) -> Tensor:
        return self.weight_hidden

    def gate_weights(self) -> GateWeights:
        return GateWeights(self.weight_input, self.weight_hidden, self.bias, torch.zeros_like(self.bias))

    def step(self, inputs: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        return self._advance(F.linear(inputs, self.weight_input, self.bias), state, self.weight_hidden)

    def forward(
        self, inputs: Tensor, state: CellState, *, recurrent_weight: Tensor | None = None
    ) -> tuple[Tensor, CellState]:
        weight = self.weight_hidden if recurrent_weight is None else recurrent_weight
        # One product for the whole window; only the recurrent half has to wait for the step before.
        projected = F.linear(inputs, self.weight_input, self.bias)  # [batch, time, gates · hidden]
        outputs: list[Tensor] = []
        for from_input in projected.unbind(1):
            hidden, state = self._advance(from_input, state, weight)
            outputs.append(hidden)
        return torch.stack(outputs, 1), state

    def _advance(self, from_input: Tensor, state: CellState, weight: Tensor) -> tuple[Tensor, CellState]:
        hidden, cell = state
        gates = from_input + F.linear(hidden, weight)
        i, f, g, o, u, candidate = gates.chunk(self.num_gates, -1)
        output_gate, update = torch.sigmoid(o), torch.sigmoid(u)
        usual = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        updated = update * cell + (1 - update) * torch.tanh(candidate)
        mix = torch.sigmoid(self.mixing)
        hidden = output_gate * (mix * torch.tanh(usual) + (1 - mix) * torch.tanh(updated))
        cell = mix * usual + (1 - mix) * updated
        return hidden, (hidden, cell)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        super().reset_parameters(generator)
        with torch.no_grad():
            self.mixing.zero_()
            self.bias[self.hidden_size : 2 * self.hidden_size] = 1.0


def _scaled(inputs: Tensor, hidden: Tensor, products: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """A Mogrifier's rounds, by its `round_products`."""
    for by_hidden, by_inputs in products:
        inputs = torch.addcmul(inputs, inputs, torch.tanh(F.linear(hidden, by_hidden)))
        hidden = torch.addcmul(hidden, hidden, torch.tanh(F.linear(inputs, by_inputs)))
    return inputs, hidden


def in_bf16_on_processor(inputs: Tensor) -> bool:
    """Whether products of `inputs` are to be computed in bf16, by a processor."""
    return (
        inputs.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )


def cell_types() -> dict[str, type[RecurrentLayer]]:
    """The cells by the name that `ModelSettings.cell` uses."""
    return {
        "lstm": LSTM,
        "mogrifier-lstm": MogrifierLSTM,
        "gru": GRU,
        "rnn": TanhRNN,
        "update-gate-lstm": UpdateGateLSTM,
    }


def segments(resets: Tensor) -> Iterator[tuple[int, int]]:
    """Cuts a window where `resets` [batch, time] is true in any row: (start, end) pairs of steps."""
    time = resets.shape[1]
    starts = [0, *(column for column in torch.nonzero(resets.any(0)).flatten().tolist() if column > 0), time]
    yield from pairwise(starts)
