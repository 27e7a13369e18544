"""Token ids and state in, logits and state out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textgen.model.language_model import LanguageModel
    from textgen.model.state import RecurrentState

__all__ = ["LanguageModel", "RecurrentState"]


def __getattr__(name: str) -> Any:
    # Both import torch, which whoever only looks at a checkpoint need not wait for.
    if name == "LanguageModel":
        from textgen.model.language_model import LanguageModel

        return LanguageModel
    if name == "RecurrentState":
        from textgen.model.state import RecurrentState

        return RecurrentState
    raise AttributeError(f"module 'textgen.model' has no attribute {name!r}")
