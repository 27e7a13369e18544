"""Every cell: the fast window against the equations written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from textgen.model.cells import LSTM, CellState, MogrifierLSTM, RecurrentLayer, UpdateGateLSTM, cell_types, segments
from textgen.model.lstm_window import lstm_window

CELLS = sorted(cell_types())


def _fast_bf16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def build(name: str, input_size: int = 5, hidden_size: int = 7) -> RecurrentLayer:
    layer = cell_types()[name](input_size, hidden_size)
    layer.reset_parameters(torch.Generator().manual_seed(3))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)) * 0.3)
    return layer


def random_state(layer: RecurrentLayer, batch: int) -> CellState:
    generator = torch.Generator().manual_seed(5)
    return tuple(torch.randn(batch, layer.hidden_size, generator=generator) for _ in layer.state_names)


def step_by_step(layer: RecurrentLayer, inputs: torch.Tensor, state: CellState) -> tuple[torch.Tensor, CellState]:
    outputs = []
    for step_inputs in inputs.unbind(1):
        output, state = layer.step(step_inputs, state)
        outputs.append(output)
    return torch.stack(outputs, 1), state


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("batch", [1, 4])
def test_window_agrees_with_the_equations(name: str, batch: int) -> None:
    layer = build(name)
    inputs = torch.randn(batch, 11, 5, generator=torch.Generator().manual_seed(1))
    state = random_state(layer, batch)
    fast, fast_state = layer(inputs, state)
    slow, slow_state = step_by_step(layer, inputs, state)
    torch.testing.assert_close(fast, slow, atol=1e-6, rtol=0)
    for left, right in zip(fast_state, slow_state, strict=True):
        torch.testing.assert_close(left, right, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", CELLS)
def test_gradients_agree_with_the_equations(name: str) -> None:
    layer = build(name)
    inputs = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(1))
    state = random_state(layer, 3)
    gradients = []
    for run in (layer, lambda x, s: step_by_step(layer, x, s)):
        outputs, _ = run(inputs, state)
        gradients.append(torch.autograd.grad(outputs.square().sum(), list(layer.parameters())))
    for fast, slow in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", CELLS)
def test_a_given_recurrent_weight_replaces_the_own_one(name: str) -> None:
    layer = build(name)
    inputs, state = torch.randn(2, 4, 5), random_state(layer, 2)
    other = torch.randn(layer.recurrent_weight.shape) * 0.2
    replaced, _ = layer(inputs, state, recurrent_weight=other)
    with torch.no_grad():
        layer.recurrent_weight.copy_(other)
    own, _ = layer(inputs, state)
    torch.testing.assert_close(replaced, own)


@pytest.mark.parametrize("name", CELLS)
def test_recurrent_matrices_start_orthogonal(name: str) -> None:
    layer = cell_types()[name](5, 8)
    layer.reset_parameters(torch.Generator().manual_seed(0))
    for block in layer.recurrent_weight.split(8):
        torch.testing.assert_close(block @ block.T, torch.eye(8), atol=1e-5, rtol=0)


def test_forget_gate_bias_starts_at_one() -> None:
    layer = LSTM(3, 4)
    layer.reset_parameters()
    total = layer.fused.get_parameter("bias_ih_l0") + layer.fused.get_parameter("bias_hh_l0")
    i, f, g, o = total.chunk(4)
    assert f.tolist() == [1.0] * 4
    assert torch.cat([i, g, o]).abs().sum() == 0


def test_update_gate_lstm_follows_the_tutorial_for_one_unit() -> None:
    """The numbers of one step, computed with plain arithmetic from the equations of the issue."""
    layer = UpdateGateLSTM(1, 1)
    weights_x, weights_h = [0.3, -0.2, 0.5, 0.1, 0.7, -0.4], [0.2, 0.6, -0.3, 0.4, -0.5, 0.8]
    biases, mixing = [0.1, 1.0, -0.1, 0.2, 0.3, 0.05], 0.4
    with torch.no_grad():
        layer.weight_input.copy_(torch.tensor(weights_x)[:, None])
        layer.weight_hidden.copy_(torch.tensor(weights_h)[:, None])
        layer.bias.copy_(torch.tensor(biases))
        layer.mixing.fill_(mixing)
    x, h, c = 0.9, -0.6, 0.5

    def sigmoid(value: float) -> float:
        return float(torch.sigmoid(torch.tensor(value, dtype=torch.float64)))

    def tanh(value: float) -> float:
        return float(torch.tanh(torch.tensor(value, dtype=torch.float64)))

    i, f, g, o, u, k = (wx * x + wh * h + b for wx, wh, b in zip(weights_x, weights_h, biases, strict=True))
    usual = sigmoid(f) * c + sigmoid(i) * tanh(g)
    updated = sigmoid(u) * c + (1 - sigmoid(u)) * tanh(k)
    m = sigmoid(mixing)
    hidden = m * sigmoid(o) * tanh(usual) + (1 - m) * sigmoid(o) * tanh(updated)
    cell = m * usual + (1 - m) * updated
    output, state = layer.step(torch.tensor([[x]]), (torch.tensor([[h]]), torch.tensor([[c]])))
    assert output.item() == pytest.approx(hidden, abs=1e-6)
    assert state[0].item() == pytest.approx(hidden, abs=1e-6)
    assert state[1].item() == pytest.approx(cell, abs=1e-6)


def test_update_gate_lstm_starts_by_mixing_in_equal_parts() -> None:
    layer = UpdateGateLSTM(3, 4)
    layer.reset_parameters()
    assert torch.sigmoid(layer.mixing).tolist() == [0.5] * 4
    assert isinstance(layer.mixing, nn.Parameter)


@pytest.mark.parametrize("name", CELLS)
def test_gate_weights_are_the_layers_own_products(name: str) -> None:
    """From them and the equations in their documented order the step can be made again."""
    layer = build(name)
    weights = layer.gate_weights()
    size, gates = layer.hidden_size, layer.num_gates
    assert [tuple(part.shape) for part in weights] == [
        (gates * size, layer.input_size),
        (gates * size, size),
        (gates * size,),
        (gates * size,),
    ]
    assert weights.hidden.data_ptr() == layer.recurrent_weight.data_ptr()
    inputs, state = torch.randn(3, 5), random_state(layer, 3)
    scaled, hidden = inputs, state[0]
    if isinstance(layer, MogrifierLSTM):
        for by_hidden, by_inputs in layer.round_products():
            scaled = scaled * (1 + torch.tanh(hidden @ by_hidden.T))
            hidden = hidden * (1 + torch.tanh(scaled @ by_inputs.T))
    x = (scaled @ weights.input.T + weights.input_bias).split(size, 1)
    h = (hidden @ weights.hidden.T + weights.hidden_bias).split(size, 1)
    if name == "rnn":
        expected = torch.tanh(x[0] + h[0])
    elif name == "gru":
        reset, update = torch.sigmoid(x[0] + h[0]), torch.sigmoid(x[1] + h[1])
        expected = (1 - update) * torch.tanh(x[2] + reset * h[2]) + update * state[0]
    else:
        i, f, g, o, *extra = (one + other for one, other in zip(x, h, strict=True))
        usual = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        expected = torch.sigmoid(o) * torch.tanh(usual)
        if extra:
            assert isinstance(layer, UpdateGateLSTM)
            update, mix = torch.sigmoid(extra[0]), torch.sigmoid(layer.mixing)
            updated = update * state[1] + (1 - update) * torch.tanh(extra[1])
            expected = mix * expected + (1 - mix) * torch.sigmoid(o) * torch.tanh(updated)
    torch.testing.assert_close(layer.step(inputs, state)[0], expected, atol=1e-6, rtol=1e-5)


def test_a_mogrifiers_rounds_for_one_unit() -> None:
    """The paper's equations with numbers: input and output scale each other in turns, then comes the usual LSTM."""
    layer = MogrifierLSTM(1, 1)
    layer.reset_parameters(torch.Generator().manual_seed(0))
    assert [tuple(weight.shape) for weight in layer.rounds()] == [(2, 1, 1)] * 4
    numbers = [weight.flatten().tolist() for weight in layer.rounds()]
    x, h = 0.7, -0.4
    for lower_x, upper_x, lower_h, upper_h in zip(*numbers, strict=True):
        x *= 2 / (1 + math.exp(-upper_x * lower_x * h))
        h *= 2 / (1 + math.exp(-upper_h * lower_h * x))
    found, _ = layer.step(torch.tensor([[0.7]]), (torch.tensor([[-0.4]]), torch.tensor([[0.3]])))
    expected, _ = LSTM.step(plain_copy(layer), torch.tensor([[x]]), (torch.tensor([[h]]), torch.tensor([[0.3]])))
    torch.testing.assert_close(found, expected)


def plain_copy(layer: LSTM) -> LSTM:
    copy = LSTM(layer.input_size, layer.hidden_size)
    copy.fused.load_state_dict(layer.fused.state_dict())
    return copy


def test_segments_cut_where_any_row_resets() -> None:
    resets = torch.zeros(2, 6, dtype=torch.bool)
    resets[0, 2] = resets[1, 5] = resets[1, 0] = True
    assert list(segments(resets)) == [(0, 2), (2, 5), (5, 6)]
    assert list(segments(torch.zeros(2, 6, dtype=torch.bool))) == [(0, 6)]


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_written_out_lstm_window_agrees_with_the_equations(batch: int, dtype: torch.dtype) -> None:
    layer = build("lstm", 6, 16)
    inputs = torch.randn(batch, 9, 6, generator=torch.Generator().manual_seed(1), requires_grad=True)
    h, c = (part.requires_grad_() for part in random_state(layer, batch))
    wanted = [inputs, h, c, *layer.parameters()]
    outputs, hidden, cell = lstm_window(inputs, h, c, layer.gate_weights(), dtype)
    slow, slow_state = step_by_step(layer, inputs, (h, c))
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    results = []
    for found, last in ((outputs.float(), (hidden, cell)), (slow, slow_state)):
        loss = found.square().sum() + (last[0] * 0.3).sum() + last[1].square().sum()
        results.append([found, *last, *torch.autograd.grad(loss, wanted)])
    for fast, right in zip(*results, strict=True):
        assert relative_error(fast, right) < tolerance


@pytest.mark.skipif(not _fast_bf16(), reason="this processor has no bf16 instructions")
@pytest.mark.parametrize("hidden_size", [64, 1024, 1280])
def test_bf16_gradients_are_right_at_every_width(hidden_size: int) -> None:
    layer = LSTM(32, hidden_size)
    layer.reset_parameters(torch.Generator().manual_seed(3))
    inputs = torch.randn(4, 3, 32, generator=torch.Generator().manual_seed(1), requires_grad=True)
    gradients = []
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            outputs, _ = layer(inputs, random_state(layer, 4))
        gradients.append(torch.autograd.grad(outputs.float().square().sum(), [inputs, *layer.parameters()]))
    for low, right in zip(*gradients, strict=True):
        assert relative_error(low, right) < 0.03


def relative_error(found: torch.Tensor, right: torch.Tensor) -> float:
    return float(((found.float() - right).norm() / right.norm()).detach())
