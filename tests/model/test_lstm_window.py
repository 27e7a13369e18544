"""The written-out LSTM: machine code against operations of PyTorch, both against the cell's equations (test_cells)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from textgen.compiled import compiled
from textgen.imports import can_multiply
from textgen.model import compiled_window, dot_products, lstm_steps
from textgen.model.cells import LSTM
from textgen.model.half_precision import halves_of, narrowed, transposed, widened
from textgen.model.lstm_steps import step_forward
from textgen.model.lstm_window import is_at_once, lstm_window


@pytest.fixture(params=[False, True], ids=["step by step", "a window at once"])
def at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a window's products are within the machine code, where this processor can."""
    if request.param and not can_multiply():
        pytest.skip("this processor has no dot products of bf16, or something better")
    monkeypatch.setattr(compiled_window, "can_multiply", lambda: request.param)
    return bool(request.param)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "time", "width", "size"),
    [(1, 1, 1, 1), (3, 9, 6, 16), (2, 40, 33, 70), (8, 9, 6, 32), (16, 2, 5, 96), (33, 5, 20, 64), (9, 1, 3, 32)],
)
def test_machine_code_and_operations_agree(batch: int, time: int, width: int, size: int, at_once: bool) -> None:
    assert is_at_once(batch, size) == (at_once and size % 32 == 0 and batch > 3)
    layer = LSTM(width, size)
    layer.reset_parameters(torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(batch, time, width, generator=generator, requires_grad=True)
    h, c = (torch.randn(batch, size, generator=generator).requires_grad_() for _ in range(2))
    wanted = [inputs, h, c, *layer.parameters()]
    results = []
    for plainly in (False, True):
        outputs, *last = lstm_window(inputs, h, c, layer.gate_weights(), torch.bfloat16, plainly=plainly)
        loss = outputs.float().square().sum() + sum(part.square().sum() for part in last)
        found = [outputs.float(), *last, *torch.autograd.grad(loss, wanted)]
        results.append([part.detach() for part in found])
    for fast, slow in zip(*results, strict=True):
        assert fast.shape == slow.shape
        assert (fast - slow).norm().item() / slow.norm().item() < 0.01


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("rows", [5, 16])
def test_threads_share_a_step(monkeypatch: pytest.MonkeyPatch, threads: int, rows: int, at_once: bool) -> None:
    """All is the same but, where they share its rows, the gradient of the bias, added up in another order."""
    layer = LSTM(20, 96)
    layer.reset_parameters(torch.Generator().manual_seed(0))
    inputs, h, c = torch.randn(rows, 7, 20, requires_grad=True), torch.randn(rows, 96), torch.randn(rows, 96)
    results = []
    for count in (1, threads):
        for module in (lstm_steps, dot_products):
            monkeypatch.setattr(module, "threads_for", lambda _entries, *, each, count=count: count if each else 0)
        outputs, *last = lstm_window(inputs, h, c, layer.gate_weights(), torch.bfloat16)
        loss = outputs.float().square().sum() + sum(part.square().sum() for part in last)
        results.append([outputs, *last, *torch.autograd.grad(loss, [inputs, *layer.parameters()])])
    for one, several in zip(*results, strict=True):
        if one.dim() == 1 and not (at_once):
            torch.testing.assert_close(several, one, rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(several, one)


def test_gates_are_right_far_from_zero() -> None:
    """Where an approximation is cut off, and beyond."""
    numbers = np.array([-80.0, -12.0, -7.9, -3.0, -1e-3, 0.0, 1e-3, 3.0, 7.9, 12.0, 80.0], np.float32)
    size = len(numbers)
    given_by = torch.zeros(1, 4 * size, dtype=torch.bfloat16)
    gates, cells = np.empty((1, 1, 4 * size), np.float32), np.zeros((2, 1, size), np.float32)
    squashed, outputs = np.empty((1, 1, size), np.float32), np.zeros((2, 1, size), np.uint16)
    nothing = halves_of(given_by)
    step_forward(1, 0, nothing, nothing[None], np.tile(numbers, 4), gates, cells, squashed, outputs)
    exact = numbers.astype(np.float64)
    i, f, g, o = gates[0, 0].reshape(4, size)
    for sigmoid in (i, f, o):
        np.testing.assert_allclose(sigmoid, 1 / (1 + np.exp(-exact)), atol=1e-6)
    np.testing.assert_allclose(g, np.tanh(exact), atol=1e-6)
    np.testing.assert_allclose(squashed[0, 0], np.tanh(cells[1, 0].astype(np.float64)), atol=1e-6)


@pytest.mark.skipif(not can_multiply(), reason="this processor has no dot products of bf16, or something better")
def test_a_window_at_once_is_right_far_from_zero_and_keeps_what_is_no_number() -> None:
    numbers = torch.linspace(-100, 100, 32).bfloat16()
    by_inputs = numbers.repeat(4).expand(1, 4, -1).contiguous()
    by_inputs[0, 3, 5] = torch.nan  # a gate of one unit of the last row
    window = compiled_window.CompiledWindow()
    saved = window.saved(torch.zeros(4, 32), torch.ones(4, 32), 1, torch.bfloat16)
    window.forward(torch.zeros(128, 32, dtype=torch.bfloat16), by_inputs, torch.zeros(128), saved)
    exact = numbers.double()
    cells = torch.sigmoid(exact) * (1 + torch.tanh(exact))
    found = window.last_cell(saved)
    assert found[:3].double() == pytest.approx(cells.expand(3, -1), abs=1e-6)
    assert found[3].isnan().nonzero().tolist() == saved.outputs[1, 3].isnan().nonzero().tolist() == [[5]]


@pytest.mark.parametrize("shape", [(1, 1), (3, 70), (16, 16), (33, 16), (64, 100), (250, 371), (640, 512)])
def test_a_matrix_is_turned(shape: tuple[int, int]) -> None:
    """The largest by two threads, where there are so many."""
    matrix = torch.randn(shape).bfloat16()
    turned = transposed(matrix)
    assert turned.is_contiguous()
    assert torch.equal(turned, matrix.t())


@compiled
def _narrow(numbers: np.ndarray, found: np.ndarray) -> None:
    for place in range(numbers.size):
        found[place] = narrowed(numbers[place])


@compiled
def _widen(halves: np.ndarray, found: np.ndarray) -> None:
    for place in range(halves.size):
        found[place] = widened(halves[place])


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40))
def test_rounding_is_that_of_pytorch(numbers: list[float]) -> None:
    exact = torch.tensor(numbers, dtype=torch.float32)
    found, back = torch.empty_like(exact, dtype=torch.bfloat16), torch.empty_like(exact)
    _narrow(exact.numpy(), halves_of(found))
    assert torch.equal(found, exact.bfloat16())
    _widen(halves_of(found), back.numpy())
    assert torch.equal(back, found.float())
