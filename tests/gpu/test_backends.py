"""Every backend that runs on a GPU, against the reference on the processor; and graphs, against the same without."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from tests.engine.helpers import VOCAB, request, tiny_model
from tests.engine.test_device_backend import TOLERANCES, assert_close, stepped
from textgen.config import CELLS, ModelSettings
from textgen.engine import Backend, StatePool, TorchBackend, open_backend
from textgen.engine.backends import DrawingPool
from textgen.engine.device_backend import DeviceBackend, best_dtype
from textgen.engine.sampling import SampledSequence, Sampler, draws_for, take_drawn
from textgen.model import LanguageModel

pytestmark = pytest.mark.gpu


def drawing(pool: StatePool) -> DrawingPool:
    assert isinstance(pool, DrawingPool)
    return pool


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", ["torch", *TOLERANCES], ids=str)
def test_logits_are_those_of_the_reference(kind: str | torch.dtype, cell: str, cuda: torch.device) -> None:
    for hidden, embedding, layers in ((64, 32, 2), (33, 8, 1), (17, 5, 2)):
        model = tiny_model(cell, hidden_size=hidden, embedding_size=embedding, num_layers=layers)
        tokens = np.random.default_rng(0).integers(0, VOCAB, (3, 40))
        expected = stepped(TorchBackend(model).open_pool(3), tokens)
        backend: Backend
        dtype = torch.float32
        if isinstance(kind, torch.dtype):
            dtype = kind
            backend = DeviceBackend(model, cuda, dtype)
            assert "CUDA graphs" in backend.name
            assert backend.note is None
        else:
            backend = TorchBackend(model, cuda)
        pool = backend.open_pool(3)
        assert_close(stepped(pool, tokens), expected, dtype)
        pool.reset(np.arange(3))
        pool.read_many(np.array([2, 0]), [tokens[2, :27], tokens[0, :3]])
        assert_close(pool.step(np.array([0, 2]), tokens[[0, 2], [3, 27]]), expected[[0, 2], [3, 27]], dtype)
        assert_close(pool.read_all(1, tokens[1]), expected[1], dtype)


def test_the_fast_one_is_taken(cuda: torch.device) -> None:
    backend = open_backend(tiny_model(hidden_size=64), device=cuda)
    kind = {torch.bfloat16: "bf16", torch.float16: "fp16"}[best_dtype(cuda)]
    assert backend.name == f"PyTorch {kind} on {torch.cuda.get_device_name(cuda)}, CUDA graphs"
    assert backend.note is None
    assert isinstance(open_backend(tiny_model(), device=cuda, kind="torch"), TorchBackend)


def test_logits_in_half_precision_hardly_ever_tie(cuda: torch.device) -> None:
    """They are sums in fp32: rounded to bf16, many of these would not tell a token from another."""
    backend = DeviceBackend(tiny_model(vocab_size=400, embedding_size=64, hidden_size=64), cuda)
    (logits,) = backend.open_pool(1).step(np.array([0]), np.array([5]))
    assert np.unique(logits).size > 390


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_graphs_give_what_the_same_operations_give_without(dtype: torch.dtype, cuda: torch.device) -> None:
    """Whatever the bucket, in any order, and after the pool has grown."""
    model = tiny_model(hidden_size=64, embedding_size=32)
    pools = [DeviceBackend(model, cuda, dtype, use_graphs=graphs).open_pool(4) for graphs in (True, False)]
    rng = np.random.default_rng(0)
    for capacity in (4, 9, 40):
        for pool in pools:
            pool.grow(capacity)
        for _ in range(12):
            rows = int(rng.integers(1, capacity + 1))
            slots, tokens = rng.permutation(capacity)[:rows], rng.integers(0, VOCAB, rows)
            texts = [rng.integers(0, VOCAB, rng.integers(1, 90)) for _ in range(min(rows, 5))]
            moved = rng.permutation(capacity)[: 2 * (capacity // 2)].reshape(2, -1)
            logits = []
            for pool in pools:
                logits.append(pool.step(slots, tokens))
                pool.read_many(slots[: len(texts)], texts)
                pool.copy(*moved)
                pool.reset(slots[-1:])
            assert_close(logits[0], logits[1], dtype)
        for slot in range(capacity):
            np.testing.assert_allclose(pools[0].get(slot), pools[1].get(slot), atol=5e-2)


def test_tokens_are_those_that_the_sampler_chooses(cuda: torch.device) -> None:
    backend = DeviceBackend(tiny_model(hidden_size=64, embedding_size=32), cuda)
    wishes = [
        request(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, forbidden_ids=frozenset({0, 1, 3}))
        for temperature in (0.0, 0.7, 1.5)
        for top_k in (0, 5)
        for top_p in (1.0, 0.8)
        for min_p in (0.0, 0.1)
    ]
    expected, found = ([SampledSequence(wish, row) for row, wish in enumerate(wishes)] for _ in range(2))
    slots, tokens = np.arange(len(wishes)), np.full(len(wishes), 5)
    drawn = drawing(backend.open_pool(slots.size)).step_and_draw(slots, tokens, draws_for(found, 8))
    for sequence, *row in zip(found, *drawn, strict=True):
        assert len(list(take_drawn(sequence, *(part.tolist() for part in row)))) == 8
    pool = backend.open_pool(slots.size)
    for _ in range(8):
        choices = Sampler(expected).choose(pool.step(slots, tokens))
        tokens = np.array([choice.event.token_id for choice in choices if not isinstance(choice, Exception)])
    for one, other in zip(expected, found, strict=True):
        assert other.token_ids == one.token_ids
        assert other.hypothesis().score == pytest.approx(one.hypothesis().score, abs=1e-3)


def test_a_broken_model_breaks_nothing_else(cuda: torch.device) -> None:
    """A wrong place in a table would end the process's use of the device for good."""
    model = tiny_model()
    with torch.no_grad():
        model.output_bias[9] = float("nan")
    backend = DeviceBackend(model, cuda)
    sequences = [SampledSequence(request(temperature=temperature), 0) for temperature in (0.0, 1.0)]
    drawn = drawing(backend.open_pool(2)).step_and_draw(np.arange(2), np.full(2, 5), draws_for(sequences, 8))
    assert np.isnan(drawn.logprobs).all()
    assert np.isnan(backend.open_pool(1).step(np.array([0]), np.array([5]))).any()


def test_graphs_are_captured_while_other_threads_use_the_device(cuda: torch.device) -> None:
    """Training, for one; and other models, whose graphs are captured at the same time."""
    ended = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        weights = torch.randn(300, 300, device=cuda, requires_grad=True)
        while not ended.is_set():
            (torch.randn(300, 300).to(cuda) @ weights).square().mean().backward()
            weights.grad = None

    def use(number: int) -> None:
        try:
            model = tiny_model(seed=number)
            pool = DeviceBackend(model, cuda, torch.float32).open_pool(16)
            reference = TorchBackend(model).open_pool(16)
            for rows in (1, 2, 3, 5, 16):
                slots, tokens = np.arange(rows), np.arange(rows) + 5
                assert_close(pool.step(slots, tokens), reference.step(slots, tokens), torch.float32)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(3)]
    busy = threading.Thread(target=work)
    for thread in (busy, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    ended.set()
    busy.join()
    assert not failures


def test_a_large_model_fits_its_weights_only_once_more(cuda: torch.device) -> None:
    settings = ModelSettings(vocab_size=8000, embedding_size=512, hidden_size=1024, num_layers=2)
    model = LanguageModel(settings)
    model.reset_parameters(0)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(cuda)
    backend = DeviceBackend(model, cuda)
    pool = backend.open_pool(128)
    pool.step(np.arange(128), np.full(128, 5))
    reference = TorchBackend(model).open_pool(1)
    expected = reference.step(np.array([0]), np.array([5]))
    pool.reset(np.array([0]))
    assert_close(pool.step(np.array([0]), np.array([5])), expected, torch.bfloat16)
    assert backend.size_bytes < 2.2 * model.num_parameters
    assert torch.cuda.memory_allocated(cuda) - before < 3 * backend.size_bytes
