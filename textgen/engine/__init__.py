"""Requests in, token streams out. The engine never sees text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from textgen.config import BackendName
from textgen.engine.backends import Backend, StatePool
from textgen.engine.requests import (
    Alternative,
    BeamsEvent,
    Event,
    FinishedEvent,
    FinishReason,
    GenerationRequest,
    Hypothesis,
    StopCondition,
    TokenEvent,
    TokenScore,
    TreeNode,
)
from textgen.engine.snapshots import Snapshot
from textgen.engine.streams import GenerationStream

if TYPE_CHECKING:
    from textgen.engine.choosing import open_backend
    from textgen.engine.engine import Engine
    from textgen.engine.torch_backend import TorchBackend

__all__ = [
    "Alternative",
    "Backend",
    "BackendName",
    "BeamsEvent",
    "Engine",
    "Event",
    "FinishReason",
    "FinishedEvent",
    "GenerationRequest",
    "GenerationStream",
    "Hypothesis",
    "Snapshot",
    "StatePool",
    "StopCondition",
    "TokenEvent",
    "TokenScore",
    "TorchBackend",
    "TreeNode",
    "open_backend",
]


def __getattr__(name: str) -> Any:
    # These import torch, which whoever only asks and is answered need not wait for.
    if name == "Engine":
        from textgen.engine.engine import Engine

        return Engine
    if name == "TorchBackend":
        from textgen.engine.torch_backend import TorchBackend

        return TorchBackend
    if name == "open_backend":
        from textgen.engine.choosing import open_backend

        return open_backend
    raise AttributeError(f"module 'textgen.engine' has no attribute {name!r}")
