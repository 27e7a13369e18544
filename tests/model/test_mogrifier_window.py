"""A Mogrifier's window as machine code: against the cell's equations, which `step` writes out."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.model.mogrifier_cases import assert_rows_stay_apart, by_equations, case, results
from textgen import imports
from textgen.config import ModelSettings
from textgen.imports import has_dot_products
from textgen.model import cells, dot_products, lstm_steps, mogrifier_steps
from textgen.model.language_model import LanguageModel
from textgen.model.mogrifier_window import MogrifierSteps, mogrifier_window

needs_dot_products = pytest.mark.skipif(not has_dot_products(), reason="this processor has no dot products of bf16")


@needs_dot_products
@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "time", "width", "size"),
    [
        (16, 9, 64, 96),
        (8, 1, 32, 32),
        (5, 7, 96, 128),
        (33, 4, 64, 64),
        (1, 3, 128, 32),
        (3, 6, 5, 7),
        (24, 2, 33, 100),
    ],
)
def test_machine_code_and_equations_agree(batch: int, time: int, width: int, size: int) -> None:
    layer, inputs, h, c = case(batch, time, width, size)
    outputs, *last = mogrifier_window(inputs, h, c, layer.gate_weights(), layer.rounds())
    assert outputs.dtype == torch.bfloat16
    fast = results(layer, outputs, last, [inputs, h, c])
    slow = results(layer, *by_equations(layer, inputs, h, c), [inputs, h, c])
    for found, right in zip(fast, slow, strict=True):
        assert found.shape == right.shape
        assert (found - right).norm().item() / right.norm().item() < 0.02


@needs_dot_products
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_share_a_window(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    layer, inputs, h, c = case(16, 5, 96, 128)
    found = []
    for count in (1, threads):
        for module in (lstm_steps, dot_products):
            monkeypatch.setattr(module, "threads_for", lambda _entries, *, each, count=count: count if each else 0)
        outputs, *last = mogrifier_window(inputs, h, c, layer.gate_weights(), layer.rounds())
        found.append(results(layer, outputs, last, [inputs, h, c]))
    assert all(map(torch.equal, *found))


@needs_dot_products
def test_a_part_of_the_rows_gives_what_all_give() -> None:
    layer, inputs, h, c = case(16, 5, 32, 64)
    with torch.no_grad():
        whole, *_ = mogrifier_window(inputs, h, c, layer.gate_weights(), layer.rounds())
        part, *_ = mogrifier_window(inputs[5:11], h[5:11], c[5:11], layer.gate_weights(), layer.rounds())
    assert torch.equal(whole[5:11], part)


@needs_dot_products
def test_what_is_no_number_stays_in_its_row() -> None:
    assert_rows_stay_apart(mogrifier_window, 32, 64)


@needs_dot_products
def test_a_layer_without_gradients_gives_the_same_bits_and_takes_what_is_left_of_its_weight() -> None:
    layer, inputs, h, c = case(5, 7, 32, 64)
    dropped = (layer.recurrent_weight * (torch.rand(256, 64) > 0.5)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        learning, _ = layer(inputs, (h, c), recurrent_weight=dropped)
        with torch.no_grad():
            reading, _ = layer(inputs, (h, c), recurrent_weight=dropped)
            whole, _ = layer(inputs, (h, c))
    assert torch.equal(learning, reading)
    assert not torch.equal(reading, whole)


def test_autograd_learns_the_equations_where_no_machine_code_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, and in bf16 on processors without dot products."""
    monkeypatch.setattr(cells, "has_dot_products", lambda: False)
    layer, inputs, h, c = case(3, 5, 12, 20)
    with torch.autocast("cpu", torch.bfloat16):
        outputs, last = layer(inputs, (h, c))
    rounded = results(layer, outputs, list(last), [inputs, h, c])
    exact = results(layer, *by_equations(layer, inputs, h, c), [inputs, h, c])
    for found, right in zip(rounded, exact, strict=True):
        assert (found - right).norm().item() < 0.05 * right.norm().item()


def test_factors_multiplied_out_give_the_same() -> None:
    """Which is how many steps are read where no gradient is wanted."""
    layer, inputs, h, c = case(3, 20, 12, 20)
    learning, _ = layer(inputs, (h, c))
    with torch.no_grad():
        reading, _ = layer(inputs, (h, c))
    torch.testing.assert_close(reading, learning, atol=1e-5, rtol=0)


@needs_dot_products
def test_a_model_learns_alike_in_bf16_and_in_fp32() -> None:
    settings = ModelSettings(
        cell="mogrifier-lstm", vocab_size=40, embedding_size=32, hidden_size=64, num_layers=2, members=2
    )
    model = LanguageModel(settings)
    model.reset_parameters(0)
    ids = torch.randint(0, 40, (8, 13), generator=torch.Generator().manual_seed(2))
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits, _ = model(ids[:, :-1], model.initial_state(8), apart=True)
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, -2), ids[:, 1:].flatten().repeat(2))
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for exact, rounded in zip(*gradients, strict=True):
        assert (exact - rounded).norm().item() < 0.03 * exact.norm().item()


@needs_dot_products
@pytest.mark.parametrize(("batch", "width", "size"), [(16, 64, 96), (5, 96, 128), (3, 5, 7), (1, 32, 64), (33, 64, 32)])
def test_steps_with_fixed_weights_and_equations_agree(batch: int, width: int, size: int) -> None:
    layer, inputs, h, c = case(batch, 6, width, size)
    rounded = copy.deepcopy(layer).bfloat16()
    step = rounded.fixed_step()
    state: cells.CellState = (h, c)
    found: list[torch.Tensor] = []
    given: list[torch.Tensor] = []
    kept: list[torch.Tensor] = []
    for x in inputs.unbind(1):
        output, state = step(x.bfloat16(), state)
        assert [part.dtype for part in (output, *state)] == [torch.float32] * 3
        found.append(output)
        given.extend((output, *state))
        kept.extend(part.clone() for part in (output, *state))
    outputs, last = by_equations(layer, inputs, h, c)
    assert all(map(torch.equal, given, kept))  # a later step writes over nothing that an earlier one gave
    for fast, slow in zip((torch.stack(found, 1), *state), (outputs, *last), strict=True):
        assert fast.shape == slow.shape
        assert (fast - slow).norm().item() < 0.02 * slow.norm().item()


@needs_dot_products
def test_fixed_steps_go_on_with_other_rows_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, inputs, h, c = case(16, 1, 96, 128)
    rounded = copy.deepcopy(layer).bfloat16()
    steps, x = MogrifierSteps(rounded.gate_weights(), rounded.rounds()), inputs[:, 0].bfloat16()
    threads: list[int] = []
    forward = mogrifier_steps.mogrifier_forward

    def counting(count: int, *given: object) -> None:
        threads.append(count)
        forward(count, *given)

    monkeypatch.setattr(mogrifier_steps, "mogrifier_forward", counting)
    monkeypatch.setattr(lstm_steps, "threads_for", lambda _entries, *, each: 1 if each else 0)
    part, _ = steps.step(x[5:11], h[5:11], c[5:11])
    whole, _ = steps.step(x, h, c)
    monkeypatch.setattr(lstm_steps, "threads_for", lambda _entries, *, each: 3 if each else 0)
    shared, _ = steps.step(x, h, c)
    assert threads == [1, 1, 3]
    assert torch.equal(whole[5:11], part)
    assert torch.equal(whole, shared)


def test_the_equations_are_for_fp32_and_for_processors_without_the_machine_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer, *_ = case(3, 1, 12, 20)
    assert layer.fixed_step() == layer.step
    layer.bfloat16()
    for dot_products_are, tiles_are in ((False, False), (True, True)):
        monkeypatch.setattr(imports, "has_dot_products", lambda there=dot_products_are: there)
        monkeypatch.setattr(imports, "has_bf16_tiles", lambda there=tiles_are: there)
        assert layer.fixed_step() == layer.step
