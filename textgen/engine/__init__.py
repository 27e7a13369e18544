"""Requests in, token streams out. The engine never sees text."""

from __future__ import annotations

from textgen.engine.backends import Backend, TorchBackend
from textgen.engine.engine import Engine
from textgen.engine.requests import (
    BeamsEvent,
    Event,
    FinishedEvent,
    FinishReason,
    GenerationRequest,
    Hypothesis,
    StopCondition,
    TokenEvent,
)
from textgen.engine.streams import GenerationStream

__all__ = [
    "Backend",
    "BeamsEvent",
    "Engine",
    "Event",
    "FinishReason",
    "FinishedEvent",
    "GenerationRequest",
    "GenerationStream",
    "Hypothesis",
    "StopCondition",
    "TokenEvent",
    "TorchBackend",
]
