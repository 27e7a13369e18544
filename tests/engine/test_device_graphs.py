"""Graphs without a GPU: a stand-in records the operations of a capture and repeats them on the same tensors.

It finds what would go wrong on CUDA too: tensors that do not stay in their places, numbers that were read by Python and
so are for ever those of the capture, and captures that change somebody's state.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.engine.helpers import VOCAB, request, tiny_model
from textgen.config import CELLS
from textgen.engine.device_backend import DeviceBackend, DrawingDevicePool
from textgen.engine.device_model import DeviceModel
from textgen.engine.sampling import SampledSequence, draws_for

CPU = torch.device("cpu")


class RecordedGraph:
    """Stands in for `torch.cuda.CUDAGraph`."""

    captured = 0
    replayed = 0

    def __init__(self) -> None:
        self.operations: list[tuple[Any, Any, Any, list[torch.Tensor]]] = []

    def pool(self) -> int:
        return 1

    def replay(self) -> None:
        type(self).replayed += 1
        for function, arguments, options, results in self.operations:
            again = function(*arguments, **options)
            for result, found in zip(results, tensors(again), strict=True):
                if result.data_ptr() != found.data_ptr():
                    result.copy_(found)


class Recorder(TorchDispatchMode):
    def __init__(self, graph: RecordedGraph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "_local_scalar_dense" not in str(function), "a capture cannot look at numbers"
        result = function(*args, **(kwargs or {}))
        self.graph.operations.append((function, args, kwargs or {}, tensors(result)))
        return result


def tensors(result: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]


class Stream:
    def wait_stream(self, other: object) -> None:
        pass


@contextlib.contextmanager
def recorded(graph: RecordedGraph, *, pool: object, stream: object, capture_error_mode: str) -> Iterator[None]:
    RecordedGraph.captured += 1
    with Recorder(graph):
        yield


@pytest.fixture(autouse=True)
def _no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    RecordedGraph.captured = RecordedGraph.replayed = 0
    monkeypatch.setattr(torch.cuda, "CUDAGraph", RecordedGraph)
    monkeypatch.setattr(torch.cuda, "graph", recorded)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *device: Stream())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *device: None)
    for name in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, name, lambda place: contextlib.nullcontext())


def pools(capacity: int, *, cell: str = "lstm", dtype: torch.dtype = torch.float32) -> list[DrawingDevicePool]:
    """One with graphs and one without, of the same model."""
    model = DeviceModel(tiny_model(cell, hidden_size=9), CPU, dtype)
    return [DrawingDevicePool(model, CPU, capacity, use_graphs=graphs) for graphs in (True, False)]


def assert_same_states(pool: DrawingDevicePool, other: DrawingDevicePool) -> None:
    for slot in range(pool.capacity):
        np.testing.assert_array_equal(pool.get(slot), other.get(slot))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_replayed_steps_and_readings_are_those_that_were_asked_for(cell: str, dtype: torch.dtype) -> None:
    graphs, plain = pools(6, cell=cell, dtype=dtype)
    rng = np.random.default_rng(0)
    for number in range(30):
        rows = int(rng.integers(1, 7))
        slots = rng.permutation(6)[:rows]
        tokens = rng.integers(0, VOCAB, rows)
        np.testing.assert_array_equal(graphs.step(slots, tokens), plain.step(slots, tokens))
        if number % 5 == 0:
            texts = [rng.integers(0, VOCAB, rng.integers(1, 90)) for _ in slots]
            for pool in (graphs, plain):
                pool.read_many(slots, texts)
        if number % 7 == 0:
            text = rng.integers(0, VOCAB, 70)
            np.testing.assert_array_equal(graphs.read_all(1, text), plain.read_all(1, text))
        assert_same_states(graphs, plain)
    assert RecordedGraph.captured <= 4 + 2 * 4  # buckets 1, 2, 4 and 8: steps, long and short pieces
    assert RecordedGraph.replayed > 40


@pytest.mark.slow
def test_replayed_draws_are_those_that_were_asked_for() -> None:
    graphs, plain = pools(5)
    rng = np.random.default_rng(0)
    for number in range(40):
        rows = int(rng.integers(1, 6))
        sequences = [
            SampledSequence(
                request(
                    temperature=float(rng.choice([0.0, 0.7, 1.3])),
                    top_k=int(rng.choice([0, 3])),
                    top_p=float(rng.choice([1.0, 0.8])),
                    min_p=float(rng.choice([0.0, 0.1])),
                    forbidden_ids=frozenset(rng.integers(0, VOCAB, 3).tolist()),
                ),
                number,
            )
            for _ in range(rows)
        ]
        slots, tokens = rng.permutation(5)[:rows], rng.integers(0, VOCAB, rows)
        draws = draws_for(sequences, int(rng.choice([1, 8])))
        for found, expected in zip(
            graphs.step_and_draw(slots, tokens, draws), plain.step_and_draw(slots, tokens, draws), strict=True
        ):
            np.testing.assert_array_equal(found, expected)
        assert_same_states(graphs, plain)
        if number == 20:
            for pool in (graphs, plain):
                pool.grow(pool.capacity + 4)
    assert RecordedGraph.captured < RecordedGraph.replayed == 40


def test_greedy_and_drawn_tokens_have_graphs_of_their_own() -> None:
    graphs, plain = pools(1)
    slots, tokens = np.array([0]), np.array([5])
    for temperature in (0.0, 1.3, 0.0, 1.3):
        draws = draws_for([SampledSequence(request(temperature=temperature), 1)], 8)
        found, expected = (pool.step_and_draw(slots, tokens, draws) for pool in (graphs, plain))
        np.testing.assert_array_equal(found.token_ids, expected.token_ids)
        assert found.warped_logprobs.any() == (temperature > 0)
    assert RecordedGraph.captured == 2


def test_a_capture_changes_nobody_s_state() -> None:
    graphs, plain = pools(3)
    for pool in (graphs, plain):
        for slot in range(3):
            pool.put(slot, np.full(pool.get(0).size, 0.25 * slot, dtype=np.float32))
        pool.step(np.array([1]), np.array([5]))
        pool.read_many(np.array([1, 2]), [np.array([6]), np.array([7, 8])])
        pool.step(np.array([0, 1]), np.array([9, 9]))
    assert RecordedGraph.captured == 3
    assert_same_states(graphs, plain)


def test_growing_drops_what_knows_the_old_places() -> None:
    graphs, plain = pools(1)
    for capacity in (1, 2, 5):
        for pool in (graphs, plain):
            pool.grow(capacity)
        slots = np.arange(capacity)
        for _ in range(3):
            np.testing.assert_array_equal(graphs.step(slots[:1], slots[:1] + 5), plain.step(slots[:1], slots[:1] + 5))
        np.testing.assert_array_equal(graphs.step(slots, slots + 9), plain.step(slots, slots + 9))
        assert_same_states(graphs, plain)


def test_without_graphs_it_goes_on_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", fail)
    backend = DeviceBackend(tiny_model(), CPU)
    backend._use_graphs = True  # as on CUDA
    backend._try_graphs()
    assert backend.note == "it captures no CUDA graphs: operation not permitted when stream is capturing"
    assert "graphs" not in backend.name
    assert backend.open_pool(1).step(np.array([0]), np.array([5])).shape == (1, VOCAB)
