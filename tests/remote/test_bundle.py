"""What a job is given to read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from textgen.config import RunSettings, TextSettings, TrainingSettings, parse_settings, read_settings_file
from textgen.errors import InvalidSetting, MissingFile, NotText, TextgenError
from textgen.model.checkpoint import load_checkpoint
from textgen.remote.bundle import is_bundle_file, make_bundle, safe_name

ROOT = Path(__file__).parents[2]
BASE = ROOT / "checkpoints" / "shakespeare"
TRAINING = TrainingSettings(steps=6, seed=7)
MADE = {"config.json", "README.md", "constraints.txt", "source.tar.gz", "run.py"}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def text(path: Path, content: str = "some text") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return str(path)


def test_texts_keep_order_and_extension_under_names_that_are_safe(tmp_path: Path, out: Path) -> None:
    files = (
        text(tmp_path / "b" / "tales.txt", "b"),
        text(tmp_path / "a" / "tales.txt", "a"),
        text(tmp_path / "月 的 故事.md"),
        text(tmp_path / "-rf; $(id) '.txt"),
        text(tmp_path / ".env"),
    )
    heldout = (text(tmp_path / "held.txt"),)
    asked = RunSettings(files=files, heldout_files=heldout, training=TRAINING, text=TextSettings(split="line"))
    bundle = make_bundle(asked, out)
    texts = [
        "texts/0001/tales.txt",
        "texts/0002/tales.txt",
        "texts/0003/月-的-故事.md",
        "texts/0004/rf-id-.txt",
        "texts/0005/env",
    ]
    assert [name for name in bundle if name.startswith("texts/")] == texts
    assert [str(bundle[name]) for name in texts] == list(files)
    assert bundle.keys() == {*texts, "heldout/0001/held.txt", *MADE}
    assert all(map(is_bundle_file, bundle))
    # The very file that `textgen train --config` reads; only the places are others.
    written = parse_settings(RunSettings, read_settings_file(bundle["config.json"]))
    assert written == asked.model_copy(
        update={"files": tuple(texts), "heldout_files": ("heldout/0001/held.txt",), "base": None}
    )


def test_a_base_goes_along_as_it_is_and_alone(tmp_path: Path, out: Path) -> None:
    asked = RunSettings(files=(text(tmp_path / "a.txt"),), base=str(BASE), training=TRAINING)
    bundle = make_bundle(asked, out)
    names = {"config.json", "model.safetensors", "tokenizer.model", "generation_config.json", "README.md"}
    names |= {"copy_index.safetensors"}
    assert bundle.keys() == {"texts/0001/a.txt", *MADE, *(f"base/shakespeare/{name}" for name in names)}
    assert read_settings_file(bundle["config.json"])["base"] == "base/shakespeare"
    found, expected = load_checkpoint(bundle["base/shakespeare/config.json"].parent), load_checkpoint(BASE)
    torch.testing.assert_close(found.model.state_dict(), expected.model.state_dict(), rtol=0, atol=0)
    assert (found.lineage, found.copy_index) == (expected.lineage, expected.copy_index)


def test_teachers_go_along_in_their_order(tmp_path: Path, out: Path, trained_run: Path) -> None:
    mine = shutil.copytree(trained_run / "checkpoints" / "best", tmp_path / "学生 model")
    teachers = (str(mine), str(trained_run))
    asked = RunSettings(files=(text(tmp_path / "a.txt"),), teachers=teachers, training=TRAINING)
    bundle = make_bundle(asked, out)
    names = tuple(read_settings_file(bundle["config.json"])["teachers"])
    assert names == ("teachers/0001/学生-model", "teachers/0002/tiny")
    for name in names:
        assert is_bundle_file(f"{name}/config.json")
        found, expected = load_checkpoint(bundle[f"{name}/config.json"].parent), load_checkpoint(mine)
        torch.testing.assert_close(found.model.state_dict(), expected.model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"files": ()}, InvalidSetting),
        ({"training": TrainingSettings()}, InvalidSetting),
        ({"files": ("gone.txt",)}, MissingFile),
        ({"files": ("binary.txt",)}, NotText),
        ({"heldout_files": ("gone.txt",)}, MissingFile),
        ({"base": "gone"}, InvalidSetting),
        ({"teachers": ("gone",)}, InvalidSetting),
        ({"base": str(BASE), "teachers": (str(BASE.parent / "tang-poetry"),)}, InvalidSetting),
    ],
)
def test_what_cannot_be_trained_on_is_found_out_here(
    changes: dict[str, object],
    error: type[TextgenError],
    tmp_path: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("binary.txt").write_bytes(bytes(range(256)) * 8)
    asked = RunSettings(files=(text(tmp_path / "a.txt"),), training=TRAINING)
    with pytest.raises(error):
        make_bundle(asked.model_copy(update=changes), out)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a.txt", "a.txt"),
        ("..", "text"),
        (".", "text"),
        ("a\nb\x1b[2J.txt", "a-b-2J.txt"),
        ("e\u0301.txt", "\u00e9.txt"),
        ("\udcff.txt", "txt"),
        ("x" * 300 + ".txt", "x" * 76 + ".txt"),
        ("a." + "x" * 300, "a." + "x" * 78),
    ],
)
def test_names_mean_nothing_but_themselves(name: str, safe: str) -> None:
    assert safe_name(name) == safe


@pytest.mark.parametrize("name", ["data.csv", "texts", "textsx/a", "base.bin", "train/0001.parquet"])
def test_files_of_other_datasets_are_known_as_such(name: str) -> None:
    assert not is_bundle_file(name)
