"""Requests in, token streams out. The engine never sees text."""

from __future__ import annotations

from textgen.engine.backends import Backend, StatePool
from textgen.engine.choosing import BackendName, open_backend
from textgen.engine.engine import Engine
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
