from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from textgen.text.ngrams import hash_ngrams
from textgen.text.tokenizer import PAD_ID


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 20))
def test_hashes_are_equal_where_the_tokens_are(ids: list[int], size: int) -> None:
    hashes, is_text = hash_ngrams(np.array(ids, np.uint16), size)
    ngrams = [tuple(ids[place : place + size]) for place in range(max(0, len(ids) - size + 1))]
    assert len(hashes) == len(is_text) == len(ngrams)
    assert len(set(hashes.tolist())) == len(set(ngrams))
    assert len(set(zip(hashes.tolist(), ngrams, strict=True))) == len(set(ngrams))
    assert is_text.tolist() == [min(ngram) > PAD_ID for ngram in ngrams]


def test_the_place_and_the_kind_of_number_do_not_matter() -> None:
    ids = np.random.default_rng(0).integers(0, 60_000, 500)
    whole, _ = hash_ngrams(ids.astype(np.uint32), 8)
    assert (hash_ngrams(ids[100:200].astype(np.uint16), 8)[0] == whole[100:193]).all()
    assert (hash_ngrams(ids.tolist(), 8)[0] == whole).all()
