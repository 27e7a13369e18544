from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from textgen.config import ModelSettings
from textgen.model import LanguageModel


@pytest.fixture
def make_model() -> Callable[..., LanguageModel]:
    """Small models with weights large enough that logits differ clearly."""

    def make(cell: str = "lstm", *, seed: int = 0, num_layers: int = 2, **shape: int) -> LanguageModel:
        values = {"vocab_size": 23, "embedding_size": 6, "hidden_size": 9, **shape}
        model = LanguageModel(ModelSettings(cell=cell, num_layers=num_layers, **values))
        model.reset_parameters(seed)
        with torch.no_grad():
            model.embedding.mul_(8)
        return model

    return make
