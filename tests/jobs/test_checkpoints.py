from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from textgen.errors import BadCheckpoint
from textgen.jobs.checkpoints import open_checkpoint
from textgen.model.checkpoint import load_checkpoint, save_checkpoint
from textgen.text.tokenizer_training import train_tokenizer


def test_a_run_opens_as_its_best_checkpoint_with_its_vocabulary(trained_run: Path) -> None:
    checkpoint, tokenizer = open_checkpoint(trained_run)
    assert tokenizer.vocab_size == checkpoint.model.settings.vocab_size
    assert tokenizer.sha256 == checkpoint.tokenizer_sha256
    assert tokenizer.decode(tokenizer.encode("小猫 counted 🌙")) == "小猫 counted 🌙"


def test_a_vocabulary_of_another_size_is_refused(trained_run: Path, tmp_path: Path) -> None:
    checkpoint, tokenizer = open_checkpoint(trained_run)
    other = train_tokenizer(["some other words " * 40], kind="char", vocab_size=300).tokenizer
    assert other.vocab_size != tokenizer.vocab_size
    save_checkpoint(tmp_path / "bad", dataclasses.replace(checkpoint, tokenizer_bytes=other.to_bytes()))
    load_checkpoint(tmp_path / "bad")
    with pytest.raises(BadCheckpoint, match=f"{other.vocab_size} pieces where config.json says {tokenizer.vocab_size}"):
        open_checkpoint(tmp_path / "bad")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="nowhere, folder: there is no such folder"):
        open_checkpoint(tmp_path / "nowhere")
