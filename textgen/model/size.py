"""How large a model is."""

from __future__ import annotations

from textgen.config import ModelSettings


def count_parameters(settings: ModelSettings) -> int:
    """How many weights a model of that shape has; none is made."""
    # The page lists models and is there before torch, which takes seconds to import.
    import torch

    from textgen.model.language_model import LanguageModel

    with torch.device("meta"):
        return LanguageModel(settings).num_parameters
