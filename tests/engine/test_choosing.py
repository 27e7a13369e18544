"""Which backend is taken, and what is said where it is not the fastest."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.engine.helpers import request, tiny_model
from textgen.config import CELLS
from textgen.engine import Engine, TorchBackend, open_backend
from textgen.engine.choosing import available_threads
from textgen.engine.onnx_backend import OnnxBackend
from textgen.engine.onnx_model import OnnxModel, build_onnx_model, cached_onnx_model
from textgen.errors import BackendUnavailable, BrokenModel
from textgen.model import LanguageModel
from textgen.model.cells import LSTM


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("hidden_size", [1, 4, 33])
def test_a_processor_gets_onnx(cell: str, hidden_size: int) -> None:
    backend = open_backend(tiny_model(cell, hidden_size=hidden_size), threads=1)
    assert isinstance(backend, OnnxBackend)
    assert (backend.name, backend.note) == ("ONNX Runtime int8, 1 thread", None)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("cell", CELLS)
def test_models_that_have_learned_nothing_yet_get_it_too(cell: str, seed: int) -> None:
    """Their logits hardly differ, but for those of tokens that are never predicted."""
    model = tiny_model(cell)
    model.reset_parameters(seed, never_predicted=(0, 1, 3))
    assert isinstance(open_backend(model, threads=1), OnnxBackend)


def test_a_model_with_fewer_tokens_than_the_probe_has_is_no_trouble() -> None:
    assert isinstance(open_backend(tiny_model(vocab_size=4), threads=1), OnnxBackend)


def test_a_half_precision_model_gets_it_too() -> None:
    model = tiny_model()
    expected = open_backend(model, threads=1).open_pool(1).step(np.array([0]), np.array([5]))
    for kind in (torch.bfloat16, torch.float16):
        backend = open_backend(tiny_model().to(kind), threads=1)
        assert isinstance(backend, OnnxBackend)
        found = backend.open_pool(1).step(np.array([0]), np.array([5]))
        assert np.abs(found - expected).mean() < 0.1 * expected.std()


def test_pytorch_can_be_asked_for() -> None:
    backend = open_backend(tiny_model(), kind="torch")
    assert isinstance(backend, TorchBackend)
    assert backend.note is None


def assert_falls_back(model: LanguageModel, reason: str, cache_folder: Path | None = None) -> None:
    with pytest.raises(BackendUnavailable, match=reason) as caught:
        open_backend(model, kind="onnx", threads=1, cache_folder=cache_folder)
    backend = open_backend(model, threads=1, cache_folder=cache_folder)
    assert isinstance(backend, TorchBackend)
    assert backend.note == caught.value.reason
    with Engine(backend) as engine:
        *tokens, _ = engine.submit(request(max_new_tokens=3, eos_id=None))
        assert len(tokens) == 3


def test_without_onnxruntime_pytorch_runs_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "textgen.engine.onnx_backend")
    assert_falls_back(tiny_model(), "onnxruntime is not installed")


def test_without_onnx_pytorch_runs_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "textgen.engine.onnx_graph", raising=False)
    monkeypatch.delitem(sys.modules, "textgen.engine.onnx_cells", raising=False)
    assert_falls_back(tiny_model(), "onnx is not installed")


def test_a_cell_without_a_graph_runs_in_pytorch() -> None:
    class Peephole(LSTM):
        pass

    model = tiny_model()
    model.layers[0].__class__ = Peephole
    assert_falls_back(model, "Peephole")


def put_in_cache(folder: Path, model: LanguageModel, graphs: OnnxModel) -> None:
    """Undamaged, but not what the model needs: what a bug or a strange processor would make of it."""
    cached_onnx_model(model, folder)
    (path,) = folder.iterdir()
    path.write_bytes(graphs.to_bytes())


def test_graphs_that_compute_something_else_are_not_used(tmp_path: Path) -> None:
    model = tiny_model()
    put_in_cache(tmp_path, model, build_onnx_model(tiny_model(seed=1)))
    assert_falls_back(model, "computes it wrongly", tmp_path)


def test_graphs_of_another_shape_are_not_used(tmp_path: Path) -> None:
    model = tiny_model()
    put_in_cache(tmp_path, model, build_onnx_model(tiny_model(vocab_size=20)))
    assert_falls_back(model, "does not suit it", tmp_path)


def test_graphs_that_onnxruntime_cannot_load_are_not_used(tmp_path: Path) -> None:
    model = tiny_model()
    good = build_onnx_model(model)
    bad = OnnxModel(good.model_hash, good.state_size, b"no graph", good.prefill, good.head, good.gates)
    put_in_cache(tmp_path, model, bad)
    assert_falls_back(model, "does not suit it", tmp_path)


def test_onnx_is_for_processors_only() -> None:
    with pytest.raises(BackendUnavailable, match="not on meta"):
        open_backend(tiny_model(), device="meta", kind="onnx")


def test_graphs_are_kept_where_told_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, cache = tmp_path / "checkpoint", tmp_path / "cache"
    checkpoint.mkdir()
    monkeypatch.chdir(checkpoint)
    open_backend(tiny_model(), threads=1, cache_folder=cache)
    assert list(checkpoint.iterdir()) == []
    assert len(list(cache.iterdir())) == 1
    open_backend(tiny_model(), threads=1)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("kind", ["torch", "onnx", "auto"])
@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("name", ["layers.0.fused.weight_hh_l0", "layers.1.fused.bias_ih_l0", "projection.weight"])
def test_a_model_with_nan_weights_is_called_broken(kind: str, beams: int, name: str) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.get_parameter(name).view(-1)[-1] = float("nan")
    with Engine(open_backend(model, kind=kind, threads=1)) as engine:  # type: ignore[arg-type]
        with pytest.raises(BrokenModel):
            list(engine.submit(request(num_beams=beams)))
        with pytest.raises(BrokenModel):
            list(engine.submit(request(1, num_beams=beams)))  # nothing to be read before
        with pytest.raises(BrokenModel):
            engine.score((1, 5, 6))
        assert engine.live_rows == 0


def test_a_token_with_a_nan_embedding_breaks_all_others() -> None:
    """Its logit is no number from the first step on."""
    for kind in ("torch", "onnx"):
        model = tiny_model()
        with torch.no_grad():
            model.embedding[33, 2] = float("nan")
        with Engine(open_backend(model, kind=kind, threads=1)) as engine, pytest.raises(BrokenModel):
            list(engine.submit(request()))


def test_a_place_in_a_text_that_is_no_number_is_no_snapshot() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.embedding[5] = float("nan")
    with Engine(TorchBackend(model)) as engine:
        with pytest.raises(BrokenModel):
            engine.snapshot((1, 5, 6))
        assert engine.snapshot((1, 6, 5)).token_ids == (1, 6, 5)  # the last token is still to be read
        assert not engine.in_use


def test_threads_are_those_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 4, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert available_threads() == 3
    assert open_backend(tiny_model()).name == "ONNX Runtime int8, 3 threads"
    monkeypatch.delattr(os, "sched_getaffinity")
    assert available_threads() == 64
