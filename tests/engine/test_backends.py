"""What every backend promises: the reference's logits, and rows of state that are moved about as said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.helpers import VOCAB, TableBackend, open_onnx, request, tiny_model
from textgen.config import CELLS
from textgen.engine import Backend, Engine, TorchBackend
from textgen.engine.decoding import Logits, TokenIds
from textgen.engine.sampling import SampledSequence, Sampler
from textgen.model import LanguageModel
from textgen.model.fingerprint import fingerprint

cells = st.sampled_from(CELLS)
hidden_sizes = st.sampled_from((1, 2, 3, 16, 17, 33))


def opened(kind: str, model: LanguageModel) -> Backend:
    return TorchBackend(model) if kind == "torch" else open_onnx(model)


def reference(model: LanguageModel, token_ids: TokenIds) -> Logits:
    """token_ids [rows, time] → logits [rows, time, vocab], straight from the model."""
    with torch.inference_mode():
        logits, _ = model(torch.from_numpy(token_ids), model.initial_state(len(token_ids)))
    result: Logits = logits.numpy()
    return result


def assert_close(found: Logits, expected: Logits, *, exact: bool) -> None:
    """fp32 differs in the last bits; 8-bit weights and activations by hundredths of what logits differ among them."""
    if exact:
        np.testing.assert_allclose(found, expected, atol=2e-5, rtol=1e-5)
        return
    spread = expected.std()
    assert np.abs(found - expected).mean() < 0.05 * spread
    assert np.abs(found - expected).max() < 0.5 * spread


@pytest.mark.parametrize("kind", ["torch", "onnx"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    ("num_layers", "hidden_size", "embedding_size", "members"),
    [(1, 33, 8, 1), (2, 17, 5, 1), (3, 3, 16, 1), (2, 1, 2, 1), (1, 17, 6, 2), (2, 9, 5, 3)],
)
def test_stepping_and_reading_give_the_models_logits(
    kind: str, cell: str, num_layers: int, hidden_size: int, embedding_size: int, members: int
) -> None:
    shape = {"num_layers": num_layers, "hidden_size": hidden_size, "embedding_size": embedding_size}
    model = tiny_model(cell, members=members, **shape)
    backend = opened(kind, model)
    tokens = np.random.default_rng(0).integers(0, VOCAB, size=(3, 11))
    expected = reference(model, tokens)
    pool = backend.open_pool(3)
    stepped = np.stack([pool.step(np.arange(3), tokens[:, place]) for place in range(11)], 1)
    assert stepped.dtype == np.float32
    assert_close(stepped, expected, exact=kind == "torch")

    other = backend.open_pool(3)
    other.read_many(np.array([2, 0]), [tokens[2, :7], tokens[0, :4]])
    assert_close(other.step(np.array([0]), tokens[0, 4:5]), expected[:1, 4], exact=kind == "torch")
    assert_close(other.read_all(2, tokens[2, 7:]), expected[2, 7:], exact=kind == "torch")
    assert_close(other.read_all(1, tokens[1]), expected[1], exact=kind == "torch")


@pytest.mark.parametrize("kind", ["torch", "onnx"])
@given(
    cell=cells,
    hidden=hidden_sizes,
    embedding=st.integers(1, 20),
    layers=st.integers(1, 3),
    members=st.integers(1, 3),
    data=st.data(),
)
@settings(max_examples=12)
def test_any_shape_writes_what_the_reference_writes(
    kind: str, cell: str, hidden: int, embedding: int, layers: int, members: int, data: st.DataObject
) -> None:
    """Logits first; then tokens: of a greedy text that the backend wrote, none was worse than the reference's best."""
    shape = {"hidden_size": hidden, "embedding_size": embedding, "num_layers": layers, "members": members}
    model = tiny_model(cell, seed=data.draw(st.integers(0, 99)), **shape)
    backend = opened(kind, model)
    prompt = data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=5))
    with Engine(backend) as engine:
        *_, finished = engine.submit(request(*prompt, temperature=0.0, max_new_tokens=8, eos_id=None))
    written = finished.hypotheses[0].token_ids  # type: ignore[union-attr]
    context = np.array([[*prompt, *written]], dtype=np.int64)
    expected = reference(model, context)[0]
    assert_close(backend.open_pool(1).read_all(0, context[0]), expected, exact=kind == "torch")
    before = expected[len(prompt) - 1 : -1]  # [new tokens, vocab]
    lost = before.max(1) - before[np.arange(8), list(written)]
    assert lost.max() <= (1e-4 if kind == "torch" else 0.5 * expected.std())


def test_what_a_backend_tells_of_itself(backend: Backend, model: LanguageModel) -> None:
    assert backend.vocab_size == VOCAB
    assert backend.state_size == 2 * 2 * 24
    assert backend.model_hash == fingerprint(model)
    assert backend.note is None
    # At least a byte for each weight, and no more than fp32 and some for the graph.
    assert model.num_parameters <= backend.size_bytes <= 4 * model.num_parameters + 40_000
    assert isinstance(backend, TorchBackend) == (not backend.exact_rows)


@pytest.fixture(params=["torch", "onnx", "table"])
def any_backend(request: pytest.FixtureRequest) -> Backend:
    """The backends, and the one that the tests themselves rely on."""
    if request.param == "table":
        return TableBackend(lambda token, count: np.arange(VOCAB) + token * count, VOCAB)
    found: Backend = request.getfixturevalue(f"{request.param}_backend")
    return found


def test_new_rows_are_at_the_state_before_any_text(any_backend: Backend) -> None:
    pool = any_backend.open_pool(2)
    assert pool.capacity == 2
    assert pool.get(1).shape == (any_backend.state_size,)
    assert pool.get(1).dtype == np.float32
    first = pool.step(np.array([1]), np.array([7]))
    assert pool.get(1).any()
    pool.reset(np.array([1]))
    assert not pool.get(1).any()
    np.testing.assert_array_equal(pool.step(np.array([1]), np.array([7])), first)


def test_growing_keeps_what_is_there(any_backend: Backend) -> None:
    pool = any_backend.open_pool(2)
    pool.step(np.array([0, 1]), np.array([5, 6]))
    before = [pool.get(row) for row in range(2)]
    pool.grow(5)
    assert pool.capacity == 5
    for row in range(2):
        np.testing.assert_array_equal(pool.get(row), before[row])
    for row in range(2, 5):
        assert not pool.get(row).any()
    pool.step(np.array([4]), np.array([5]))
    np.testing.assert_allclose(pool.get(4), before[0], atol=1e-6)


def test_only_the_rows_named_change(any_backend: Backend) -> None:
    pool = any_backend.open_pool(4)
    pool.read_many(np.arange(4), [np.full(row + 1, 5 + row) for row in range(4)])
    before = [pool.get(row) for row in range(4)]
    pool.step(np.array([2]), np.array([9]))
    pool.read_many(np.array([0]), [np.array([9, 9])])
    for row in (1, 3):
        np.testing.assert_array_equal(pool.get(row), before[row])
    for row in (0, 2):
        assert (pool.get(row) != before[row]).any()


def test_the_order_of_slots_is_that_of_the_tokens_and_logits(any_backend: Backend) -> None:
    pool, other = any_backend.open_pool(3), any_backend.open_pool(3)
    tokens = np.array([5, 6, 7])
    forward = pool.step(np.array([0, 1, 2]), tokens)
    backward = other.step(np.array([2, 1, 0]), tokens[::-1].copy())
    np.testing.assert_allclose(backward[::-1], forward, atol=1e-5)
    for row in range(3):
        np.testing.assert_allclose(other.get(row), pool.get(row), atol=1e-6)


@given(data=st.data())
@settings(max_examples=40)
def test_copies_are_of_what_was_there_before(
    torch_backend: Backend, onnx_backend: Backend, data: st.DataObject
) -> None:
    """Also where a row is both read and written, as when beams change places."""
    for backend in (torch_backend, onnx_backend):
        pool = backend.open_pool(6)
        pool.read_many(np.arange(6), [np.full(row + 1, 5 + row) for row in range(6)])
        before = [pool.get(row) for row in range(6)]
        targets = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=6, unique=True))
        sources = data.draw(st.lists(st.integers(0, 5), min_size=len(targets), max_size=len(targets)))
        pool.copy(np.array(sources), np.array(targets))
        expected = dict(zip(targets, sources, strict=True))
        for row in range(6):
            np.testing.assert_array_equal(pool.get(row), before[expected.get(row, row)])


def test_rows_read_out_are_copies_and_go_in_again(any_backend: Backend) -> None:
    pool = any_backend.open_pool(3)
    pool.step(np.array([1]), np.array([7]))
    taken = pool.get(1)
    kept = taken.copy()
    expected = pool.step(np.array([1]), np.array([8]))
    np.testing.assert_array_equal(taken, kept)
    assert (pool.get(1) != kept).any()
    taken.flags.writeable = False  # as those of snapshots and of the prefix cache
    pool.put(2, taken)
    pool.step(np.array([2]), np.array([9]))
    np.testing.assert_array_equal(taken, kept)
    pool.put(2, taken)
    np.testing.assert_array_equal(pool.step(np.array([2]), np.array([8])), expected)


def test_pools_of_a_backend_know_nothing_of_one_another(any_backend: Backend) -> None:
    pool, other = any_backend.open_pool(1), any_backend.open_pool(1)
    pool.step(np.array([0]), np.array([7]))
    assert not other.get(0).any()


def test_a_row_of_state_means_the_same_to_all_backends(torch_backend: Backend, onnx_backend: Backend) -> None:
    """Layer by layer, and h before c; so a text begun by one may be continued by another."""
    tokens = np.array([1, 5, 6, 7, 8])
    pools = [torch_backend.open_pool(1), onnx_backend.open_pool(1)]
    for pool in pools:
        pool.read_many(np.array([0]), [tokens])
    one, other = (pool.get(0) for pool in pools)
    np.testing.assert_allclose(one, other, atol=0.05)
    assert np.abs(one).max() > 0.3
    pools[1].put(0, one)
    logits = pools[1].step(np.array([0]), np.array([9]))
    assert_close(logits, pools[0].step(np.array([0]), np.array([9])), exact=False)


def test_the_state_is_laid_out_as_said(model: LanguageModel, torch_backend: Backend) -> None:
    pool = torch_backend.open_pool(1)
    pool.read_many(np.array([0]), [np.array([1, 5, 6])])
    with torch.inference_mode():
        _, state = model(torch.tensor([[1, 5, 6]]), model.initial_state(1))
    expected = np.concatenate([part[0].numpy() for layer in state.layers for part in layer])
    np.testing.assert_allclose(pool.get(0), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_no_nan_gets_lost_on_the_way_to_the_logits(kind: str) -> None:
    """One wrong number anywhere but in a token's own embedding leaves no logits to choose from."""
    names = [name for name, _ in tiny_model("lstm", hidden_size=5).named_parameters() if name != "embedding"]
    for number, name in enumerate(names):
        for place in (0, -1):
            model = tiny_model("lstm", hidden_size=5)
            with torch.no_grad():
                model.get_parameter(name).view(-1)[place] = float("nan")
            pool = opened(kind, model).open_pool(1)
            logits = pool.step(np.array([0]), np.array([5 + number]))
            logits = np.concatenate([logits, pool.read_all(0, np.array([6, 7]))])
            sequence = SampledSequence(request(temperature=0.0), 0)
            (choice,) = Sampler([sequence]).choose(logits[-1:])
            assert isinstance(choice, Exception), (name, place)
