"""Zip files of models: those made here, and those that somebody has thought up."""

from __future__ import annotations

import json
import shutil
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from textgen.errors import (
    ArchiveBomb,
    BadCheckpoint,
    BadTokenizer,
    DamagedFile,
    EncryptedFile,
    InvalidSetting,
    NoRoom,
    TextgenError,
)
from textgen.jobs.model_zip import pack_model, unpack_model
from textgen.limits import Limits
from textgen.model.checkpoint import load_checkpoint
from textgen.progress import Progress

LIMITS = Limits(min_free_disk_bytes=1)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def packed(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_model(trained_run, "Tales: old & new", tmp_path_factory.mktemp("packed"))


@pytest.fixture
def model(packed: Path, tmp_path: Path) -> Path:
    """The folder of a model, to be spoilt."""
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path / "unpacked")
    (folder,) = (tmp_path / "unpacked").iterdir()
    return folder


def zip_of(folder: Path, path: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"{prefix}{file.name}")
    return path


def refused(archive: Path, error: type[TextgenError], match: str, limits: Limits = LIMITS) -> None:
    """Says what is wrong, and leaves nothing."""
    out = archive.parent / "into" / "out"
    with pytest.raises(error, match=match):
        unpack_model(archive, out, name="tales.zip", limits=limits)
    assert not out.parent.exists() or list(out.parent.iterdir()) == []


def test_what_was_packed_is_the_model_and_the_same_bytes_each_time(
    packed: Path, trained_run: Path, tmp_path: Path
) -> None:
    assert packed.name == "Tales--old---new.zip"
    told: list[Progress] = []
    unpack_model(packed, tmp_path / "out", name="tales.zip", limits=LIMITS, progress=told.append)
    ours, theirs = load_checkpoint(tmp_path / "out"), load_checkpoint(trained_run / "checkpoints" / "best")
    assert (ours.figures, ours.lineage, ours.card) == (theirs.figures, theirs.lineage, theirs.card)
    assert (ours.tokenizer_bytes, ours.copy_index) == (theirs.tokenizer_bytes, theirs.copy_index)
    assert [step.stage for step in told][-1] == "checking"
    unpacking = [step for step in told if step.stage == "unpacking"]
    assert unpacking[-1].done == unpacking[-1].total
    (tmp_path / "again").mkdir()
    again = pack_model(tmp_path / "out", "Tales: old & new", tmp_path / "again")
    assert again.read_bytes() == packed.read_bytes()


@pytest.mark.parametrize("prefix", ["", "tales/", "a/b/tales/", "tales\\"])
def test_any_zip_of_such_a_folder_is_read(model: Path, tmp_path: Path, prefix: str) -> None:
    (model / "train.yaml").write_text("steps: 3")
    (model / "run.py").write_text("raise SystemExit")
    (model / "pytorch_model.bin").write_bytes(b"\x80\x02")
    unpack_model(zip_of(model, tmp_path / "a.zip", prefix), tmp_path / "out", name="a.zip", limits=LIMITS)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.model", "README.md"} <= names
    assert names.isdisjoint({"train.yaml", "run.py", "pytorch_model.bin"})


@pytest.mark.slow
def test_weights_in_several_files_are_read(tmp_path: Path) -> None:
    archive = zip_of(ROOT / "checkpoints" / "fairy-tales", tmp_path / "a.zip")
    unpack_model(archive, tmp_path / "out", name="a.zip", limits=LIMITS)
    assert (tmp_path / "out" / "model-00002-of-00002.safetensors").is_file()


def test_what_is_no_zip_is_refused(tmp_path: Path, packed: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"")
    refused(path, DamagedFile, r"tales\.zip is damaged, or no ZIP file")
    path.write_bytes(b"Once upon a time " * 100)
    refused(path, DamagedFile, r"tales\.zip is damaged")
    path.write_bytes(packed.read_bytes()[: packed.stat().st_size // 2])
    refused(path, DamagedFile, r"tales\.zip is damaged")


def test_a_zip_without_a_model_or_with_two_is_refused(tmp_path: Path, model: Path, trained_run: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("story.txt", "Once upon a time")
    refused(path, BadCheckpoint, "no model in it; one is a folder with config.json and tokenizer.model")
    run = Path(shutil.make_archive(str(tmp_path / "run"), "zip", trained_run))
    refused(run, BadCheckpoint, "2 models in it, where one is wanted")
    (model / "model.safetensors").unlink()
    refused(zip_of(model, path), BadCheckpoint, r"model\.safetensors, file: missing")


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/outside.txt", "tales/../../outside.txt", "C:\\outside.txt"])
def test_a_name_that_leads_out_is_refused(packed: Path, tmp_path: Path, name: str) -> None:
    path = Path(shutil.copy(packed, tmp_path / "a.zip"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, "I was here")
    refused(path, BadCheckpoint, "a link, or leads out of the archive")
    assert list(tmp_path.rglob("outside.txt")) == []


def test_a_link_is_refused(model: Path, tmp_path: Path) -> None:
    (model / "README.md").unlink()
    path = zip_of(model, tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("README.md")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    refused(path, BadCheckpoint, r"README\.md: a link")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_file_that_is_there_twice_is_refused(packed: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(packed, tmp_path / "a.zip"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("Tales--old---new/config.json", "{}")
    refused(path, BadCheckpoint, "there more than once")


def test_a_bomb_is_refused(model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").write_bytes(bytes(50_000_000))
    refused(zip_of(model, tmp_path / "a.zip"), ArchiveBomb, "would unpack to more than 100 times its size")


def test_a_size_that_is_a_lie_is_refused(model: Path, tmp_path: Path) -> None:
    path = zip_of(model, tmp_path / "a.zip")
    size = (model / "model.safetensors").stat().st_size
    data = path.read_bytes()
    assert data.count(struct.pack("<I", size)) == 2  # before the file itself and in the list of all
    for lie in (1, size - 1, size + 1_000):
        path.write_bytes(data.replace(struct.pack("<I", size), struct.pack("<I", lie)))
        refused(path, TextgenError, "damaged|header|size")


def test_a_list_of_files_without_end_is_not_read(packed: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(20_000):
            archive.writestr(f"{number}.txt", "")
    refused(path, BadCheckpoint, "a list of files that is longer than any model's")
    # As an archive says that is written in the layout for very many files.
    data = packed.read_bytes()
    path.write_bytes(data[:-22] + b"PK\x06\x07" + bytes(16) + data[-22:])
    refused(path, BadCheckpoint, "a list of files that is longer than any model's")


def test_an_encrypted_zip_is_refused(packed: Path, tmp_path: Path) -> None:
    data = bytearray(packed.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = -1
        while (place := data.find(signature, place + 1)) >= 0:
            data[place + flags] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    refused(tmp_path / "a.zip", EncryptedFile, "is encrypted")


def test_a_model_that_contradicts_itself_is_refused(model: Path, tmp_path: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    weights = load_file(model / "model.safetensors")
    path = tmp_path / "a.zip"

    def with_config(**values: object) -> Path:
        (model / "config.json").write_text(json.dumps({**config, **values}))
        return zip_of(model, path)

    refused(with_config(format="other"), BadCheckpoint, "format")
    refused(with_config(model={**config["model"], "hidden_size": 65}), BadCheckpoint, "shape")
    refused(with_config(tokenizer_sha256="0" * 64), BadCheckpoint, "not the one that config.json names")
    with_config()
    (model / "copy_index.safetensors").write_bytes(b"x")
    refused(zip_of(model, path), BadCheckpoint, "copy_index")
    (model / "copy_index.safetensors").unlink()
    save_file({**weights, "extra": next(iter(weights.values())).clone()}, model / "model.safetensors")
    refused(zip_of(model, path), BadCheckpoint, "unexpected tensor")
    save_file(weights, model / "model.safetensors")
    (model / "tokenizer.model").write_bytes(b"x")
    refused(zip_of(model, path), (BadCheckpoint, BadTokenizer), "tokenizer")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("limits", "error", "match"),
    [
        (Limits(min_free_disk_bytes=1, max_hub_bytes=1_000), InvalidSetting, "at most 0.0 MB at once"),
        (Limits(min_free_disk_bytes=1, max_config_bytes=10), BadCheckpoint, "where at most 10 are allowed"),
        (Limits(min_free_disk_bytes=10**18), NoRoom, "must be free to begin"),
    ],
)
def test_limits_are_kept(packed: Path, tmp_path: Path, limits: Limits, error: type[TextgenError], match: str) -> None:
    refused(Path(shutil.copy(packed, tmp_path / "a.zip")), error, match, limits)


def test_what_was_there_stays_when_something_is_wrong(packed: Path, tmp_path: Path, model: Path) -> None:
    out = tmp_path / "out"
    unpack_model(packed, out, name="a.zip", limits=LIMITS)
    (model / "model.safetensors").write_bytes(b"x")
    with pytest.raises(BadCheckpoint):
        unpack_model(zip_of(model, tmp_path / "a.zip"), out, name="a.zip", limits=LIMITS)
    load_checkpoint(out)
