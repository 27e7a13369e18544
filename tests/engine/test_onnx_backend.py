"""Exactness: a row's results are the same to the bit, whatever runs beside it and however its text is cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.helpers import VOCAB, open_onnx, tiny_model
from textgen.config import CELLS
from textgen.engine.onnx_backend import OnnxBackend
from textgen.engine.onnx_model import build_onnx_model
from textgen.engine.snapshots import Snapshot

SHAPES = [(33, 8, 1), (17, 5, 2), (3, 16, 3), (1, 2, 2), (16, 4, 1)]  # hidden, embedding, layers


@pytest.fixture(scope="module")
def backends() -> list[OnnxBackend]:
    """Every cell in shapes that vector instructions divide and in shapes that they do not."""
    return [
        open_onnx(tiny_model(cell, hidden_size=hidden, embedding_size=embedding, num_layers=layers, seed=number))
        for number, cell in enumerate(CELLS)
        for hidden, embedding, layers in SHAPES
    ]


def stepped(backend: OnnxBackend, tokens: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Logits [time, vocab] and the last state of a text read alone, token by token."""
    pool = backend.open_pool(1)
    logits = [pool.step(np.array([0]), np.array([token])) for token in tokens]
    return np.concatenate(logits), pool.get(0)


texts = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9)


@pytest.mark.slow
@given(number=st.integers(0, len(CELLS) * len(SHAPES) - 1), data=st.data())
@settings(max_examples=60)
def test_rows_are_the_same_alone_and_in_any_batch_in_any_order(
    backends: list[OnnxBackend], number: int, data: st.DataObject
) -> None:
    backend = backends[number]
    rows = data.draw(st.integers(1, 40))
    tokens = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, VOCAB, (rows, 3))
    order = np.array(data.draw(st.permutations(range(rows))))
    pool = backend.open_pool(rows)
    together = [pool.step(order, tokens[order, place]) for place in range(3)]
    for place in range(0, rows, max(1, rows // 4)):
        logits, state = stepped(backend, tokens[order[place]].tolist())
        for step in range(3):
            np.testing.assert_array_equal(together[step][place], logits[step])
        np.testing.assert_array_equal(pool.get(int(order[place])), state)


@given(number=st.integers(0, len(CELLS) * len(SHAPES) - 1), data=st.data())
@settings(max_examples=60)
def test_a_text_is_the_same_however_it_is_cut_and_read(
    backends: list[OnnxBackend], number: int, data: st.DataObject
) -> None:
    """Step by step, with others of other lengths, or in one go with all logits, in any mixture."""
    backend = backends[number]
    text = np.array(data.draw(texts))
    logits, state = stepped(backend, text.tolist())
    pool = backend.open_pool(4)
    read = 0
    while read < text.size:
        piece = text[read : read + data.draw(st.integers(1, text.size - read))]
        way = data.draw(st.sampled_from(("step", "many", "all")))
        if way == "step":
            piece = piece[:1]
            found = pool.step(np.array([3, 1]), np.array([7, piece[0]]))[1:]
            np.testing.assert_array_equal(found, logits[read : read + 1])
        elif way == "many":
            others = [np.array(data.draw(texts)) for _ in range(data.draw(st.integers(0, 3)))]
            place = data.draw(st.integers(0, len(others)))
            slots = [0, 2, 3][: len(others)]
            slots.insert(place, 1)
            pool.read_many(np.array(slots), [*others[:place], piece, *others[place:]])
        else:
            np.testing.assert_array_equal(pool.read_all(1, piece), logits[read : read + piece.size])
        read += piece.size
    np.testing.assert_array_equal(pool.get(1), state)


def test_many_rows_at_once_and_long_texts(backends: list[OnnxBackend]) -> None:
    """Past the sizes at which the runtime's own kernels go over to another way of working."""
    tokens = np.random.default_rng(1).integers(0, VOCAB, (150, 2))
    for backend in backends[::3]:
        pool = backend.open_pool(150)
        pool.step(np.arange(150), tokens[:, 0])
        together = pool.step(np.arange(150), tokens[:, 1])
        for row in (0, 77, 149):
            np.testing.assert_array_equal(together[row], stepped(backend, tokens[row].tolist())[0][1])
        text = np.resize(tokens, 300)
        logits, state = stepped(backend, text.tolist())
        pool.reset(np.array([5]))
        np.testing.assert_array_equal(pool.read_all(5, text), logits)
        np.testing.assert_array_equal(pool.get(5), state)


def test_the_number_of_threads_changes_nothing() -> None:
    graphs = build_onnx_model(tiny_model("lstm", hidden_size=33))
    tokens = np.random.default_rng(2).integers(0, VOCAB, 20)
    one, two = (OnnxBackend(graphs, threads=count) for count in (1, 2))
    np.testing.assert_array_equal(one.open_pool(1).read_all(0, tokens), two.open_pool(1).read_all(0, tokens))
    np.testing.assert_array_equal(
        one.open_pool(20).step(np.arange(20), tokens), two.open_pool(20).step(np.arange(20), tokens)
    )
    assert (one.name, two.name) == ("ONNX Runtime int8, 1 thread", "ONNX Runtime int8, 2 threads")


def test_snapshots_cross_to_another_pool_of_another_session() -> None:
    model = tiny_model("update-gate-lstm")
    pool = open_onnx(model).open_pool(3)
    text = np.array([1, 5, 6, 7])
    pool.read_many(np.array([2]), [text])
    snapshot = Snapshot("0" * 64, (*text.tolist(), 8), pool.get(2))
    other = open_onnx(model).open_pool(5)
    other.put(4, Snapshot.from_bytes(snapshot.to_bytes()).state)
    np.testing.assert_array_equal(other.step(np.array([4]), np.array([8])), pool.step(np.array([2]), np.array([8])))


def test_a_pool_grows_without_a_copy_and_takes_memory_only_for_rows_that_are_used() -> None:
    backend = open_onnx(tiny_model(hidden_size=17))
    pool = backend.open_pool(3)
    pool.step(np.array([2]), np.array([5]))
    row, storage = pool.get(2), pool._rows
    pool.grow(900)
    assert pool._rows is storage
    assert pool.capacity == 900
    pool.grow(5)
    assert pool.capacity == 900
    pool.grow(3_000)
    assert (pool.capacity, pool._rows is storage) == (3_000, False)
    np.testing.assert_array_equal(pool.get(2), row)
    np.testing.assert_array_equal(pool.get(2_999), 0.0)
