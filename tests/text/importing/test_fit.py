from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.grammar import make_text
from tests.text.samples import CHINESE, RUSSIAN
from textgen.text.importing import vocabulary_fit
from textgen.text.tokenizer import Tokenizer
from textgen.text.tokenizer_training import train_tokenizer

TEXT = make_text(characters=20_000)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([TEXT], kind="unigram", vocab_size=360).tokenizer


def test_a_vocabulary_fits_the_text_it_was_made_for(tokenizer: Tokenizer) -> None:
    fit = vocabulary_fit(tokenizer, [TEXT])
    assert fit.characters == len(TEXT)
    assert fit.tokens == len(tokenizer.encode(TEXT))
    assert fit.tokens_per_character == fit.tokens / fit.characters < 0.7
    assert (fit.byte_fallback_share, fit.unknown_scripts) == (0.0, ())


def test_scripts_that_it_does_not_know_are_named(tokenizer: Tokenizer) -> None:
    known = TEXT[:1000]
    fit = vocabulary_fit(tokenizer, [known, RUSSIAN, "字"])
    unknown = sum("а" <= letter.lower() <= "ё" for letter in RUSSIAN)
    assert fit.unknown_scripts == ("Cyrillic", "Han") or fit.unknown_scripts == ("Cyrillic",)
    assert fit.byte_fallback_share >= unknown / fit.characters
    assert fit.byte_fallback_share < (len(RUSSIAN) + 1) / fit.characters
    assert fit.tokens_per_character > 0.7


def test_characters_not_bytes_are_counted(tokenizer: Tokenizer) -> None:
    fit = vocabulary_fit(tokenizer, ["яяяяя"])
    assert (fit.byte_fallback_share, fit.characters, fit.tokens) == (1.0, 5, 10)
    assert vocabulary_fit(tokenizer, ["я\ud800"]).byte_fallback_share == 1.0


def test_no_text_has_no_figures(tokenizer: Tokenizer) -> None:
    fit = vocabulary_fit(tokenizer, [])
    assert (fit.tokens, fit.characters, fit.byte_fallback_share, fit.tokens_per_character) == (0, 0, 0.0, 0.0)


def test_only_a_sample_is_read(tokenizer: Tokenizer) -> None:
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield CHINESE * 1000

    assert vocabulary_fit(tokenizer, texts()).characters == 1 << 18
    assert read == 8
