"""A model's equations on packed rows of state: products in a GPU's number format, state and sums in fp32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from textgen.model.cells import GRU, LSTM, CellState, MogrifierLSTM, RecurrentLayer, TanhRNN, UpdateGateLSTM
from textgen.model.language_model import LanguageModel


class DeviceModel:
    """The weights of a model on `device`, and what runs them; a copy, so that the model itself stays as it is.

    Rows of state are fp32 [rows, state_size], laid out as `StatePool` says. Every function works on tensors of fixed
    shapes without looking at their values, so that a CUDA graph can record it.
    """

    def __init__(self, model: LanguageModel, device: torch.device, dtype: torch.dtype) -> None:
        settings = model.settings
        self.vocab_size = settings.vocab_size
        self.hidden_size = settings.hidden_size
        self.dtype = dtype
        self._members = settings.members
        product = _Product(device, dtype)
        with torch.inference_mode():
            layers = [layer for layer in model.layers if isinstance(layer, RecurrentLayer)]
            self._layers = [_layer(layer, product) for layer in layers]
            self._product = product
            self._embedding = product.rounded(model.embedding)
            # Each member's share of the logits.
            self._projection = product.rounded(model.projection.weight / settings.members)
            self._projection_bias = product.rounded(model.projection.bias / settings.members)
            self._output_bias = product.exact(model.output_bias)
        self._parts = [len(layer.state_names) for layer in layers]

    @property
    def state_size(self) -> int:
        return sum(self._parts) * self.hidden_size

    @property
    def size_bytes(self) -> int:
        own = (self._embedding, self._projection, self._projection_bias, self._output_bias)
        return sum(tensor.nbytes for tensor in own) + sum(layer.size_bytes for layer in self._layers)

    def step(self, token_ids: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One token for each row, token_ids [rows].

        Returns what the members' last layers put out, [rows, members · hidden], and the state after it.
        """
        members = self._members
        outputs = list(F.embedding(token_ids, self._embedding).chunk(members, 1))  # each [rows, embedding]
        after: list[Tensor] = []
        for number, (layer, parts) in enumerate(zip(self._layers, self._unpacked(state), strict=True)):
            new_parts = layer.step(outputs[number % members], parts)
            outputs[number % members] = new_parts[0].to(self.dtype)
            after.extend(new_parts)
        return _joined(outputs), torch.cat(after, 1)

    def read(self, token_ids: Tensor, lengths: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Reads of column i of token_ids [time, rows] the first lengths[i] tokens, of which there may be none.

        Returns what the members' last layers put out, [time, rows, members · hidden], which ends in rubbish where a row
        is shorter, and the state after each row's last token.
        """
        members = self._members
        outputs = list(F.embedding(token_ids, self._embedding).chunk(members, 2))  # each [time, rows, embedding]
        after: list[Tensor] = []
        for number, (layer, parts) in enumerate(zip(self._layers, self._unpacked(state), strict=True)):
            inputs = outputs[number % members]
            # One product for the whole window; only the recurrent half has to wait for the step before.
            projected = layer.project(inputs.flatten(0, 1)).unflatten(0, token_ids.shape)  # [time, rows, channels]
            history = [parts]
            for from_input in projected.unbind(0):
                history.append(layer.after(from_input, history[-1]))
            # Picking each row's state at the end costs less than masking it at every step.
            after += [_picked(torch.stack(part), lengths) for part in zip(*history, strict=True)]
            outputs[number % members] = torch.stack([parts[0] for parts in history[1:]]).to(self.dtype)
        return _joined(outputs), torch.cat(after, 1)

    def logits(self, outputs: Tensor) -> Tensor:
        """What the members' last layers put out, [rows, members · hidden] → fp32 [rows, vocab]."""
        shares = zip(self._projection.chunk(self._members), self._projection_bias.chunk(self._members), strict=True)
        each = zip(outputs.chunk(self._members, -1), shares, strict=True)
        projected = _joined([F.linear(own, *share) for own, share in each])  # [rows, members · embedding]
        return self._product(projected, self._embedding) + self._output_bias

    def _unpacked(self, state: Tensor) -> list[CellState]:
        parts = iter(state.split(self.hidden_size, 1))
        return [tuple(next(parts) for _ in range(count)) for count in self._parts]


class _Product:
    """inputs [rows, in] times weights [out, in] → fp32 [rows, out], with both in `dtype`.

    What comes of it is rounded to `dtype` only where the device cannot help it: in bf16 the best of some thousand
    logits would often tie.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device = device
        self._dtype = dtype
        self._gives_fp32 = dtype != torch.float32 and _multiplies_into_fp32(device, dtype)

    def __call__(self, inputs: Tensor, weights: Tensor) -> Tensor:
        if self._gives_fp32:
            return _multiplied_into_fp32(inputs, weights)
        return F.linear(inputs, weights).float()

    def rounded(self, weights: Tensor) -> Tensor:
        """A copy to multiply with."""
        return weights.detach().to(device=self._device, dtype=self._dtype, copy=True)

    def exact(self, numbers: Tensor) -> Tensor:
        """A copy to add."""
        return numbers.detach().to(device=self._device, dtype=torch.float32, copy=True)


def _multiplied_into_fp32(inputs: Tensor, weights: Tensor) -> Tensor:
    multiply: Callable[..., Tensor] = torch.mm
    return multiply(inputs, weights.t(), out_dtype=torch.float32)


def _multiplies_into_fp32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether PyTorch knows products of `dtype` with fp32 results here: on CUDA since 2.8, elsewhere not yet."""
    ones = torch.ones(8, 8, dtype=dtype, device=device)
    try:
        return bool((_multiplied_into_fp32(ones, ones) == 8.0).all().item())
    except (RuntimeError, TypeError):
        return False


class _Cell(NamedTuple):
    """How a cell runs: its gates in `order`, its equations, and what else of a layer they need.

    `step` gets what the gates sum up to, [rows, channels], or, where what comes from the input and from the previous
    output does not just `add_up`, both; it returns the state's new parts, of which the first is the cell's output.
    """

    order: tuple[int, ...]
    step: Callable[[tuple[Tensor, ...], CellState, Tensor | None], CellState]
    adds_up: bool = True
    extra: Callable[[Any], Tensor] | None = None


def _lstm(gates: tuple[Tensor, ...], state: CellState, _extra: Tensor | None) -> CellState:
    (total,) = gates
    squashed, candidate = total.tensor_split((3 * state[1].shape[1],), 1)
    i, f, o = torch.sigmoid(squashed).chunk(3, 1)
    cell = torch.addcmul(f * state[1], i, torch.tanh(candidate))
    return o * torch.tanh(cell), cell


def _gru(gates: tuple[Tensor, ...], state: CellState, _extra: Tensor | None) -> CellState:
    from_input, from_hidden = gates
    (hidden,) = state
    cut = 2 * hidden.shape[1]
    reset, update = torch.sigmoid(from_input[:, :cut] + from_hidden[:, :cut]).chunk(2, 1)
    candidate = torch.tanh(torch.addcmul(from_input[:, cut:], reset, from_hidden[:, cut:]))
    return (torch.lerp(candidate, hidden, update),)


def _rnn(gates: tuple[Tensor, ...], _state: CellState, _extra: Tensor | None) -> CellState:
    return (torch.tanh(gates[0]),)


def _update_gate_lstm(gates: tuple[Tensor, ...], state: CellState, mix: Tensor | None) -> CellState:
    (total,) = gates
    assert mix is not None
    squashed, candidates = total.tensor_split((4 * state[1].shape[1],), 1)
    i, f, o, u = torch.sigmoid(squashed).chunk(4, 1)
    g, candidate = torch.tanh(candidates).chunk(2, 1)
    usual = torch.addcmul(f * state[1], i, g)
    updated = torch.lerp(candidate, state[1], u)
    hidden = o * torch.lerp(torch.tanh(updated), torch.tanh(usual), mix)
    return hidden, torch.lerp(updated, usual, mix)


def _mix(layer: UpdateGateLSTM) -> Tensor:
    return layer.mixing.sigmoid()


_CELLS: Mapping[type[RecurrentLayer], _Cell] = {
    LSTM: _Cell((0, 1, 3, 2), _lstm),
    MogrifierLSTM: _Cell((0, 1, 3, 2), _lstm),
    GRU: _Cell((0, 1, 2), _gru, adds_up=False),
    TanhRNN: _Cell((0,), _rnn),
    UpdateGateLSTM: _Cell((0, 1, 3, 4, 2, 5), _update_gate_lstm, extra=_mix),
}


class _Layer:
    """One layer's weights for input and previous output side by side, [channels, input + hidden], and its biases."""

    def __init__(self, layer: RecurrentLayer, product: _Product) -> None:
        self._cell = _CELLS[type(layer)]
        self._product = product
        self._input_size = layer.input_size
        own = layer.gate_weights()

        def ordered(tensor: Tensor) -> Tensor:
            blocks = tensor.split(layer.hidden_size)
            return torch.cat([blocks[place] for place in self._cell.order])

        self._weights = product.rounded(ordered(torch.cat([own.input, own.hidden], 1)))
        self._hidden_bias = None
        if self._cell.adds_up:
            self._bias = product.exact(ordered(own.input_bias + own.hidden_bias))
        else:
            self._bias = product.exact(ordered(own.input_bias))
            self._hidden_bias = product.exact(ordered(own.hidden_bias))
        self._extra = None if self._cell.extra is None else product.exact(self._cell.extra(layer))

    @property
    def size_bytes(self) -> int:
        return sum(
            tensor.nbytes
            for tensor in (self._weights, self._bias, self._hidden_bias, self._extra)
            if tensor is not None
        )

    def step(self, inputs: Tensor, state: CellState) -> CellState:
        """inputs [rows, input] → the state's new parts, each fp32 [rows, hidden]."""
        if not self._cell.adds_up:
            return self.after(self.project(inputs), state)
        both = torch.cat([inputs, state[0].to(inputs.dtype)], 1)
        return self._cell.step((self._product(both, self._weights).add_(self._bias),), state, self._extra)

    def project(self, inputs: Tensor) -> Tensor:
        """What the gates get from inputs [rows, input]: [rows, channels]."""
        return self._product(inputs, self._weights[:, : self._input_size]).add_(self._bias)

    def after(self, from_input: Tensor, state: CellState) -> CellState:
        """`step` with what `project` gave."""
        weights = self._weights[:, self._input_size :]
        from_hidden = self._product(state[0].to(weights.dtype), weights)  # [rows, channels]
        if self._hidden_bias is None:
            return self._cell.step((from_input + from_hidden,), state, self._extra)
        return self._cell.step((from_input, from_hidden.add_(self._hidden_bias)), state, self._extra)


class _Mogrifier(_Layer):
    """One whose input and previous output scale each other first, see `MogrifierLSTM.round_products`."""

    def __init__(self, layer: MogrifierLSTM, product: _Product) -> None:
        super().__init__(layer, product)
        self._rounds = [tuple(map(product.rounded, pair)) for pair in layer.round_products()]

    @property
    def size_bytes(self) -> int:
        return super().size_bytes + sum(weight.nbytes for pair in self._rounds for weight in pair)

    def step(self, inputs: Tensor, state: CellState) -> CellState:
        return self.after(inputs, state)

    def project(self, inputs: Tensor) -> Tensor:
        """Nothing yet: the gates wait for the step before."""
        return inputs

    def after(self, from_input: Tensor, state: CellState) -> CellState:
        hidden, dtype = state[0], from_input.dtype
        inputs = from_input.float()
        for by_hidden, by_inputs in self._rounds:
            inputs = inputs + inputs * torch.tanh(self._product(hidden.to(dtype), by_hidden))
            hidden = hidden + hidden * torch.tanh(self._product(inputs.to(dtype), by_inputs))
        return super().step(inputs.to(dtype), (hidden, *state[1:]))


def _layer(layer: RecurrentLayer, product: _Product) -> _Layer:
    return _Mogrifier(layer, product) if isinstance(layer, MogrifierLSTM) else _Layer(layer, product)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """`parts` side by side."""
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts), -1)


def _picked(history: Tensor, places: Tensor) -> Tensor:
    """Of history [time, rows, hidden] what stands at the `places` [rows] in time: [rows, hidden]."""
    index = places.view(1, -1, 1).expand(1, -1, history.shape[2])
    return history.gather(0, index)[0]
