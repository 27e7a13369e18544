"""A small random model and engines around it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.engine.helpers import VOCAB, HeldBackend
from textgen.config import ModelSettings
from textgen.engine import Engine, TorchBackend
from textgen.model import LanguageModel


@pytest.fixture(scope="session")
def model() -> LanguageModel:
    model = LanguageModel(
        ModelSettings(cell="lstm", vocab_size=VOCAB, embedding_size=12, hidden_size=24, num_layers=2),
    )
    model.reset_parameters(seed=3)
    with torch.no_grad():
        model.embedding.mul_(60)  # far from uniform, so that tokens differ in probability
    return model


@pytest.fixture
def engine(model: LanguageModel) -> Iterator[Engine]:
    with Engine(model) as engine:
        yield engine


@pytest.fixture
def held(model: LanguageModel) -> HeldBackend:
    return HeldBackend(TorchBackend(model))
