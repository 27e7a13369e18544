from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from textgen.config import RunSettings, TextSettings
from textgen.errors import BadCorpus
from textgen.jobs.base import Base, open_base, read_kept, write_kept
from textgen.text.corpus import open_corpus
from textgen.text.tokenizer_training import train_tokenizer
from textgen.text.vocabulary import extend_tokenizer
from textgen.training.held_out import evaluate_held_out

NEW = "Zeppelins quacked under jukeboxes, and zeppelins zigzagged.\n" * 40


@pytest.fixture
def base(trained_run: Path) -> Base:
    opened = open_base(RunSettings(base=str(trained_run)))
    assert opened is not None
    return opened


def test_no_base_is_none() -> None:
    assert open_base(RunSettings()) is None


def test_a_base_keeps_its_model_for_its_own_vocabulary(base: Base) -> None:
    assert base.model_for(base.tokenizer) is base.checkpoint.model


def test_a_base_is_fitted_to_an_extended_vocabulary(base: Base) -> None:
    extended = extend_tokenizer(base.tokenizer, train_tokenizer([NEW], vocab_size=330).tokenizer)
    model = base.model_for(extended)
    assert model.settings.vocab_size == extended.vocab_size > base.tokenizer.vocab_size
    assert torch.equal(model.embedding[: base.tokenizer.vocab_size], base.checkpoint.model.embedding)


@pytest.mark.parametrize("inside", ["", "checkpoints/best", "checkpoints/last"])
def test_the_heldout_text_of_a_base_is_found_in_its_run(trained_run: Path, inside: str) -> None:
    opened = open_base(RunSettings(base=str(trained_run / inside)))
    assert opened is not None
    part, expected = opened.held_out(), open_corpus(trained_run / "corpus").heldout
    assert part is not None
    assert expected is not None
    assert (part.ids == expected.ids).all()


def test_a_base_without_its_run_has_no_heldout_text(trained_run: Path, tmp_path: Path) -> None:
    shutil.copytree(trained_run / "checkpoints" / "best", tmp_path / "alone")
    opened = open_base(RunSettings(base=str(tmp_path / "alone")))
    assert opened is not None
    assert opened.held_out() is None
    (tmp_path / "corpus").mkdir()
    write_kept(tmp_path / "corpus", opened, opened.tokenizer)
    assert read_kept(tmp_path / "corpus") is None


def test_what_is_kept_of_the_base_is_the_same_text_in_another_vocabulary(base: Base, tmp_path: Path) -> None:
    part = base.held_out()
    assert part is not None
    write_kept(tmp_path, base, base.tokenizer, max_tokens=500)
    kept = read_kept(tmp_path)
    assert kept is not None
    assert kept.ids.tolist() == part.ids[:500].tolist()
    text = base.tokenizer.decode(kept.ids)
    assert (kept.chars, kept.bytes) == (len(text), len(text.encode()))
    other = train_tokenizer([NEW, text], vocab_size=350).tokenizer
    write_kept(tmp_path, base, other, max_tokens=500)
    again = read_kept(tmp_path)
    assert again is not None
    assert other.decode(again.ids) == text
    assert (again.ids == 1).sum() == (kept.ids == 1).sum()
    assert evaluate_held_out(base.model_for(other), again).chars == kept.chars


def test_a_damaged_text_is_told(tmp_path: Path) -> None:
    for content in ("junk", "[]", json.dumps({"ids": ["x"], "chars": 1, "bytes": 1})):
        (tmp_path / "kept.json").write_text(content)
        with pytest.raises(BadCorpus, match=r"kept\.json"):
            read_kept(tmp_path)


def test_settings_know_what_to_do_with_a_vocabulary() -> None:
    assert TextSettings().base_vocabulary == "keep"
