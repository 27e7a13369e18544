"""Which backend runs a model, and why."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from textgen.config import BackendName
from textgen.engine.backends import Backend
from textgen.engine.decoding import Logits
from textgen.engine.device_backend import DeviceBackend
from textgen.engine.torch_backend import TorchBackend
from textgen.errors import BackendUnavailable, InvalidSetting
from textgen.model.language_model import LanguageModel


def open_backend(
    model: LanguageModel,
    *,
    device: torch.device | str = "cpu",
    kind: BackendName = "auto",
    threads: int | None = None,
    cache_folder: Path | None = None,
) -> Backend:
    """Makes `model` ready to run, which may move it to `device`; graphs are kept in `cache_folder` if there is one.

    "auto" takes ONNX Runtime on a processor and half precision on a GPU; where that cannot be it takes what "torch"
    asks for, the reference, with a note that says why. "onnx" raises `BackendUnavailable` instead; any other name, and
    less than one thread, `InvalidSetting`.
    """
    if kind not in get_args(BackendName):
        raise InvalidSetting("backend", kind, ", ".join(get_args(BackendName)))
    if threads is not None and threads < 1:
        raise InvalidSetting("threads", threads, "at least 1")
    device = torch.device(device)
    if kind == "torch":
        return TorchBackend(model, device)
    if kind == "auto" and device.type != "cpu":
        return _open_device(model, device)
    try:
        if device.type != "cpu":
            raise BackendUnavailable("onnx", f"it runs on the processor, not on {device.type}")
        return _open_onnx(model, threads or available_threads(), cache_folder)
    except BackendUnavailable as error:
        if kind == "onnx":
            raise
        return TorchBackend(model, device, note=error.reason)


def available_threads() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _open_device(model: LanguageModel, device: torch.device) -> Backend:
    try:
        backend = DeviceBackend(model, device)
        agrees = _agrees(backend, model)
    except RuntimeError as error:  # what PyTorch raises where a device lacks an operation, or memory
        return TorchBackend(model, device, note=f"this device or its PyTorch does not suit the fast way: {error}")
    return backend if agrees else TorchBackend(model, device, note="this device computes the fast way wrongly")


def _open_onnx(model: LanguageModel, threads: int, cache_folder: Path | None) -> Backend:
    try:
        from textgen.engine.onnx_backend import OnnxBackend
        from textgen.engine.onnx_model import cached_onnx_model
    except ImportError as error:
        raise BackendUnavailable("onnx", f"{error.name} is not installed") from None
    try:
        backend = OnnxBackend(cached_onnx_model(model, cache_folder), threads=threads)
        agrees = _agrees(backend, model)
    except BackendUnavailable:
        raise
    except Exception as error:  # onnxruntime's own errors have no base class but this
        raise BackendUnavailable("onnx", f"this model or processor does not suit it: {error}") from error
    if not agrees:
        raise BackendUnavailable("onnx", "this processor computes it wrongly")
    return backend


def _agrees(backend: Backend, model: LanguageModel) -> bool:
    """Whether rows come out about as PyTorch has them, and where they should be exact, the same alone and together."""
    token_ids = np.arange(6, dtype=np.int64).reshape(3, 2) % backend.vocab_size  # [rows, time]
    together, alone = backend.open_pool(3), backend.open_pool(3)
    slots = np.arange(3)
    logits: Logits = np.zeros((3, backend.vocab_size), dtype=np.float32)
    for column in token_ids.T:
        logits = together.step(slots, column)
        single = np.concatenate([alone.step(slots[row : row + 1], column[row : row + 1]) for row in range(3)])
        if backend.exact_rows and not np.array_equal(logits, single, equal_nan=True):
            return False
    with torch.inference_mode():
        reference, _ = model(torch.from_numpy(token_ids).to(model.embedding.device), model.initial_state(3))
    expected = reference[:, -1].float().cpu().numpy()
    if not np.isfinite(expected).all():
        return True  # a broken model is the engine's to report, with either backend
    scale = max(1e-3, float(expected.std()))
    return bool(np.abs(logits - expected).mean() < 0.5 * scale)
