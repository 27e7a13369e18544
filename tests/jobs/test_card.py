from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from textgen.cli import main
from textgen.config import update_settings
from textgen.jobs.card import model_card
from textgen.jobs.checkpoints import open_checkpoint
from textgen.jobs.run_folder import RunFolder
from textgen.text.corpus import open_corpus


def test_the_card_tells_data_shape_and_figures(trained_run: Path) -> None:
    checkpoint, _ = open_checkpoint(trained_run)
    corpus = open_corpus(trained_run / "corpus")
    assert corpus.heldout is not None
    card = checkpoint.card
    front_matter, body = card.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(front_matter)["library_name"] == "textgen-studio"
    assert "# tiny\n" in body
    assert "small.txt" in body
    assert f"Trained on {corpus.train.characters:,} characters; {corpus.heldout.characters:,} were held out." in body
    assert "lstm, 1 × 64 units, embedding 96" in body
    assert f"| nats per character | {checkpoint.figures['nats_per_char']:.4f} |" in body
    assert "Lineage" not in body
    sample = RunFolder(trained_run).last_samples()[0]
    assert sample.startswith("Mira ")
    assert f"```text\n{sample}\n```" in body


@pytest.mark.slow
def test_what_the_card_tells_makes_the_same_model_again(
    trained_run: Path, small_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, _ = open_checkpoint(trained_run)
    command, config = (part.split("\n```")[0] for part in checkpoint.card.split("```shell\n")[1].split("```yaml\n"))
    assert command.startswith("textgen train small.txt --config train.yaml --out runs/tiny")
    assert str(small_text.parent) not in checkpoint.card
    shutil.copy(small_text, tmp_path / "small.txt")
    (tmp_path / "train.yaml").write_text(config)
    monkeypatch.chdir(tmp_path)
    assert main([*shlex.split(command)[1:], "--quiet", "--device", "cpu"]) == 0
    again, _ = open_checkpoint(Path("runs/tiny"))
    for one, other in zip(again.model.parameters(), checkpoint.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_card_tells_what_a_model_comes_from(trained_run: Path) -> None:
    settings = RunFolder(trained_run).settings()
    lineage = {
        "base": {"name": "prose", "lineage": {"base": {"name": "first", "lineage": {}}}},
        "teachers": [{"name": "a", "lineage": {}}, {"name": "b", "lineage": {}}],
    }
    card = model_card("a", settings, open_corpus(trained_run / "corpus"), {}, lineage=lineage)
    assert "started from *prose*, which was started from *first*." in card
    assert "learned from *a*, *b* beside" in card


def test_a_run_of_the_page_goes_by_what_things_are_called_there(trained_run: Path) -> None:
    settings = update_settings(RunFolder(trained_run).settings(), base=str(trained_run), model={"cell": "gru"})
    about = {
        "title": "Märchen · 童话",
        "texts": [{"name": "left out.txt"}, {"name": "my tales.txt", "path": "0001.txt"}],
        "lineage": ["Prose", "First"],
    }
    card = model_card("20261126-1", settings, open_corpus(trained_run / "corpus"), {}, about=about)
    front_matter, body = card.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(front_matter)["tags"] == ["recurrent", "gru", "sentencepiece"]
    assert "# Märchen · 童话\n" in body
    assert "- my tales.txt: " in body
    assert "started from *Prose*, which was started from *First*." in body
    assert "textgen train 'my tales.txt' --config train.yaml" in body
    assert yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])["base"] == "Prose"


def test_fences_within_a_sample_do_not_end_it(trained_run: Path) -> None:
    settings = RunFolder(trained_run).settings()
    card = model_card("a", settings, open_corpus(trained_run / "corpus"), {}, samples=["one\n````\ntwo", ""])
    assert "`````text\none\n````\ntwo\n`````\n" in card
    assert card.count("text\n\n") == 0


def test_what_is_not_known_is_left_out(trained_run: Path) -> None:
    settings = RunFolder(trained_run).settings()
    card = model_card("a", settings, open_corpus(trained_run / "corpus"), {"elapsed_seconds": 1.0})
    assert "held-out text" not in card
    assert "None" not in card
