"""Textgen Studio: write with recurrent language models and train your own.

Importing the package imports nothing heavy; the parts are imported by their names (`textgen.studio`, `textgen.engine`)
or when `load` or `Studio` is first used.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textgen.config import BackendName
    from textgen.limits import Limits
    from textgen.studio import LoadedModel, Studio

__all__ = ["LoadedModel", "Studio", "__version__", "load"]
__version__ = "0.1.0"


def load(
    folder: str | Path,
    *,
    device: str = "auto",
    backend: BackendName = "auto",
    threads: int | None = None,
    limits: Limits | None = None,
) -> LoadedModel:
    """The model in a checkpoint's or a run's folder, ready to write; to be closed, or used in a `with` statement.

    `device` is "auto", "cpu", "cuda" or "mps"; `backend` "auto", "onnx" (8-bit weights) or "torch"; `threads` the cores
    to use. What is prepared for the processor is kept in the folder that `TEXTGEN_CACHE` names, or the system.

    Raises `BadCheckpoint` for a folder that holds no model, `InvalidSetting`, `BackendUnavailable`.
    """
    from textgen.files import cache_folder
    from textgen.limits import Limits
    from textgen.studio import LoadedModel, Running
    from textgen.training.device import choose_device

    running = Running(choose_device(device), backend, threads, cache_folder(os.environ))  # type: ignore[arg-type]
    return LoadedModel(Path(folder), running=running, limits=limits or Limits())


def __getattr__(name: str) -> Any:
    if name in ("LoadedModel", "Studio"):
        from textgen import studio

        return getattr(studio, name)
    raise AttributeError(f"module 'textgen' has no attribute {name!r}")
