"""Weights in several files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from textgen.errors import BadCheckpoint
from textgen.limits import Limits
from textgen.model import LanguageModel
from textgen.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from textgen.model.weight_files import WEIGHTS, WEIGHTS_INDEX, weight_files
from textgen.model.weights import read_weights, write_weights

WEIGHTS_GIVEN = {
    "a": torch.arange(6_000.0).reshape(60, 100),
    "b": torch.linspace(-1.0, 1.0, 7_000).reshape(7, 1_000),
    "c": torch.tensor([1e6, -2.0]),
}
SHAPES = {name: tuple(tensor.shape) for name, tensor in WEIGHTS_GIVEN.items()}
MAX_FILE_BYTES = 45_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_weights(tmp_path, WEIGHTS_GIVEN, "float32", max_file_bytes=MAX_FILE_BYTES)
    return tmp_path


def edit_index(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    index = json.loads((folder / WEIGHTS_INDEX).read_text())
    change(index)
    (folder / WEIGHTS_INDEX).write_text(json.dumps(index))


def read(folder: Path, limits: Limits | None = None) -> dict[str, torch.Tensor]:
    return read_weights(folder, SHAPES, "float32", limits or Limits())


def test_several_files_hold_what_one_would(folder: Path) -> None:
    assert not (folder / WEIGHTS).exists()
    shards = sorted(folder.glob("model-*-of-*.safetensors"))
    assert len(shards) == 2
    assert max(path.stat().st_size for path in shards) <= MAX_FILE_BYTES
    assert weight_files(folder) == [folder / WEIGHTS_INDEX, *shards]
    for name, tensor in read(folder).items():
        assert torch.equal(tensor, WEIGHTS_GIVEN[name])


def test_the_index_is_one_that_others_read(folder: Path) -> None:
    index = json.loads((folder / WEIGHTS_INDEX).read_text())
    assert index["weight_map"].keys() == WEIGHTS_GIVEN.keys()
    assert index["metadata"]["total_size"] == sum(tensor.numel() * 4 for tensor in WEIGHTS_GIVEN.values())
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(folder / file)[name], WEIGHTS_GIVEN[name])


@pytest.mark.parametrize("max_file_bytes", [None, 1_000_000])
def test_what_fits_is_one_file(tmp_path: Path, max_file_bytes: int | None) -> None:
    write_weights(tmp_path, WEIGHTS_GIVEN, "float32", max_file_bytes=max_file_bytes)
    assert [path.name for path in tmp_path.iterdir()] == [WEIGHTS]
    assert weight_files(tmp_path) == [tmp_path / WEIGHTS]


def test_a_tensor_larger_than_a_file_may_be_has_one_of_its_own(tmp_path: Path) -> None:
    write_weights(tmp_path, WEIGHTS_GIVEN, "float16", max_file_bytes=100)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) == 3
    weights = read_weights(tmp_path, SHAPES, "float16", Limits())
    assert weights["c"].tolist() == [65504.0, -2.0]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda index: index.pop("weight_map"), "weight_map"),
        (lambda index: index.update(weight_map=["a"]), "weight_map"),
        (lambda index: index["weight_map"].pop("a"), "a"),
        (lambda index: index["weight_map"].update(d="model-00001-of-00002.safetensors"), "d"),
        (lambda index: index["weight_map"].update(a="../model-00001-of-00002.safetensors"), "a"),
        (lambda index: index["weight_map"].update(a="/etc/passwd"), "a"),
        (lambda index: index["weight_map"].update(a=7), "a"),
        (lambda index: index["weight_map"].update(a=index["weight_map"]["b"]), "a"),
        (lambda index: index["weight_map"].update(a="model-00009-of-00009.safetensors"), "file"),
    ],
)
def test_an_index_that_lies_is_refused(folder: Path, change: Callable[[dict[str, Any]], None], field: str) -> None:
    edit_index(folder, change)
    with pytest.raises(BadCheckpoint) as caught:
        read(folder)
    assert caught.value.params["field"] == field


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b"\x80\x04\x95"])
def test_an_index_that_is_none_is_refused(folder: Path, junk: bytes) -> None:
    (folder / WEIGHTS_INDEX).write_bytes(junk)
    with pytest.raises(BadCheckpoint, match="index"):
        read(folder)


def test_a_file_with_more_than_the_index_says_is_refused(folder: Path) -> None:
    shard = next(folder.glob("model-00001-*.safetensors"))
    save_file({**load_file(shard), "extra": torch.ones(2)}, shard)
    with pytest.raises(BadCheckpoint, match="unexpected tensor"):
        read(folder)


def test_all_files_together_are_bounded(folder: Path) -> None:
    with pytest.raises(BadCheckpoint, match="size"):
        read(folder, Limits(max_weights_bytes=50_000))


def test_a_checkpoint_of_several_files_is_the_same_model(
    tmp_path: Path, make_model: Callable[..., LanguageModel]
) -> None:
    model = make_model("lstm")
    save_checkpoint(tmp_path / "model", Checkpoint(model, b"hashed"), max_file_bytes=1_000)
    assert len(weight_files(tmp_path / "model")) > 2
    loaded = load_checkpoint(tmp_path / "model")
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value)
    # Once more as one file: nothing of the old ones stays.
    save_checkpoint(tmp_path / "model", Checkpoint(model, b"hashed"))
    assert weight_files(tmp_path / "model") == [tmp_path / "model" / WEIGHTS]
