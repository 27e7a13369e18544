"""Graphs are built once and kept, wherever and as far as that can be done."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.helpers import tiny_model
from textgen.engine.onnx_backend import OnnxBackend
from textgen.engine.onnx_model import OnnxModel, build_onnx_model, cached_onnx_model
from textgen.errors import BackendUnavailable
from textgen.model.fingerprint import fingerprint

SMALL: dict[str, Any] = {"hidden_size": 3, "embedding_size": 2, "num_layers": 1}


def same(one: OnnxModel, other: OnnxModel) -> bool:
    return one.to_bytes() == other.to_bytes() and one.model_hash == other.model_hash


def without_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where onnx is not installed: graphs can be run but not built."""
    monkeypatch.setitem(sys.modules, "onnx", None)
    for name in ("onnx_graph", "onnx_cells"):
        monkeypatch.delitem(sys.modules, f"textgen.engine.{name}", raising=False)


def test_graphs_come_from_the_cache_the_second_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(**SMALL)
    folder = tmp_path / "cache" / "graphs"
    built = cached_onnx_model(model, folder)
    (path,) = folder.iterdir()
    assert path.name.startswith(fingerprint(model))
    before = path.stat()
    without_builder(monkeypatch)
    assert same(cached_onnx_model(tiny_model(**SMALL), folder), built)  # another object, the same model
    assert (path.stat().st_ino, path.stat().st_size) == (before.st_ino, before.st_size)
    with pytest.raises(BackendUnavailable, match="onnx is not installed"):
        cached_onnx_model(tiny_model(**SMALL, seed=1), folder)
    with pytest.raises(BackendUnavailable, match="onnx is not installed"):
        cached_onnx_model(model, None)


def test_graphs_from_the_cache_compute_the_same(tmp_path: Path) -> None:
    model = tiny_model("gru")
    fresh, kept = (OnnxBackend(cached_onnx_model(model, tmp_path), threads=1).open_pool(1) for _ in range(2))
    tokens = np.arange(10)
    np.testing.assert_array_equal(fresh.read_all(0, tokens), kept.read_all(0, tokens))


def test_another_model_gets_other_graphs(tmp_path: Path) -> None:
    models = [tiny_model(**SMALL), tiny_model(**SMALL, seed=1), tiny_model("gru", **SMALL)]
    found = [cached_onnx_model(model, tmp_path) for model in models]
    assert len({one.to_bytes() for one in found}) == 3
    assert len(list(tmp_path.iterdir())) == 3
    assert [one.model_hash for one in found] == [fingerprint(model) for model in models]


DATA = build_onnx_model(tiny_model(**SMALL)).to_bytes()


@given(place=st.integers(0, len(DATA) - 1), bit=st.integers(0, 7))
@settings(max_examples=200)
def test_no_bit_may_be_wrong(place: int, bit: int) -> None:
    damaged = bytearray(DATA)
    damaged[place] ^= 1 << bit
    found = OnnxModel.from_bytes(bytes(damaged), "0" * 64)
    assert found is None or found.to_bytes() == DATA


@given(size=st.integers(0, len(DATA) - 1))
@settings(max_examples=50)
def test_nothing_may_be_missing(size: int) -> None:
    assert OnnxModel.from_bytes(DATA[:size], "0" * 64) is None


@given(data=st.binary(max_size=100))
def test_wild_bytes_are_no_graphs(data: bytes) -> None:
    assert OnnxModel.from_bytes(data, "0" * 64) is None


def test_a_damaged_file_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(**SMALL)
    built = cached_onnx_model(model, tmp_path)
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    for bad in (b"", good[:-5], good[:-1] + bytes([good[-1] ^ 1])):
        path.write_bytes(bad)
        assert same(cached_onnx_model(model, tmp_path), built)
        assert path.read_bytes() == good
    without_builder(monkeypatch)
    assert same(cached_onnx_model(model, tmp_path), built)


def test_a_folder_that_cannot_be_written_costs_the_cache_only(tmp_path: Path) -> None:
    """A file stands where the folder should be: refused to every user, root too."""
    model = tiny_model(**SMALL)
    (tmp_path / "file").write_text("here I am")
    for folder in (tmp_path / "file", tmp_path / "file" / "cache"):
        assert same(cached_onnx_model(model, folder), build_onnx_model(model))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "here I am"


def test_a_cache_of_somebody_else_may_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where files may be read, but their times not be changed."""
    model = tiny_model(**SMALL)
    built = cached_onnx_model(model, tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    without_builder(monkeypatch)
    assert same(cached_onnx_model(model, tmp_path), built)


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    model = tiny_model(**SMALL)
    assert same(cached_onnx_model(model, tmp_path), build_onnx_model(model))
    assert list(tmp_path.iterdir()) == []


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    models = [tiny_model(**SMALL, seed=seed) for seed in range(4)]
    for number, model in enumerate(models[:3]):
        cached_onnx_model(model, tmp_path)
        os.utime(next(tmp_path.glob(f"{fingerprint(model)}*")), (1_000 + number, 1_000 + number))
    each = max(path.stat().st_size for path in tmp_path.iterdir())
    other = tmp_path / "notes.txt"
    other.write_text("not mine to remove")
    cached_onnx_model(models[0], tmp_path)  # used just now, though it is the oldest
    cached_onnx_model(models[3], tmp_path, max_bytes=2 * each + each // 2)
    kept = {path.name[:64] for path in tmp_path.iterdir()} - {"notes.txt"}
    assert kept == {fingerprint(models[0]), fingerprint(models[3])}
    assert other.exists()


def test_graphs_larger_than_the_whole_cache_are_kept_alone(tmp_path: Path) -> None:
    for seed in range(2):
        cached_onnx_model(tiny_model(**SMALL, seed=seed), tmp_path, max_bytes=1)
    (path,) = tmp_path.iterdir()
    assert path.name.startswith(fingerprint(tiny_model(**SMALL, seed=1)))


def test_without_a_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = tiny_model(**SMALL)
    assert same(cached_onnx_model(model, None), build_onnx_model(model))
    assert list(tmp_path.iterdir()) == []


def test_weights_too_large_for_the_table_are_refused() -> None:
    model = tiny_model(**SMALL)
    with torch.no_grad():
        model.embedding[7] *= 1e6
    with pytest.raises(BackendUnavailable, match="too large"):
        build_onnx_model(model)


def test_its_size_is_that_of_its_parts() -> None:
    found = build_onnx_model(tiny_model(**SMALL))
    assert len(DATA) - 2_000 < found.size_bytes < len(DATA)
    assert (found.vocab_size, found.state_size) == (40, 6)
