from __future__ import annotations

import numpy as np
import pytest

from tests.grammar import make_text
from textgen.text.copied_text import Copied, CopyFinder, share_of_all
from textgen.text.copying import NgramIndex
from textgen.text.tokenizer import BOS_ID, EOS_ID, Tokenizer
from textgen.text.tokenizer_training import train_tokenizer

PASSAGE = "月亮 beyond 🌙🌙 all measure and é more"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([make_text(characters=5_000)], kind="unigram", vocab_size=320).tokenizer


@pytest.fixture(scope="module")
def finder(tokenizer: Tokenizer) -> CopyFinder:
    ids = np.array([BOS_ID, *tokenizer.encode(make_text(characters=2_000) + PASSAGE + "\n"), EOS_ID])
    return CopyFinder(NgramIndex.build(ids, tokenizer_sha256=tokenizer.sha256, max_bytes=100_000), tokenizer)


def test_copies_are_told_in_characters_whatever_script(tokenizer: Tokenizer, finder: CopyFinder) -> None:
    text = f"🙂 {PASSAGE} 🙂 zzz"
    copied = finder.find(tokenizer.encode(text), text)
    ((start, end),) = copied.spans
    # A token may reach over either end of what was copied.
    assert text[start:end].strip(" \n") in PASSAGE
    assert end - start > len(PASSAGE) - 4
    assert copied.share == pytest.approx((end - start) / len(text))
    assert copied.holds(start, start + 1)
    assert not copied.holds(0, start)
    assert not copied.holds(end, len(text))


def test_a_copy_may_begin_in_what_stands_before(tokenizer: Tokenizer, finder: CopyFinder) -> None:
    ids = tokenizer.encode(PASSAGE)
    new = tokenizer.decode(ids[-2:])
    after = CopyFinder(finder.index, tokenizer, (BOS_ID, *ids[:-2]))
    assert after.find(ids[-2:], new) == Copied(((0, len(new)),), 1.0)
    assert finder.find(ids[-2:], new) == Copied((), 0.0)
    assert after.find([], "") == Copied((), 0.0)


def test_what_a_stop_text_cut_off_does_not_count(tokenizer: Tokenizer, finder: CopyFinder) -> None:
    copied = finder.find(tokenizer.encode(PASSAGE), PASSAGE[:10])
    assert copied == Copied(((0, 10),), 1.0)
    assert finder.find(tokenizer.encode("zz yy " + PASSAGE), "zz").spans == ()


def test_shares_are_of_all_texts_together() -> None:
    assert share_of_all([Copied(((0, 5),), 0.5), Copied((), 0.0)], ["x" * 10, "y" * 40]) == 0.1
    assert share_of_all([None], ["x"]) is None
    assert share_of_all([Copied((), 0.0)], [""]) == 0.0
