from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch.utils.hooks import RemovableHandle

from textgen.config import DeviceName, ModelSettings, PrecisionName
from textgen.errors import InvalidSetting
from textgen.model import LanguageModel
from textgen.training.device import DeviceChoice, autocast, choose_device, choose_precision


@pytest.fixture
def model() -> LanguageModel:
    model = LanguageModel(ModelSettings(vocab_size=20, embedding_size=8, hidden_size=8))
    model.reset_parameters(0)
    return model


def scripted_clock(*seconds: tuple[float, float]) -> Callable[[], float]:
    """A clock by which bf16 and fp32 take `seconds`, in each comparison in turns; one turn is slow in both."""

    def ticks() -> Iterator[float]:
        now = 0.0
        for pair in seconds:
            for turn in range(5):
                for duration in pair:
                    yield now
                    now += duration + (10.0 if turn == 1 else 0.0)
                    yield now

    times = ticks()
    return lambda: next(times)


def test_the_cpu_is_always_there() -> None:
    assert choose_device("cpu") == torch.device("cpu")


def test_auto_takes_the_best_there_is() -> None:
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert choose_device() == torch.device(best)


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_told(name: DeviceName, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InvalidSetting, match=rf"device: {name} was given; allowed: auto, cpu \(this machine has no"):
        choose_device(name)


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (DeviceChoice(torch.device("cpu"), torch.float32, 2), "cpu, 2 threads, fp32"),
        (DeviceChoice(torch.device("cuda"), torch.bfloat16, 2), "cuda, bf16"),
    ],
)
def test_the_choice_can_be_shown(choice: DeviceChoice, said: str) -> None:
    assert str(choice) == said


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_precision_that_is_asked_for_is_not_measured(
    model: LanguageModel, name: PrecisionName, dtype: torch.dtype
) -> None:
    assert choose_precision(name, model, batch_size=4, window=4, clock=scripted_clock()) == dtype


@pytest.mark.parametrize(
    ("seconds", "dtype"),
    [
        ([(5.0, 1.0)], torch.float32),  # bf16 products are emulated: nothing more is tried
        ([(1.0, 2.0), (1.0, 2.0)], torch.bfloat16),
        ([(2.0, 1.0), (1.0, 2.0)], torch.bfloat16),  # a product so small says little
        ([(1.0, 2.0), (1.0, 1.05)], torch.float32),  # not worth the rounding
        ([(1.0, 2.0), (2.0, 1.0)], torch.float32),
    ],
)
def test_the_faster_precision_is_found_by_measuring(
    model: LanguageModel, seconds: list[tuple[float, float]], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This machine may have no bf16 kernels; the clock pretends that it has.
    monkeypatch.setattr("textgen.training.device.autocast", lambda *_: nullcontext())
    before = copy.deepcopy(model.state_dict())
    assert choose_precision("auto", model, batch_size=4, window=4, clock=scripted_clock(*seconds)) == dtype
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_kernels_that_refuse_bf16_mean_fp32(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("not implemented for 'BFloat16'")

    monkeypatch.setattr("textgen.training.device.autocast", refuse)
    assert choose_precision("auto", model, batch_size=4, window=4, clock=scripted_clock((1.0, 2.0))) == torch.float32


def test_kernels_whose_gradients_are_wrong_mean_fp32(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong: list[RemovableHandle] = []

    def lying(_: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
        while wrong:
            wrong.pop().remove()
        if precision == torch.bfloat16:
            wrong.append(model.output_bias.register_hook(lambda gradient: 1.2 * gradient))
        return nullcontext()

    monkeypatch.setattr("textgen.training.device.autocast", lying)
    clock = scripted_clock((1.0, 2.0), (1.0, 2.0))
    assert choose_precision("auto", model, batch_size=4, window=4, clock=clock) == torch.float32


def test_autocast_changes_products_only_where_asked() -> None:
    ones = torch.ones(2, 2)
    cpu = torch.device("cpu")
    with autocast(cpu, torch.bfloat16):
        assert (ones @ ones).dtype == torch.bfloat16
    with autocast(cpu, torch.float32):
        assert (ones @ ones).dtype == torch.float32
    assert isinstance(autocast(cpu, torch.float32), nullcontext)
