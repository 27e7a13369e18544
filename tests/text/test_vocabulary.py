from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.grammar import make_text
from textgen.config import TextSettings
from textgen.errors import InvalidSetting
from textgen.text.corpus import build_corpus
from textgen.text.tokenizer import Tokenizer
from textgen.text.tokenizer_training import TokenizerKind, train_tokenizer
from textgen.text.vocabulary import extend_tokenizer, spellings, tokenizer_kind

KINDS: list[TokenizerKind] = ["unigram", "bpe", "char"]
OLD = make_text(characters=20_000)
NEW = "The zeppelin's zigzag quacked: xylophones, ☂ jukeboxes! Zeppelins, zeppelins and jukeboxes.\n" * 40


def vocabulary(text: str, kind: TokenizerKind, size: int = 340) -> Tokenizer:
    return train_tokenizer([text], kind=kind, vocab_size=size).tokenizer


@pytest.fixture(scope="module", params=KINDS)
def both(request: pytest.FixtureRequest) -> tuple[Tokenizer, Tokenizer]:
    base = vocabulary(OLD, request.param)
    return base, extend_tokenizer(base, vocabulary(NEW, request.param))


def test_an_extended_vocabulary_keeps_its_ids_and_uses_the_new_pieces(both: tuple[Tokenizer, Tokenizer]) -> None:
    base, extended = both
    assert extended.vocab_size > base.vocab_size
    old = [base.piece(number) for number in range(base.vocab_size)]
    assert [extended.piece(number) for number in range(base.vocab_size)] == old
    ids = extended.encode(NEW)
    assert len(ids) < len(base.encode(NEW))
    assert max(ids) >= base.vocab_size
    assert tokenizer_kind(extended) == tokenizer_kind(base)


def test_an_extended_vocabulary_is_lossless(both: tuple[Tokenizer, Tokenizer]) -> None:
    @given(text=st.text() | st.text(alphabet="zeplin gaq☂\n\u2581é"))
    def check(text: str) -> None:
        assert both[1].decode(both[1].encode(text)) == text

    check()


def test_each_piece_is_spelled_by_the_base(both: tuple[Tokenizer, Tokenizer]) -> None:
    base, extended = both
    spelled = spellings(extended, base)
    assert spelled[: base.vocab_size] == [(number,) for number in range(base.vocab_size)]
    assert len(spelled) == extended.vocab_size
    for number in range(base.vocab_size, extended.vocab_size):
        assert spelled[number]
        assert base.decode(spelled[number]) == extended.decode([number])


@pytest.mark.parametrize("kind", ["unigram", "char"])
def test_a_new_piece_stands_where_its_spelling_stood(kind: TokenizerKind) -> None:
    base = vocabulary(OLD, kind)
    extended = extend_tokenizer(base, vocabulary(NEW, kind))
    spelled = spellings(extended, base)
    ids = [number for piece in extended.encode(NEW) for number in spelled[piece]]
    assert base.decode(ids) == NEW
    saved = len(base.encode(OLD)) - len(extended.encode(OLD))
    assert 0 <= saved < 0.02 * len(base.encode(OLD))


def test_a_vocabulary_that_lacks_nothing_is_left_as_it_is() -> None:
    base = vocabulary(OLD, "unigram")
    assert extend_tokenizer(base, base).sha256 == base.sha256


def test_vocabularies_of_two_kinds_do_not_mix() -> None:
    with pytest.raises(InvalidSetting, match="bpe was given; allowed: pieces of the base's kind, which is unigram"):
        extend_tokenizer(vocabulary(OLD, "unigram"), vocabulary(NEW, "bpe"))


def test_a_corpus_keeps_extends_or_replaces_the_vocabulary_of_a_base(tmp_path: Path) -> None:
    base = vocabulary(OLD, "bpe")
    (tmp_path / "new.txt").write_text(NEW, encoding="utf-8")

    def corpus_vocabulary(choice: str) -> Tokenizer:
        settings = TextSettings(vocab_size=330, base_vocabulary=choice)
        corpus = build_corpus(tmp_path / choice, [tmp_path / "new.txt"], settings, tokenizer=base)
        assert corpus.tokenizer.decode(n for n in corpus.train.ids if n > 3) == NEW[: corpus.train.characters]
        return corpus.tokenizer

    assert corpus_vocabulary("keep").sha256 == base.sha256
    extended = corpus_vocabulary("extend")
    assert [extended.piece(n) for n in range(base.vocab_size)] == [base.piece(n) for n in range(base.vocab_size)]
    assert extended.vocab_size > base.vocab_size
    assert tokenizer_kind(corpus_vocabulary("new")) == "unigram"
