"""Where a model runs and in which number format."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from textgen.config import DeviceName, PrecisionName
from textgen.errors import InvalidSetting
from textgen.model.language_model import LanguageModel

# The relative error of a gradient that bf16 may have; 0.03 is usual, where a kernel is wrong it is 0.2 and more.
_MAX_ROUNDING = 0.15


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
    if not available[name]:
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
    if _product_seconds(torch.bfloat16, clock) > _product_seconds(torch.float32, clock):
        return torch.float32
    try:
        rows, steps = min(batch_size, 32), min(window, 16)
        bf16, low = _step_seconds(model, torch.bfloat16, rows, steps, clock)
    except RuntimeError:
        return torch.float32
    fp32, exact = _step_seconds(model, torch.float32, rows, steps, clock)
    agree = all(_relative_error(*pair) < _MAX_ROUNDING for pair in zip(low, exact, strict=True))
    return torch.bfloat16 if agree and bf16 < 0.9 * fp32 else torch.float32


def _product_seconds(dtype: torch.dtype, clock: Callable[[], float]) -> float:
    left, right = torch.ones(64, 256, dtype=dtype), torch.ones(256, 256, dtype=dtype)
    return _best_of(lambda: left @ right, clock)


def _step_seconds(
    model: LanguageModel, precision: torch.dtype, rows: int, steps: int, clock: Callable[[], float]
) -> tuple[float, list[Tensor]]:
    """Time of a training step on made-up text, and its gradients."""
    token_ids = (torch.arange(rows * (steps + 1)) * 7 % model.settings.vocab_size).view(rows, steps + 1)
    state = model.initial_state(rows)
    gradients: list[Tensor] = []

    def step() -> None:
        with autocast(torch.device("cpu"), precision):
            logits, _ = model(token_ids[:, :-1], state)
            loss = F.cross_entropy(logits.flatten(0, 1).float(), token_ids[:, 1:].flatten())
        gradients[:] = torch.autograd.grad(loss, list(model.parameters()))

    return _best_of(step, clock), gradients


def _relative_error(found: Tensor, right: Tensor) -> float:
    return float((found - right).norm() / right.norm().clamp_min(1e-20))


def _best_of(work: Callable[[], object], clock: Callable[[], float], *, repeats: int = 3) -> float:
    work()
    seconds = []
    for _ in range(repeats):
        start = clock()
        work()
        seconds.append(clock() - start)
    return min(seconds)
