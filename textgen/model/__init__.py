"""Token ids and state in, logits and state out."""

from __future__ import annotations

from textgen.model.language_model import LanguageModel
from textgen.model.state import RecurrentState

__all__ = ["LanguageModel", "RecurrentState"]
