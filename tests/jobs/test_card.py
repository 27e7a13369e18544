from __future__ import annotations

from pathlib import Path

import yaml

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
    settings = yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])
    assert settings["steps"] == 150
    assert settings["learning_rate"] == 0.03


def test_what_is_not_known_is_left_out(trained_run: Path) -> None:
    settings = RunFolder(trained_run).settings()
    card = model_card("a", settings, open_corpus(trained_run / "corpus"), {"elapsed_seconds": 1.0})
    assert "held-out text" not in card
    assert "None" not in card
