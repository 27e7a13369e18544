from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.engine.helpers import VOCAB
from textgen.config import CELLS, ModelSettings
from textgen.engine import TorchBackend
from textgen.model import LanguageModel


@pytest.mark.parametrize("cell", CELLS)
def test_stepping_and_prefilling_give_the_models_logits(cell: str) -> None:
    settings = ModelSettings(cell=cell, vocab_size=VOCAB, embedding_size=8, hidden_size=16, num_layers=2)
    model = LanguageModel(settings)
    model.reset_parameters(seed=1)
    backend = TorchBackend(model)
    assert backend.vocab_size == VOCAB
    tokens = np.random.default_rng(0).integers(0, VOCAB, size=(3, 11))
    with torch.inference_mode():
        expected = model(torch.from_numpy(tokens), model.initial_state(3))[0].numpy()  # [rows, time, vocab]

    state = backend.initial_state(3)
    before = state.clone()
    for place in range(11):
        logits, after = backend.step(tokens[:, place], state)
        np.testing.assert_allclose(logits, expected[:, place], atol=1e-5)
        if place == 0:
            assert all(torch.equal(a, b) for a, b in zip(state.layers[0], before.layers[0], strict=True))
        state = after

    for row in range(3):
        _, half = backend.prefill(tokens[row, :5], backend.initial_state(1))
        logits, whole = backend.prefill(tokens[row, 5:], half)
        np.testing.assert_allclose(logits, expected[row : row + 1, -1], atol=1e-5)
        for part, other in zip(whole.layers[1], state.layers[1], strict=True):
            torch.testing.assert_close(part, other[row : row + 1], atol=1e-5, rtol=0)


def test_a_half_precision_model_is_run_in_fp32() -> None:
    model = LanguageModel(ModelSettings(vocab_size=VOCAB, embedding_size=8, hidden_size=16))
    model.reset_parameters(seed=1)
    backend = TorchBackend(model.half())
    logits, state = backend.step(np.array([1, 2]), backend.initial_state(2))
    assert logits.dtype == np.float32
    assert logits.shape == (2, VOCAB)
    assert state.layers[0][0].dtype == torch.float32
    assert "fp32" in backend.name
