from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.text.samples import CHINESE, ENGLISH
from textgen.errors import InvalidSetting, NoText
from textgen.progress import Progress
from textgen.text.tokenizer_training import MIN_VOCAB_SIZE, TokenizerKind, train_tokenizer

KINDS: tuple[TokenizerKind, ...] = ("unigram", "bpe", "char")


@pytest.mark.parametrize("kind", KINDS)
def test_same_text_gives_the_same_vocabulary(kind: TokenizerKind) -> None:
    first, second = (train_tokenizer([ENGLISH * 3], kind=kind, vocab_size=320).tokenizer for _ in range(2))
    assert first.sha256 == second.sha256


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_asked_size_is_reached_when_the_text_supports_it(kind: TokenizerKind) -> None:
    result = train_tokenizer([ENGLISH], kind=kind, vocab_size=340)
    assert result.tokenizer.vocab_size == result.asked_vocab_size == 340
    assert result.note is None


@pytest.mark.parametrize("kind", KINDS)
def test_too_large_a_size_gives_the_largest_and_says_so(kind: TokenizerKind) -> None:
    result = train_tokenizer([ENGLISH], kind=kind, vocab_size=50_000)
    assert result.tokenizer.vocab_size < 2_000
    assert result.asked_vocab_size == 50_000
    assert result.note is not None
    assert f"{result.tokenizer.vocab_size:,}" in result.note
    assert "50,000" in result.note


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["a", "\n", " ", "\0", "▁", "\r", "\t", "▅", "a\nb", "One sentence.", "中"], ids=ascii)
def test_tiny_texts_make_a_vocabulary(kind: TokenizerKind, text: str) -> None:
    tokenizer = train_tokenizer([text], kind=kind, vocab_size=1000).tokenizer
    for sample in (text, text * 3, ENGLISH):
        assert tokenizer.decode(tokenizer.encode(sample)) == sample


@settings(max_examples=30)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=4), st.sampled_from(KINDS), st.integers(MIN_VOCAB_SIZE, 400))
def test_any_text_makes_a_lossless_vocabulary(texts: list[str], kind: TokenizerKind, vocab_size: int) -> None:
    tokenizer = train_tokenizer(texts, kind=kind, vocab_size=vocab_size).tokenizer
    assert tokenizer.vocab_size <= vocab_size
    assert tokenizer.decode(tokenizer.encode("".join(texts))) == "".join(texts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_no_text_is_refused(kind: TokenizerKind, texts: list[str]) -> None:
    with pytest.raises(NoText):
        train_tokenizer(texts, kind=kind, vocab_size=1000)


@pytest.mark.parametrize("kind", KINDS)
def test_too_small_a_size_is_refused_naming_the_smallest(kind: TokenizerKind) -> None:
    with pytest.raises(InvalidSetting, match=rf"vocab_size: {MIN_VOCAB_SIZE - 1} .*{MIN_VOCAB_SIZE}"):
        train_tokenizer([ENGLISH], kind=kind, vocab_size=MIN_VOCAB_SIZE - 1)
    smallest = train_tokenizer([ENGLISH], kind=kind, vocab_size=MIN_VOCAB_SIZE).tokenizer
    assert smallest.decode(smallest.encode(ENGLISH)) == ENGLISH


def test_lone_surrogate_in_the_text_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="surrogate"):
        train_tokenizer(["fine", "not \ud800"], kind="bpe", vocab_size=300)


@pytest.mark.parametrize("kind", KINDS)
def test_more_characters_than_pieces_leaves_rare_ones_to_bytes(kind: TokenizerKind) -> None:
    rare = "".join(chr(0x4E00 + number) for number in range(3_000))
    tokenizer = train_tokenizer([CHINESE * 20 + rare], kind=kind, vocab_size=500).tokenizer
    assert tokenizer.vocab_size <= 500
    assert len(tokenizer.encode("的")) == 1
    assert len(tokenizer.encode(chr(0x4E00 + 2_999))) == 3
    assert tokenizer.decode(tokenizer.encode(rare)) == rare


def test_long_lines_are_not_dropped() -> None:
    line = ENGLISH.replace("\n", " ")
    tokenizer = train_tokenizer([line * 400], kind="bpe", vocab_size=400).tokenizer
    assert len(tokenizer.encode(line)) < 0.6 * len(line)


@pytest.mark.parametrize("kind", KINDS)
def test_sample_is_bounded_and_spans_the_whole_text(kind: TokenizerKind) -> None:
    # Only the last quarter of the text speaks of "zebra"; a sample of its beginning would never see it.
    texts = itertools.chain(
        itertools.repeat("over and over again\n" * 50, 300), itertools.repeat("zebra quiz\n" * 100, 100)
    )
    tokenizer = train_tokenizer(texts, kind=kind, vocab_size=290, max_sample_bytes=20_000).tokenizer
    assert all(not tokenizer.piece(number).startswith("<0x") for number in tokenizer.encode("zebra quiz"))


def test_progress_tells_of_reading_and_training() -> None:
    seen: list[Progress] = []
    train_tokenizer([ENGLISH, ENGLISH], kind="unigram", vocab_size=320, progress=seen.append)
    reading = [progress.done for progress in seen if progress.stage == "sampling"]
    training = [progress.done for progress in seen if progress.stage == "tokenizer"]
    assert reading[-1] == 2 * len(ENGLISH)
    assert training == sorted(training)
    assert training
    assert seen[-1].stage == "tokenizer"


def test_progress_that_raises_ends_the_training() -> None:
    def cancel(progress: Progress) -> None:
        if progress.stage == "tokenizer":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_tokenizer([ENGLISH], kind="bpe", vocab_size=320, progress=cancel)


def test_nothing_is_printed() -> None:
    code = (
        "from textgen.text.tokenizer_training import train_tokenizer\n"
        "for kind in ('unigram', 'bpe', 'char'):\n"
        "    train_tokenizer(['hello\\n', 'world' * 9000, 'a b\\0'], kind=kind, vocab_size=5000)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("", "")
