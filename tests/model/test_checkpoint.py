from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from textgen.config import GenerationSettings
from textgen.errors import BadCheckpoint, CannotWrite, MissingFile
from textgen.limits import Limits
from textgen.model import LanguageModel, weights
from textgen.model.checkpoint import Checkpoint, is_checkpoint, load_checkpoint, save_checkpoint

TOKENIZER = b"not opened here, only hashed"


@pytest.fixture
def checkpoint(make_model: Callable[..., LanguageModel]) -> Checkpoint:
    return Checkpoint(
        make_model("update-gate-lstm"),
        TOKENIZER,
        generation=GenerationSettings(temperature=0.5, stop=("\n\n",)),
        lineage={"files": ["静夜思.txt"]},
        figures={"nats_per_char": 1.5},
        card="# A model\n",
        copy_index=b"not opened here",
    )


@pytest.fixture
def folder(tmp_path: Path, checkpoint: Checkpoint) -> Path:
    save_checkpoint(tmp_path / "model", checkpoint)
    return tmp_path / "model"


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for name, value in changes.items():
        target, _, inner = name.partition("__")
        if inner:
            config[target][inner] = value
        else:
            config[target] = value
    path.write_text(json.dumps(config), encoding="utf-8")


def test_round_trip_is_exact_in_fp32(folder: Path, checkpoint: Checkpoint) -> None:
    loaded = load_checkpoint(folder)
    for name, value in checkpoint.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value)
    assert loaded.model.settings == checkpoint.model.settings
    assert loaded.generation == checkpoint.generation
    assert loaded.tokenizer_bytes == TOKENIZER
    assert (loaded.lineage, loaded.figures, loaded.card) == (checkpoint.lineage, checkpoint.figures, checkpoint.card)
    assert is_checkpoint(folder)
    assert not is_checkpoint(folder.parent)


def test_fp16_halves_the_weights_and_loads_as_fp32(tmp_path: Path, folder: Path, checkpoint: Checkpoint) -> None:
    save_checkpoint(tmp_path / "small", checkpoint, weight_format="float16")
    loaded = load_checkpoint(tmp_path / "small")
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    for name, value in checkpoint.model.state_dict().items():
        torch.testing.assert_close(loaded.model.state_dict()[name], value, atol=1e-2, rtol=2e-3)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("small", "model")]
    assert sizes[0] < 0.75 * sizes[1]


@pytest.mark.parametrize(
    ("changes", "file", "field"),
    [
        ({"format": "other"}, "config.json", "format"),
        ({"format_version": 99}, "config.json", "format_version"),
        ({"format_version": True}, "config.json", "format_version"),
        ({"format_version": 1.0}, "config.json", "format_version"),
        ({"figures": {"nats_per_char": float("nan")}}, "config.json", "content"),
        ({"figures": {"nats_per_char": float("-inf")}}, "config.json", "content"),
        ({"model__hidden_size": 10}, "model.safetensors", "layers"),
        ({"model__vocab_size": 24}, "model.safetensors", "embedding"),
        ({"model__num_layers": 3}, "model.safetensors", "layers.2"),
        ({"model__cell": "lstm"}, "model.safetensors", "layers.0"),
        ({"model__cell": "transformer"}, "config.json", "model.cell"),
        ({"model__hidden_size": -1}, "config.json", "model.hidden_size"),
        ({"model__hidden_size": "9; rm -rf"}, "config.json", "model.hidden_size"),
        ({"model__extra": 1}, "config.json", "model.extra"),
        ({"tokenizer_sha256": "0" * 64}, "tokenizer.model", "tokenizer_sha256"),
        ({"weight_format": "float16"}, "model.safetensors", ""),
        ({"weight_format": "pickle"}, "config.json", "weight_format"),
        ({"lineage": 3}, "config.json", "lineage"),
    ],
)
def test_a_folder_that_lies_is_refused(folder: Path, changes: dict[str, Any], file: str, field: str) -> None:
    edit_config(folder, **changes)
    with pytest.raises(BadCheckpoint) as caught:
        load_checkpoint(folder)
    assert caught.value.params["file"] == file
    assert str(caught.value.params["field"]).startswith(field)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.model"])
def test_missing_and_damaged_files_are_named(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(BadCheckpoint, match=name):
        load_checkpoint(folder)
    path.unlink()
    with pytest.raises(BadCheckpoint, match=name):
        load_checkpoint(folder)


READ = ["config.json", "tokenizer.model", "README.md", "copy_index.safetensors"]


@pytest.mark.parametrize(
    ("name", "moment"), [*((name, "read_bytes") for name in READ), ("model.safetensors", "resolve")]
)
def test_a_file_that_goes_while_it_is_looked_at_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, moment: str
) -> None:
    (folder / "copy_index.safetensors").write_bytes(b"index")
    real = getattr(Path, moment)

    def late(path: Path) -> Any:
        if path.name == name:
            path.unlink()
        return real(path)

    monkeypatch.setattr(Path, moment, late)
    with pytest.raises(MissingFile, match=name):
        load_checkpoint(folder)


def test_weights_that_go_before_they_are_opened_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(path: Path, **options: str) -> Any:
        path.unlink()
        return safe_open(path, **options)

    monkeypatch.setattr(weights, "safe_open", late)
    with pytest.raises(MissingFile, match=r"^model\.safetensors cannot be read: it is gone"):
        load_checkpoint(folder)


def test_a_number_beyond_all_floats_is_refused(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace("1.5", "1e999"), encoding="utf-8")
    with pytest.raises(BadCheckpoint, match="not valid JSON"):
        load_checkpoint(folder)


FILES = ["config.json", "model.safetensors", "tokenizer.model", "generation_config.json", "README.md"]


@pytest.mark.parametrize("name", FILES)
def test_a_link_out_of_the_folder_is_not_followed(folder: Path, tmp_path: Path, name: str) -> None:
    secret = (folder / name).rename(tmp_path / "secret")
    (folder / name).symlink_to(secret)
    with pytest.raises(BadCheckpoint, match=f"{name}, link: leads out of the folder"):
        load_checkpoint(folder)


def test_the_folder_itself_may_be_a_link_and_hold_links_into_itself(folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").rename(folder / "card.md")
    (folder / "README.md").symlink_to("card.md")
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    assert load_checkpoint(tmp_path / "link").card == "# A model\n"


def test_the_cache_of_hugging_face_may_link_to_its_blobs(folder: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0a1b", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in FILES:
        (folder / name).rename(blobs / name)
        (snapshot / name).symlink_to(Path("..", "..", "blobs", name))
    assert load_checkpoint(snapshot).card == "# A model\n"


def test_weights_that_are_no_numbers_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["embedding"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(BadCheckpoint, match="embedding"):
        load_checkpoint(folder)


def test_the_index_of_copies_is_kept_and_may_be_missing(folder: Path, tmp_path: Path) -> None:
    assert load_checkpoint(folder).copy_index == b"not opened here"
    (folder / "copy_index.safetensors").unlink()
    without = load_checkpoint(folder)
    assert without.copy_index == b""
    save_checkpoint(tmp_path / "again", without)
    assert not (tmp_path / "again" / "copy_index.safetensors").exists()


def test_files_beyond_the_limits_are_not_read(folder: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"copy_index\.safetensors, size"):
        load_checkpoint(folder, limits=Limits(max_copy_indexes_bytes=10))
    with pytest.raises(BadCheckpoint, match="size"):
        load_checkpoint(folder, limits=Limits(max_weights_bytes=100))


def test_a_pickle_is_never_opened(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x80\x04\x95cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(BadCheckpoint, match=r"model\.safetensors"):
        load_checkpoint(folder)


def test_a_failed_write_leaves_the_old_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    def full_disk(new: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(CannotWrite, match="No space left"):
        save_checkpoint(folder, checkpoint, extra=full_disk)
    assert load_checkpoint(folder).card == "# A model\n"
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.slow
def test_a_process_killed_while_writing_leaves_a_whole_checkpoint(folder: Path) -> None:
    """A child writes new versions over and over; whenever it is killed, one complete version is there."""
    script = textwrap.dedent(
        f"""
        from pathlib import Path
        from textgen.model.checkpoint import load_checkpoint, save_checkpoint
        folder = Path({str(folder)!r})
        checkpoint = load_checkpoint(folder)
        print("ready", flush=True)
        while True:
            save_checkpoint(folder, checkpoint)
        """
    )
    for attempt in range(3):
        child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        before = _version(folder)
        while _version(folder) == before:
            assert child.poll() is None
        for _ in range(attempt * 37):
            _version(folder)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
        assert load_checkpoint(folder).card == "# A model\n"


def _version(folder: Path) -> int:
    try:
        return folder.stat().st_ino
    except FileNotFoundError:
        return 0
