"""A small random model, the backends that run it, and engines around them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.engine.helpers import VOCAB, HeldBackend, open_onnx
from textgen.config import ModelSettings
from textgen.engine import Backend, Engine, TorchBackend
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


@pytest.fixture(scope="session")
def torch_backend(model: LanguageModel) -> Backend:
    return TorchBackend(model)


@pytest.fixture(scope="session")
def onnx_backend(model: LanguageModel) -> Backend:
    return open_onnx(model)


@pytest.fixture(params=["torch", "onnx"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each kind of backend, of the same `model`."""
    found: Backend = request.getfixturevalue(f"{request.param}_backend")
    return found


@pytest.fixture
def engine(backend: Backend, model: LanguageModel) -> Iterator[Engine]:
    with Engine(backend, source=lambda: model) as engine:
        yield engine


@pytest.fixture
def held(backend: Backend) -> HeldBackend:
    return HeldBackend(backend)
