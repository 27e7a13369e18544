from __future__ import annotations

from pathlib import Path

import pytest

from textgen.config import ModelSettings, RunSettings, TextSettings, TrainingSettings, update_settings
from textgen.errors import InvalidSetting
from textgen.jobs.base import open_base
from textgen.jobs.estimate import estimate_run
from textgen.text.corpus import build_corpus


@pytest.fixture
def settings(small_text: Path) -> RunSettings:
    return RunSettings(
        files=(str(small_text),),
        text=TextSettings(vocab_size=300, tokenizer="char"),
        model=ModelSettings(embedding_size=8, hidden_size=12),
        training=TrainingSettings(epochs=2, batch_size=4, window=10, precision="fp32"),
    )


def test_an_estimate_says_what_a_run_takes(settings: RunSettings, small_text: Path, tmp_path: Path) -> None:
    corpus = build_corpus(tmp_path / "corpus", [small_text], settings.text)
    before = sorted(tmp_path.rglob("*"))
    estimate = estimate_run(settings, corpus, device="cpu", out=tmp_path / "not" / "yet", max_seconds=0.2)
    training = estimate.training
    assert training.tokens_per_second > 0
    assert training.seconds > 0
    assert training.passes == pytest.approx(2.0, rel=0.01)
    # The last batch of a pass may have fewer tokens than the others have.
    assert training.steps * 40 == pytest.approx(2 * len(corpus.train.ids), rel=0.02)
    assert training.checkpoint_bytes == 16 * estimate.parameters
    assert estimate.free_bytes is not None
    assert estimate.fits_on_disk
    assert "cpu" in estimate.device
    assert sorted(tmp_path.rglob("*")) == before


def test_a_base_is_estimated_with_its_own_shape(
    settings: RunSettings, small_text: Path, trained_run: Path, tmp_path: Path
) -> None:
    settings = update_settings(settings, base=str(trained_run))
    base = open_base(settings)
    assert base is not None
    corpus = build_corpus(tmp_path / "corpus", [small_text], settings.text, tokenizer=base.tokenizer)
    estimate = estimate_run(settings, corpus, base, device="cpu", max_seconds=0.0)
    assert estimate.parameters == base.checkpoint.model.num_parameters
    assert estimate.free_bytes is None
    assert estimate.fits_on_disk


def test_an_estimate_needs_a_budget(settings: RunSettings, small_text: Path, tmp_path: Path) -> None:
    corpus = build_corpus(tmp_path / "corpus", [small_text], settings.text)
    training = {**settings.training.model_dump(), "epochs": None}
    with pytest.raises(InvalidSetting, match="budget"):
        estimate_run(update_settings(settings, training=training), corpus, device="cpu")
