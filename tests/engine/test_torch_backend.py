from __future__ import annotations

import warnings

import numpy as np
import torch

from tests.engine.helpers import VOCAB, tiny_model
from textgen.engine import TorchBackend
from textgen.model.fingerprint import fingerprint


def test_a_half_precision_model_is_run_in_fp32() -> None:
    model = tiny_model().half()
    expected = fingerprint(model)
    backend = TorchBackend(model)
    pool = backend.open_pool(2)
    logits = pool.step(np.array([0, 1]), np.array([1, 2]))
    assert logits.dtype == np.float32
    assert logits.shape == (2, VOCAB)
    assert pool.get(0).dtype == np.float32
    assert model.embedding.dtype == torch.float32
    assert (backend.name, backend.model_hash) == ("PyTorch fp32 (cpu)", expected)


def test_it_says_why_it_was_taken() -> None:
    assert TorchBackend(tiny_model(), note="there is no other").note == "there is no other"
    assert TorchBackend(tiny_model()).note is None


def test_pools_may_be_used_with_gradients_on_and_off() -> None:
    """The engine's thread is in inference mode, whoever makes the pool and tests are not; nothing learns either way."""
    pool = TorchBackend(tiny_model()).open_pool(1)
    with torch.inference_mode():
        pool.step(np.array([0]), np.array([5]))
        pool.grow(3)
        pool.put(1, pool.get(0))
        pool.copy(np.array([1]), np.array([2]))
        pool.reset(np.array([0]))
        inside = pool.step(np.array([0, 2]), np.array([5, 6]))
    other = TorchBackend(tiny_model()).open_pool(1)
    other.step(np.array([0]), np.array([5]))
    other.grow(3)
    other.put(1, other.get(0))
    other.copy(np.array([1]), np.array([2]))
    other.reset(np.array([0]))
    np.testing.assert_array_equal(other.step(np.array([0, 2]), np.array([5, 6])), inside)


def test_a_state_that_is_read_only_is_taken_without_a_word() -> None:
    pool = TorchBackend(tiny_model()).open_pool(1)
    state = np.full(pool.get(0).shape, 0.25, dtype=np.float32)
    state.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pool.put(0, state)
    np.testing.assert_array_equal(pool.get(0), state)


def test_a_row_alone_is_the_same_whatever_else_is_read_at_once() -> None:
    """Rows of texts of different lengths are not padded and read together, since that would change their last bits."""
    backend = TorchBackend(tiny_model("gru"))
    alone, together = backend.open_pool(1), backend.open_pool(3)
    alone.read_many(np.array([0]), [np.arange(4, 11)])
    together.read_many(np.array([2, 0, 1]), [np.arange(5, 25), np.arange(4, 11), np.array([9])])
    np.testing.assert_array_equal(together.get(0), alone.get(0))
