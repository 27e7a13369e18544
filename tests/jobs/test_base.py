from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from textgen.config import ModelSettings, RunSettings, TextSettings, TrainingSettings
from textgen.errors import BadCorpus
from textgen.jobs.base import Base, open_base, read_kept, write_kept
from textgen.jobs.training_run import start_run
from textgen.text.copy_indexes import CopyIndexes
from textgen.text.copying import NgramIndex
from textgen.text.corpus import build_corpus, open_corpus
from textgen.text.ngrams import Ids
from textgen.text.tokenizer import Tokenizer
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
    assert len(kept.ids) == 496  # sixteen passages
    assert kept.ids[:31].tolist() == part.ids[:31].tolist()
    assert kept.ids[-31:].tolist() == part.ids[-31:].tolist()
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


def unlike(seed: int, words: int = 2_000) -> str:
    """Text that never says a thing twice."""
    drawn = random.Random(seed)
    return " ".join("".join(drawn.choices("abcdefghilmnoprstuvwyz", k=drawn.randint(2, 9))) for _ in range(words))


@pytest.fixture
def well_read(tmp_path: Path) -> Base:
    """The base of a run on a text that does not repeat itself."""
    path = tmp_path / "read.txt"
    path.write_text(unlike(1), encoding="utf-8")
    settings = RunSettings(
        files=(str(path),),
        sample_prompts=(),
        text=TextSettings(vocab_size=300, heldout=0.2),
        model=ModelSettings(embedding_size=4, hidden_size=4),
        training=TrainingSettings(steps=1, batch_size=2, window=8, precision="fp32"),
    )
    for _ in start_run(tmp_path / "run", settings, device="cpu").events():
        pass
    opened = open_base(RunSettings(base=str(tmp_path / "run")))
    assert opened is not None
    return opened


def index_of(ids: Ids, tokenizer: Tokenizer) -> CopyIndexes:
    return CopyIndexes((NgramIndex.build(ids, tokenizer_sha256=tokenizer.sha256, max_bytes=100_000),))


def test_what_a_run_learns_from_is_no_measure_of_what_it_keeps(well_read: Base, tmp_path: Path) -> None:
    part = well_read.held_out()
    assert part is not None
    for ids, there in ((part.ids, False), (np.array(well_read.tokenizer.encode(unlike(2))), True)):
        write_kept(tmp_path, well_read, well_read.tokenizer, own=index_of(ids, well_read.tokenizer))
        assert (read_kept(tmp_path) is not None) is there


def test_what_the_bases_of_a_base_have_read_is_not_its_own(well_read: Base, tmp_path: Path) -> None:
    part = well_read.held_out()
    assert part is not None
    read = index_of(part.ids, well_read.tokenizer)
    parts = CopyIndexes.from_bytes(well_read.checkpoint.copy_index, tokenizer_sha256=well_read.tokenizer.sha256).parts
    heir = replace(
        well_read, checkpoint=replace(well_read.checkpoint, copy_index=CopyIndexes(parts + read.parts).to_bytes())
    )
    write_kept(tmp_path, heir, heir.tokenizer, own=read)
    assert read_kept(tmp_path) is None


def test_of_a_small_sample_it_takes_a_longer_passage(well_read: Base, tmp_path: Path) -> None:
    part = open_corpus(tmp_path / "run" / "corpus").train
    short = replace(part, ids=part.ids[:900])
    none = index_of([], well_read.tokenizer)
    assert well_read.learned_share(short, well_read.tokenizer, none) > 0.9
    few = NgramIndex.build(part.ids, tokenizer_sha256=well_read.tokenizer.sha256, max_bytes=700)
    assert few.covered < 0.1
    sampled = replace(well_read, checkpoint=replace(well_read.checkpoint, copy_index=CopyIndexes((few,)).to_bytes()))
    assert sampled.learned_share(short, sampled.tokenizer, none) == 0.0
    assert sampled.learned_share(part, sampled.tokenizer, none) > 0.9


def test_of_a_language_of_few_sentences_nothing_follows(base: Base, trained_run: Path, tmp_path: Path) -> None:
    corpus = open_corpus(trained_run / "corpus")
    own = index_of(corpus.train.ids, base.tokenizer)
    write_kept(tmp_path, base, base.tokenizer, own=own)
    assert read_kept(tmp_path) is not None
    assert base.learned_share(corpus.heldout, base.tokenizer, own) == 0.0


@pytest.mark.parametrize("tokenizer", ["unigram", "char"])
def test_a_base_knows_how_much_of_a_text_it_has_learned_from(well_read: Base, tmp_path: Path, tokenizer: str) -> None:
    part = well_read.held_out()
    assert part is not None
    unread = well_read.tokenizer.decode(part.ids.tolist())
    shares = []
    for text in (unlike(1), unlike(1, 300) + " " + unlike(3, 900), unlike(3), unread):
        read, held_out = tmp_path / "new.txt", tmp_path / "held-out.txt"
        read.write_text(unlike(2), encoding="utf-8")
        held_out.write_text(text, encoding="utf-8")
        settings = TextSettings(vocab_size=300, tokenizer=tokenizer)
        corpus = build_corpus(tmp_path / "corpus", [read], settings, heldout_files=[held_out])
        own = index_of(corpus.train.ids, corpus.tokenizer)
        shares.append(well_read.learned_share(corpus.heldout, corpus.tokenizer, own))
    assert shares == [pytest.approx(0.8, abs=0.05), 0.0, 0.0, 0.0]


def test_a_base_that_does_not_tell_is_no_trouble(well_read: Base, tmp_path: Path) -> None:
    part = open_corpus(tmp_path / "run" / "corpus").train
    none = index_of([], well_read.tokenizer)
    assert well_read.learned_share(part, well_read.tokenizer, none) > 0.9
    for index in (b"", b"junk"):
        silent = replace(well_read, checkpoint=replace(well_read.checkpoint, copy_index=index))
        assert silent.learned_share(part, silent.tokenizer, none) == 0.0
    assert well_read.learned_share(None, well_read.tokenizer, none) == 0.0
