"""The backend for GPUs, run on the processor, without graphs: the same functions on the same tensors."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.helpers import VOCAB, request, text, tiny_model
from textgen.config import CELLS
from textgen.engine import TorchBackend, choosing
from textgen.engine.backends import DrawingPool, StatePool
from textgen.engine.choosing import _open_device
from textgen.engine.decoding import Logits, TokenIds
from textgen.engine.device_backend import DeviceBackend
from textgen.engine.sampling import SampledSequence, draws_for
from textgen.model.fingerprint import fingerprint

SHAPES = [
    (33, 8, 1, 1),
    (17, 5, 2, 1),
    (3, 16, 3, 1),
    (1, 2, 2, 1),
    (17, 5, 2, 3),
]  # hidden, embedding, layers, members

# How far logits may be from the fp32 reference, in units of how much they differ among them: on average, and at most.
# bf16 keeps 8 bits of a weight and of an output, fp16 11; some tens of products add up, and hundreds of steps feed them
# back.
TOLERANCES = {torch.float32: (1e-6, 1e-5), torch.float16: (2e-3, 0.02), torch.bfloat16: (0.015, 0.15)}


def assert_close(found: Logits, expected: Logits, dtype: torch.dtype) -> None:
    average, most = TOLERANCES[dtype]
    difference = np.abs(found - expected) / expected.std()
    assert difference.mean() < average
    assert difference.max() < most


def stepped(pool: StatePool, tokens: TokenIds) -> Logits:
    """tokens [rows, time], read side by side into the first slots → logits [rows, time, vocab]."""
    slots = np.arange(len(tokens))
    return np.stack([pool.step(slots, column) for column in tokens.T], 1)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_logits_are_those_of_the_reference(cell: str, dtype: torch.dtype) -> None:
    for hidden, embedding, layers, members in SHAPES:
        model = tiny_model(cell, hidden_size=hidden, embedding_size=embedding, num_layers=layers, members=members)
        tokens = np.random.default_rng(0).integers(0, VOCAB, (3, 40))
        expected = stepped(TorchBackend(model).open_pool(3), tokens)
        backend = DeviceBackend(model, "cpu", dtype)
        found = stepped(backend.open_pool(3), tokens)
        assert found.dtype == np.float32
        assert_close(found, expected, dtype)
        pool = backend.open_pool(4)
        pool.read_many(np.array([2, 0]), [tokens[2, :27], tokens[0, :3]])
        assert_close(pool.step(np.array([0, 2]), tokens[[0, 2], [3, 27]]), expected[[0, 2], [3, 27]], dtype)
        assert_close(pool.read_all(2, tokens[2, 28:]), expected[2, 28:], dtype)
        assert_close(pool.read_all(1, tokens[1]), expected[1], dtype)


def test_what_it_tells_of_itself() -> None:
    model = tiny_model().half()
    backend = DeviceBackend(model, "cpu", torch.bfloat16)
    assert backend.name == "PyTorch bf16 on cpu"
    assert DeviceBackend(model, "cpu").name == "PyTorch fp32 on cpu"
    assert (backend.note, backend.batched, backend.exact_rows) == (None, True, False)
    assert (backend.vocab_size, backend.state_size) == (VOCAB, 2 * 2 * 17)
    assert backend.model_hash == fingerprint(model)
    assert 2 * model.num_parameters <= backend.size_bytes < 3 * model.num_parameters
    assert model.embedding.dtype == torch.float16  # it is left as it was


def test_the_model_may_be_changed_afterwards() -> None:
    model = tiny_model()
    backend = DeviceBackend(model, "cpu")
    before = backend.open_pool(1).step(np.array([0]), np.array([5]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(backend.open_pool(1).step(np.array([0]), np.array([5])), before)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_any_number_of_rows_fits_a_bucket(dtype: torch.dtype) -> None:
    """What fills a bucket up neither shows in the logits nor in anybody's state."""
    backend = DeviceBackend(tiny_model(), "cpu", dtype)
    alone = backend.open_pool(20)
    rng = np.random.default_rng(1)
    for rows in (1, 2, 3, 5, 8, 13, 16, 17):
        pool = backend.open_pool(20)
        slots = rng.permutation(20)[:rows]
        others = np.setdiff1d(np.arange(20), slots)
        tokens = rng.integers(0, VOCAB, (rows, 2))
        pool.step(slots, tokens[:, 0])
        found = pool.step(slots, tokens[:, 1])
        assert found.shape == (rows, VOCAB)
        assert not any(pool.get(slot).any() for slot in others)
        for row, slot in enumerate(slots):
            alone.reset(np.array([slot]))
            alone.step(slots[row : row + 1], tokens[row : row + 1, 0])
            assert_close(alone.step(slots[row : row + 1], tokens[row : row + 1, 1]), found[row : row + 1], dtype)


def test_rows_of_full_buckets_do_not_depend_on_their_neighbours() -> None:
    backend = DeviceBackend(tiny_model(), "cpu", torch.bfloat16)
    tokens = np.array([5, 6, 7, 8])
    logits = backend.open_pool(4).step(np.arange(4), tokens)
    for _ in range(3):
        tokens[1:] = np.random.default_rng(0).integers(0, VOCAB, 3)
        np.testing.assert_array_equal(backend.open_pool(4).step(np.arange(4), tokens)[0], logits[0])


@pytest.mark.slow
@given(lengths=st.lists(st.integers(1, 150), min_size=1, max_size=5), cell=st.sampled_from(CELLS), data=st.data())
@settings(max_examples=15)
def test_texts_of_any_lengths_are_read_as_if_step_by_step(lengths: list[int], cell: str, data: st.DataObject) -> None:
    backend = DeviceBackend(tiny_model(cell, hidden_size=7, num_layers=2), "cpu")
    texts = [np.array(text(row, size=length)) for row, length in enumerate(lengths)]
    slots = np.array(data.draw(st.permutations(range(7))))[: len(texts)]
    pool, slow = backend.open_pool(7), backend.open_pool(7)
    for slot in range(7):
        before = np.random.default_rng(slot).normal(0, 0.5, backend.state_size).astype(np.float32)
        pool.put(slot, before)
        slow.put(slot, before)
    pool.read_many(slots, texts)
    for slot, tokens in zip(slots, texts, strict=True):
        for token in tokens:
            slow.step(np.array([slot]), np.array([token]))
    for slot in range(7):
        np.testing.assert_allclose(pool.get(slot), slow.get(slot), atol=2e-5)


@given(size=st.integers(1, 150))
@settings(max_examples=8)
def test_scoring_gives_the_logits_after_each_token(size: int) -> None:
    backend = DeviceBackend(tiny_model(hidden_size=7), "cpu")
    tokens = np.array([text(1, size=size)])
    expected = stepped(backend.open_pool(1), tokens)[0]
    np.testing.assert_allclose(backend.open_pool(1).read_all(0, tokens[0]), expected, atol=3e-5)


def test_growing_and_moving_rows() -> None:
    backend = DeviceBackend(tiny_model(), "cpu", torch.bfloat16)
    pool = backend.open_pool(2)
    pool.step(np.array([0, 1]), np.array([5, 6]))
    before = [pool.get(row) for row in range(2)]
    pool.grow(6)
    pool.grow(3)  # less than there is
    assert pool.capacity == 6
    assert [pool.get(row).any() for row in range(6)] == [True, True, False, False, False, False]
    pool.step(np.array([2, 3, 4]), np.array([7, 8, 9]))
    pool.copy(np.array([0, 1, 1]), np.array([1, 0, 5]))  # a swap: sources are as they were
    for row, expected in ((0, before[1]), (1, before[0]), (5, before[1])):
        np.testing.assert_array_equal(pool.get(row), expected)
    pool.reset(np.array([5, 0]))
    assert not pool.get(5).any()
    assert not pool.get(0).any()
    pool.put(5, before[0])
    assert_close(pool.step(np.array([5]), np.array([7])), pool.step(np.array([1]), np.array([7])), torch.bfloat16)


def test_pools_may_be_used_with_gradients_on_and_off() -> None:
    """The engine's thread is in inference mode, whoever makes the pool and tests are not."""
    sequence = SampledSequence(request(temperature=0.5, forbidden_ids=frozenset({7})), 0)
    pool = DeviceBackend(tiny_model(), "cpu").open_pool(1)
    for _ in range(2):
        with torch.inference_mode():
            _use(pool, sequence)
        _use(pool, sequence)
    assert not torch.is_inference_mode_enabled()


def _use(pool: StatePool, sequence: SampledSequence) -> None:
    assert isinstance(pool, DrawingPool)
    pool.grow(pool.capacity + 1)
    pool.step_and_draw(np.array([0]), np.array([5]), draws_for([sequence], 2))
    pool.read_many(np.array([0]), [np.array([5, 6])])
    state = pool.get(0)
    state.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pool.put(1, state)
    pool.copy(np.array([1]), np.array([0]))
    pool.reset(np.array([1]))


def test_a_device_that_computes_wrongly_or_not_at_all_gets_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    assert isinstance(_open_device(model, torch.device("cpu")), DeviceBackend)
    monkeypatch.setattr(choosing, "DeviceBackend", lambda model, device: DeviceBackend(tiny_model(seed=9), device))
    backend = _open_device(model, torch.device("cpu"))
    assert isinstance(backend, TorchBackend)
    assert backend.note == "this device computes the fast way wrongly"

    def fail(model: object, device: object) -> DeviceBackend:
        raise NotImplementedError("no such operation on this device")

    monkeypatch.setattr(choosing, "DeviceBackend", fail)
    backend = _open_device(model, torch.device("cpu"))
    assert isinstance(backend, TorchBackend)
    assert backend.note is not None
    assert backend.note.endswith("no such operation on this device")
