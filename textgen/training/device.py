"""Where a model runs and in which number format."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from textgen.config import DeviceName, PrecisionName
from textgen.errors import InvalidSetting
from textgen.model.language_model import LanguageModel

# The relative error of a gradient that bf16 may have; 0.03 is usual, where a kernel is wrong it is 0.2 and more.
_MAX_ROUNDING = 0.15
_PRECISIONS = (torch.bfloat16, torch.float32)
_ROUNDS = 5


@dataclass(frozen=True)
class DeviceChoice:
    """What training runs on, to be shown to the person who waits for it."""

    device: torch.device
    precision: torch.dtype
    threads: int

    def __str__(self) -> str:
        name = {torch.float32: "fp32", torch.bfloat16: "bf16"}[self.precision]
        threads = f", {self.threads} threads" if self.device.type == "cpu" else ""
        return f"{self.device.type}{threads}, {name}"


def choose_device(name: DeviceName = "auto") -> torch.device:
    """The device asked for, or the best there is; `InvalidSetting` when it is not there."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    if not available.get(name):
        there = ", ".join(["auto", *(kind for kind, there in available.items() if there)])
        raise InvalidSetting("device", name, f"{there} (this machine has no {name})")
    return torch.device(name)


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """A context in which matrix products run in `precision`."""
    return nullcontext() if precision == torch.float32 else torch.autocast(device.type, precision)


def choose_precision(
    name: PrecisionName,
    model: LanguageModel,
    *,
    batch_size: int,
    window: int,
    clock: Callable[[], float] = time.perf_counter,
) -> torch.dtype:
    """bf16 where it makes a training step at least a tenth faster and no less right than rounding allows.

    Processors without bf16 instructions emulate them up to a hundred times slower, and some kernels then refuse
    outright, so a small product is tried before whole steps, which takes seconds. Other kernels compute wrong gradients
    (see `lstm_window`), so the two are compared too.
    """
    device = model.embedding.device
    if name != "auto":
        return torch.float32 if name == "fp32" else torch.bfloat16
    if device.type == "mps":
        return torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if emulates_bf16(device, clock):
        return torch.float32
    steps = [_Step(model, precision, min(batch_size, 32), min(window, 16)) for precision in _PRECISIONS]
    try:
        bf16, fp32 = _seconds(steps, clock)
    except RuntimeError:
        return torch.float32
    low, exact = (step.gradients for step in steps)
    agree = all(_relative_error(*pair) < _MAX_ROUNDING for pair in zip(low, exact, strict=True))
    return torch.bfloat16 if agree and bf16 < 0.9 * fp32 else torch.float32


def emulates_bf16(device: torch.device, clock: Callable[[], float] = time.perf_counter) -> bool:
    """Whether this is a processor without bf16 instructions, where products of such numbers take many times as long."""
    if device.type != "cpu":
        return False
    products = []
    for precision in _PRECISIONS:
        left, right = torch.ones(64, 256, dtype=precision), torch.ones(256, 256, dtype=precision)
        products.append(partial(torch.mm, left, right))
    bf16, fp32 = _seconds(products, clock)
    return bf16 > 4 * fp32  # a small product says no more than that


class _Step:
    """A training step on made-up text that leaves its `gradients`, and the model as it was."""

    def __init__(self, model: LanguageModel, precision: torch.dtype, rows: int, steps: int) -> None:
        ids = torch.arange(rows * (steps + 1)) * 7 % model.settings.vocab_size
        self._token_ids = ids.view(rows, steps + 1)
        self._state = model.initial_state(rows)
        self._model = model
        self._precision = precision
        self.gradients: Sequence[Tensor] = ()

    def __call__(self) -> None:
        with autocast(torch.device("cpu"), self._precision):
            logits, _ = self._model(self._token_ids[:, :-1], self._state)
            loss = F.cross_entropy(logits.flatten(0, 1).float(), self._token_ids[:, 1:].flatten())
        self.gradients = torch.autograd.grad(loss, list(self._model.parameters()))


def _relative_error(found: Tensor, right: Tensor) -> float:
    return float((found - right).norm() / right.norm().clamp_min(1e-20))


def _seconds(works: Sequence[Callable[[], object]], clock: Callable[[], float]) -> list[float]:
    """The least time that each piece of work takes, after once that is not timed.

    They take turns: what else the machine does meanwhile falls on all of them.
    """
    for work in works:
        work()
    least = [math.inf] * len(works)
    for _ in range(_ROUNDS):
        for index, work in enumerate(works):
            start = clock()
            work()
            least[index] = min(least[index], clock() - start)
    return least
