from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.text.samples import CHINESE, ENGLISH
from textgen.config import TextSettings
from textgen.errors import BadCorpus, CannotWrite, InvalidSetting, MissingFile, NoText, NotText, UnreadableText
from textgen.progress import Progress
from textgen.text.corpus import Corpus, TextPart, build_corpus, open_corpus
from textgen.text.tokenizer import BOS_ID, EOS_ID, PAD_ID, Tokenizer
from textgen.text.tokenizer_training import train_tokenizer

Build = Callable[..., Corpus]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([ENGLISH], kind="bpe", vocab_size=330).tokenizer


@pytest.fixture
def build(tmp_path: Path, tokenizer: Tokenizer) -> Build:
    """Builds a corpus of the given texts, one file each."""

    def from_texts(*texts: str, heldout_texts: tuple[str, ...] = (), seed: int = 0, **changes: Any) -> Corpus:
        paths = [tmp_path / f"{number}.txt" for number in range(len(texts) + len(heldout_texts))]
        for path, text in zip(paths, texts + heldout_texts, strict=True):
            path.write_text(text, encoding="utf-8", newline="")
        files, heldout_files = paths[: len(texts)], paths[len(texts) :]
        given_settings = TextSettings(**changes)
        folder = tmp_path / "corpus"
        return build_corpus(folder, files, given_settings, tokenizer=tokenizer, heldout_files=heldout_files, seed=seed)

    return from_texts


def documents(part: TextPart | None, tokenizer: Tokenizer) -> list[str]:
    """The documents of a part; one that does not end is marked with "…"."""
    assert part is not None
    assert part.ids[0] == BOS_ID
    assert not np.any(part.ids == PAD_ID)
    starts = [*np.flatnonzero(part.ids == BOS_ID), len(part.ids)]
    pieces = [part.ids[start:end] for start, end in pairwise(starts)]
    found = [tokenizer.decode(piece.tolist()) for piece in pieces]
    assert part.documents == len(found)
    assert part.characters == sum(map(len, found))
    assert part.bytes == sum(len(text.encode()) for text in found)
    return [text + ("" if piece[-1] == EOS_ID else "…") for text, piece in zip(found, pieces, strict=True)]


@settings(max_examples=40)
@given(st.text(min_size=2, max_size=200), st.sampled_from([0.1, 0.05, 0.2, 0.3, 0.5, 0.8, 0.9]))
def test_cut_is_at_the_share_of_all_characters(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer, text: str, share: float
) -> None:
    text = text.replace("\r", "").replace("\0", "").removeprefix("\ufeff") + "ab\n" * 4
    path = tmp_path_factory.getbasetemp() / "cut.txt"
    path.write_text(text, encoding="utf-8", newline="")
    settings_ = TextSettings(heldout=share, encoding="utf-8")
    corpus = build_corpus(path.with_suffix(""), [path], settings_, tokenizer=tokenizer)
    train, held = documents(corpus.train, tokenizer), documents(corpus.heldout, tokenizer)
    assert (train, held) == ([train[0][:-1] + "…"], held)
    assert train[0][:-1] + held[0] == text
    assert len(held[0]) == len(text) - round(len(text) * (1 - share) - 0.5 + 1e-9)


@pytest.mark.parametrize("size", [*range(2, 40), 1000, 12345])
def test_a_tenth_is_held_out_as_others_do_it(build: Build, size: int) -> None:
    assert build("x" * size).train.characters == int(0.9 * size)


def test_cut_of_several_files_is_one_cut_of_all_of_them(build: Build, tokenizer: Tokenizer) -> None:
    corpus = build("a" * 10, "b" * 6, "c" * 4, heldout=0.3)
    assert documents(corpus.train, tokenizer) == ["a" * 10, "bbbb…"]
    assert documents(corpus.heldout, tokenizer) == ["bb", "cccc"]
    assert [report.characters for report in corpus.reports] == [10, 6, 4]


def test_cut_between_documents_ends_the_one_before(build: Build, tokenizer: Tokenizer) -> None:
    corpus = build("a" * 9, "b", heldout=0.1)
    assert documents(corpus.train, tokenizer) == ["a" * 9]
    assert documents(corpus.heldout, tokenizer) == ["b"]


def test_end_of_every_file_can_be_held_out(build: Build, tokenizer: Tokenizer) -> None:
    corpus = build("a" * 10, "b" * 20, heldout=0.1, heldout_by="file")
    assert documents(corpus.train, tokenizer) == ["a" * 9 + "…", "b" * 18 + "…"]
    assert documents(corpus.heldout, tokenizer) == ["a", "bb"]


def test_whole_documents_can_be_held_out(build: Build, tokenizer: Tokenizer) -> None:
    texts = [f"document {number}" for number in range(400)]
    first, again, other = (
        build("\n\n".join(texts), split="blank-line", heldout=0.25, heldout_by="document", seed=seed).heldout
        for seed in (1, 1, 2)
    )
    held = documents(first, tokenizer)
    assert 60 < len(held) < 140
    assert held == documents(again, tokenizer) != documents(other, tokenizer)
    train = documents(build("\n\n".join(texts), split="blank-line", heldout=0.0).train, tokenizer)
    assert train == texts


def test_equal_documents_are_never_on_both_sides(build: Build, tokenizer: Tokenizer) -> None:
    corpus = build("\n".join(f"poem {number % 30}" for number in range(300)), split="line", heldout_by="document")
    assert not {*documents(corpus.train, tokenizer)} & {*documents(corpus.heldout, tokenizer)}
    assert corpus.reports[0].duplicates == 270


@pytest.mark.parametrize("share", [0.0001, 0.9999])
@pytest.mark.parametrize("texts", [("a", "b"), ("same", "same", "same"), ("a\n\nb", "c")])
def test_each_side_has_a_document(build: Build, tokenizer: Tokenizer, share: float, texts: tuple[str, ...]) -> None:
    corpus = build(*texts, split="blank-line", heldout=share, heldout_by="document")
    train, held = documents(corpus.train, tokenizer), documents(corpus.heldout, tokenizer)
    assert min(len(train), len(held)) == 1
    assert sorted(train + held) == sorted("\n\n".join(texts).split("\n\n"))


def test_one_document_cannot_be_held_out(build: Build) -> None:
    with pytest.raises(NoText, match="two"):
        build(ENGLISH, heldout_by="document")


def test_nothing_is_held_out_when_not_asked(build: Build, tokenizer: Tokenizer) -> None:
    corpus = build(ENGLISH, heldout=0.0)
    assert corpus.heldout is None
    assert documents(corpus.train, tokenizer) == [ENGLISH]


@pytest.mark.parametrize("by", ["text", "file", "document"])
def test_held_out_files_stand_in_for_a_share(build: Build, tokenizer: Tokenizer, by: str) -> None:
    corpus = build("one\ntwo", heldout_texts=("three\nfour", "five"), split="line", heldout_by=by)
    assert documents(corpus.train, tokenizer) == ["one", "two"]
    assert documents(corpus.heldout, tokenizer) == ["three", "four", "five"]


def test_every_document_has_its_marks(build: Build, tokenizer: Tokenizer) -> None:
    corpus = build("one\ntwo\n\n", "three", split="line", heldout=0.0)
    ids = [[BOS_ID, *tokenizer.encode(text), EOS_ID] for text in ("one", "two", "three")]
    assert corpus.train.ids.tolist() == list(chain.from_iterable(ids))
    assert corpus.train.ids.dtype == np.uint16


def test_large_text_is_the_same_as_in_one_piece(build: Build, tokenizer: Tokenizer) -> None:
    text = (ENGLISH * 700 + CHINESE * 300).replace("wheat", "wh▁at")
    corpus = build(text, text.replace("\n", " "), heldout=0.37)
    train, held = documents(corpus.train, tokenizer), documents(corpus.heldout, tokenizer)
    assert train[0] + train[1][:-1] + held[0] == text + text.replace("\n", " ")
    assert len(corpus.train.ids) < corpus.train.characters


def test_large_vocabularies_get_wide_ids(tmp_path: Path) -> None:
    words = "".join(chr(number) for number in range(0x10000, 0x10000 + 66_000))
    tokenizer = train_tokenizer([words], kind="char", vocab_size=70_000).tokenizer
    (tmp_path / "wide.txt").write_text(words, encoding="utf-8")
    corpus = build_corpus(tmp_path / "corpus", [tmp_path / "wide.txt"], TextSettings(heldout=0.0), tokenizer=tokenizer)
    assert corpus.train.ids.dtype == np.uint32
    assert documents(corpus.train, tokenizer) == [words]


def test_vocabulary_is_trained_on_the_training_part_only(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("abc abc " * 90 + "XYZ XYZ " * 10, encoding="utf-8")
    corpus = build_corpus(tmp_path / "corpus", [path], TextSettings(vocab_size=50_000, tokenizer="bpe"))
    pieces = {corpus.tokenizer.piece(number) for number in range(corpus.tokenizer.vocab_size)}
    assert "abc" in pieces
    assert not {"X", "Y", "Z"} & pieces
    assert corpus.note is not None
    assert "50,000" in corpus.note
    assert open_corpus(corpus.folder).note == corpus.note


def test_opened_corpus_is_the_one_built(build: Build, tokenizer: Tokenizer) -> None:
    built = build("one\r\ntwo\r\ntwo", split="line", heldout_by="document", heldout=0.5)
    opened = open_corpus(built.folder)
    assert opened.reports == built.reports
    assert (opened.reports[0].duplicates, opened.reports[0].newlines) == (1, "\r\n")
    assert opened.tokenizer.sha256 == tokenizer.sha256
    assert documents(opened.train, tokenizer) == documents(built.train, tokenizer)
    assert {path.name for path in built.folder.iterdir()} == {
        "corpus.json",
        "tokenizer.model",
        "train.bin",
        "heldout.bin",
    }
    assert isinstance(opened.train.ids, np.memmap)


def damage_json(folder: Path) -> None:
    (folder / "corpus.json").write_text("{", encoding="utf-8")


def damage_version(folder: Path) -> None:
    content = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
    (folder / "corpus.json").write_text(json.dumps({**content, "format_version": 99}), encoding="utf-8")


def swap_tokenizer(folder: Path) -> None:
    train_tokenizer(["another text"], kind="char", vocab_size=400).tokenizer.save(folder / "tokenizer.model")


def damage_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(b"nonsense")


def cut_ids(folder: Path) -> None:
    (folder / "train.bin").write_bytes((folder / "train.bin").read_bytes()[:-2])


def lose_ids(folder: Path) -> None:
    (folder / "heldout.bin").unlink()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (damage_json, "corpus.json"),
        (damage_version, "corpus.json"),
        (swap_tokenizer, "tokenizer.model"),
        (damage_tokenizer, "tokenizer.model"),
        (cut_ids, "train.bin"),
        (lose_ids, "heldout.bin"),
        (shutil.rmtree, "corpus.json"),
    ],
)
def test_damaged_folder_is_refused_by_name(build: Build, damage: Callable[[Path], None], named: str) -> None:
    folder = build(ENGLISH).folder
    damage(folder)
    with pytest.raises(BadCorpus, match=named):
        open_corpus(folder)


@pytest.mark.parametrize("text", ["", "\n\n \n"])
def test_no_text_is_refused(build: Build, text: str) -> None:
    with pytest.raises(NoText):
        build(text, text, split="line")


def test_text_too_short_to_divide_is_refused(build: Build) -> None:
    with pytest.raises(NoText, match="training text"):
        build("x", heldout=0.1)


def test_empty_files_beside_others_do_no_harm(build: Build, tokenizer: Tokenizer) -> None:
    corpus = build("", "abcdefghij", "", heldout=0.1)
    assert documents(corpus.train, tokenizer) == ["abcdefghi…"]


def test_errors_leave_the_old_corpus(build: Build, tmp_path: Path, tokenizer: Tokenizer) -> None:
    before = build(ENGLISH, heldout=0.0)
    bad, binary = tmp_path / "bad.txt", tmp_path / "binary.txt"
    bad.write_bytes(b"fine \xff")
    binary.write_bytes(b"\0" * 100)
    utf8 = TextSettings(encoding="utf-8")
    for files, given_settings, error in (
        ([bad], utf8, UnreadableText),
        ([binary], TextSettings(), NotText),
        ([tmp_path / "gone.txt"], utf8, MissingFile),
        ([bad], TextSettings(encoding="utf-99"), InvalidSetting),
        ([], utf8, NoText),
    ):
        with pytest.raises(error):
            build_corpus(before.folder, files, given_settings, tokenizer=tokenizer)
    assert documents(open_corpus(before.folder).train, tokenizer) == [ENGLISH]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    (tmp_path / "text.txt").write_text(ENGLISH, encoding="utf-8")
    with pytest.raises(CannotWrite, match="could not be written"):
        build_corpus(tmp_path / "file" / "corpus", [tmp_path / "text.txt"], TextSettings(), tokenizer=tokenizer)


def test_progress_tells_of_every_stage(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text(ENGLISH, encoding="utf-8")
    seen: list[Progress] = []
    build_corpus(tmp_path / "corpus", [path], TextSettings(vocab_size=300, tokenizer="bpe"), progress=seen.append)
    assert list(dict.fromkeys(progress.stage for progress in seen)) == ["reading", "sampling", "tokenizer", "encoding"]
    last = {progress.stage: progress for progress in seen}
    assert last["reading"].done == last["reading"].total == path.stat().st_size
    assert last["encoding"].done == last["encoding"].total == len(ENGLISH)
