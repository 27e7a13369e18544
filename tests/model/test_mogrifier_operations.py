"""A Mogrifier's window operation by operation, as fp32 is trained: against the equations, which `step` writes out."""

from __future__ import annotations

import pytest
import torch

from tests.model.mogrifier_cases import assert_rows_stay_apart, by_equations, case, results
from textgen.model.cells import MogrifierLSTM
from textgen.model.mogrifier_operations import mogrifier_operations


@pytest.mark.parametrize(
    ("batch", "time", "width", "size"), [(16, 9, 64, 96), (1, 1, 5, 3), (5, 7, 96, 128), (33, 2, 7, 100)]
)
def test_operations_and_equations_agree(batch: int, time: int, width: int, size: int) -> None:
    layer, inputs, h, c = case(batch, time, width, size)
    outputs, *last = mogrifier_operations(inputs, h, c, layer.gate_weights(), layer.rounds())
    fast = results(layer, outputs, last, [inputs, h, c])
    slow = results(layer, *by_equations(layer, inputs, h, c), [inputs, h, c])
    for found, right in zip(fast, slow, strict=True):
        assert found.shape == right.shape
        torch.testing.assert_close(found, right, atol=1e-5 * right.abs().max().item(), rtol=0)


@pytest.mark.parametrize("pairs", [1, 3])
def test_any_number_of_rounds(monkeypatch: pytest.MonkeyPatch, pairs: int) -> None:
    monkeypatch.setattr(MogrifierLSTM, "pairs", pairs)
    layer, inputs, h, c = case(2, 4, 6, 8)
    outputs, *last = mogrifier_operations(inputs, h, c, layer.gate_weights(), layer.rounds())
    fast = results(layer, outputs, last, [inputs, h, c])
    slow = results(layer, *by_equations(layer, inputs, h, c), [inputs, h, c])
    for found, right in zip(fast, slow, strict=True):
        torch.testing.assert_close(found, right, atol=1e-4, rtol=1e-5)


def test_the_gradient_is_the_one_of_small_differences() -> None:
    layer, inputs, h, c = case(2, 3, 4, 5)
    layer.double()
    x, hidden, cell = (part.detach().double().requires_grad_() for part in (inputs, h, c))

    def window(*_: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return mogrifier_operations(x, hidden, cell, layer.gate_weights(), layer.rounds())

    assert torch.autograd.gradcheck(window, (x, hidden, cell, *layer.parameters()))


def test_a_learning_layer_takes_what_is_left_of_its_weight() -> None:
    layer, inputs, h, c = case(3, 6, 8, 12)
    dropped = layer.recurrent_weight * (torch.rand(48, 12, generator=torch.Generator().manual_seed(3)) > 0.5)
    learning, _ = layer(inputs, (h, c), recurrent_weight=dropped)
    with torch.no_grad():
        reading, _ = layer(inputs, (h, c), recurrent_weight=dropped)
        whole, _ = layer(inputs, (h, c))
    torch.testing.assert_close(learning, reading, atol=1e-5, rtol=0)
    assert not torch.allclose(learning, whole, atol=1e-3)


def test_what_is_no_number_stays_in_its_row() -> None:
    assert_rows_stay_apart(mogrifier_operations, 8, 12)
