from __future__ import annotations

import sys
import zlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgen.errors import BadCheckpoint
from textgen.limits import Limits
from textgen.progress import Progress
from textgen.text.copying import NGRAM_TOKENS, CopyGuard, NgramIndex, best_search, search_plainly
from textgen.text.ngrams import hash_ngrams
from textgen.text.tokenizer import BOS_ID, EOS_ID, PAD_ID

SHA = "ab" * 32
ROOM = Limits().max_copy_index_bytes
VOCAB = 12  # few tokens, so that copies come up by themselves

ids_of_text = st.lists(st.integers(PAD_ID + 1, VOCAB - 1), max_size=60)
documents = st.lists(ids_of_text, max_size=4)


def joined(texts: Sequence[Sequence[int]]) -> np.ndarray:
    return np.array([token for text in texts for token in (BOS_ID, *text, EOS_ID)], np.uint16)


def ngrams(ids: Sequence[int] | np.ndarray) -> list[tuple[int, ...]]:
    values = [int(token) for token in ids]
    return [tuple(values[place : place + NGRAM_TOKENS]) for place in range(len(values) - NGRAM_TOKENS + 1)]


def text_ngrams(ids: np.ndarray) -> set[tuple[int, ...]]:
    return {ngram for ngram in ngrams(ids) if min(ngram) > PAD_ID}


def index_of(ids: np.ndarray, max_bytes: int = ROOM) -> NgramIndex:
    return NgramIndex.build(ids, tokenizer_sha256=SHA, max_bytes=max_bytes)


def naive_copied(known: set[tuple[int, ...]], context: Sequence[int], ids: Sequence[int]) -> set[int]:
    """The places in `ids` that lie in an n-gram that is known."""
    places: set[int] = set()
    for start, ngram in enumerate(ngrams([*context, *ids]), -len(context)):
        if ngram in known:
            places |= set(range(max(0, start), start + NGRAM_TOKENS))
    return places


@given(documents, ids_of_text, ids_of_text, st.data())
def test_every_copy_is_found_and_nothing_else(
    texts: list[list[int]], context: list[int], ids: list[int], data: st.DataObject
) -> None:
    training = joined(texts)
    place = data.draw(st.integers(0, len(training)))
    # A piece of the training text, maybe over a document's end, among other tokens.
    ids = [*ids[:10], *training[place : place + 20].tolist(), *ids[10:]]
    index = index_of(training)
    assert (index.covered, index.fewest_tokens, index.filter.bits) == (1.0, 8, 16)
    spans = index.copied_spans(ids, context=context)
    found = {place for start, end in spans for place in range(start, end)}
    assert found == naive_copied(text_ngrams(training), context, ids)  # 16 bits: a false one is not to be expected
    assert spans == sorted(spans)
    assert all(one[1] <= two[0] for one, two in pairwise(spans))
    assert index.copied_share(ids, context=context) == pytest.approx(len(found) / max(1, len(ids)))


@given(documents, ids_of_text, ids_of_text)
def test_exactly_the_tokens_that_complete_a_copy_are_forbidden(
    texts: list[list[int]], context: list[int], ids: list[int]
) -> None:
    training = joined(texts)
    known = text_ngrams(training)
    for start in (*texts, context):
        guard = CopyGuard([index_of(training)], VOCAB, [BOS_ID, *start[:7]])
        for end in range(len(ids) + 1):
            last = (*start[:7], *ids[:end])[-7:]
            assert list(guard(ids[:end])) == [token for token in range(VOCAB) if (*last, token) in known]


def test_a_text_that_was_asked_not_to_copy_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(1)
    training = random.integers(4, 30, 5_000)
    guard = CopyGuard([index_of(training)], 30, training[:7].tolist())
    # Someone who wants to recite the text, and writes something else only where that is forbidden.
    written: list[int] = []
    for wanted in training[7:400].tolist():
        forbidden = set(guard(written))
        written.append(wanted if wanted not in forbidden else next(t for t in range(4, 30) if t not in forbidden))
    assert not text_ngrams(np.array([*training[:7], *written])) & text_ngrams(training)
    assert sum(a == b for a, b in zip(written, training[7:400].tolist(), strict=True)) > 300


def random_text(tokens: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(4, 1000, tokens).astype(np.uint16)


@pytest.mark.parametrize(("max_bytes", "bits", "fewest"), [(60_000, 16, 8), (44_000, 12, 8), (33_000, 9, 9)])
def test_the_smaller_the_room_the_fewer_bits_and_then_tokens(max_bytes: int, bits: int, fewest: int) -> None:
    training = random_text(24_000)
    index = index_of(training, max_bytes)
    assert len(index.to_bytes()) <= max_bytes
    assert (index.filter.bits, index.covered, index.fewest_tokens) == (bits, 1.0, fewest)
    assert index.copied_spans(training) == [(0, len(training))]
    other = random_text(60_000, 1)
    for start in range(0, 20_000, 500):
        other[start : start + fewest] = training[start : start + fewest]
    spans = index.copied_spans(other)
    assert all(any(a <= start and start + fewest <= b for a, b in spans) for start in range(0, 20_000, 500))
    # By chance 15 or 22 are to be expected where 12 or 9 bits have to do.
    assert len(spans) - 40 <= 35


def test_of_a_text_too_large_a_sample_is_kept_and_long_copies_are_found() -> None:
    training = random_text(40_000)
    index = index_of(training, 20_000)
    assert len(index.to_bytes()) <= 20_000
    assert index.filter.bits == 12
    assert 0.2 < index.covered < 0.4
    keys, _ = hash_ngrams(training, NGRAM_TOKENS)
    assert np.mean(keys <= np.uint64(index.limit)) == pytest.approx(index.covered, abs=0.01)
    length, places = 40, range(0, 20_000, 200)
    found, wrong = 0, 0
    for place in places:
        ids = np.concatenate([random_text(30, place), training[place : place + length], random_text(30, place + 1)])
        copied = {token for start, end in index.copied_spans(ids) for token in range(start, end)}
        found += len(copied & set(range(30, 30 + length)))
        wrong += len(copied - set(range(30, 30 + length)))
    assert found > 0.75 * length * len(places)  # all but the ends beyond the first and last n-gram of the sample
    assert wrong < 0.03 * 60 * len(places)
    guard = CopyGuard([index], 1000, [])
    forbidden = [training[place + 7] in list(guard(training[place : place + 7].tolist())) for place in places]
    assert np.mean(forbidden) == pytest.approx(index.covered, abs=0.15)


def test_false_positives_are_as_rare_as_is_promised() -> None:
    training, other = random_text(20_000), random_text(400_000, 1)
    index = index_of(training, 37_000)
    assert index.filter.bits == 12
    keys, is_text = hash_ngrams(other, NGRAM_TOKENS)
    assert is_text.all()
    hits = index.copied_share(other) * len(other) / NGRAM_TOKENS
    assert hits == pytest.approx(len(keys) / 2**12, rel=0.5)
    assert index_of(training).copied_share(other) * len(other) / NGRAM_TOKENS < 25  # 2^-16: 6 are to be expected


def test_a_text_without_ngrams_has_an_index_all_the_same() -> None:
    for training in (np.zeros(0, np.uint16), joined([[5, 6, 7]] * 9)):
        index = NgramIndex.from_bytes(index_of(training).to_bytes(), tokenizer_sha256=SHA)
        assert index.covered == 1.0
        assert index.copied_spans([5] * 30) == []
        assert list(CopyGuard([index], VOCAB, [])([5] * 30)) == []
        assert index.copied_share([]) == 0.0


def test_it_is_read_back_as_it_was_written_and_does_not_contain_the_text() -> None:
    training = random_text(30_000)
    index = index_of(training, 40_000)
    data = index.to_bytes()
    again = NgramIndex.from_bytes(data, tokenizer_sha256=SHA)
    assert again.to_bytes() == data
    assert (again.limit, again.copied_spans(training[:5000])) == (index.limit, index.copied_spans(training[:5000]))
    assert index_of(training, 40_000).to_bytes() == data
    for dtype in (np.uint8, np.uint16, np.uint32):
        pieces = training.astype(dtype)
        assert not any(pieces[place : place + 8].tobytes() in data for place in range(0, len(training), 97))


def test_one_beginning_may_go_on_in_very_many_ways() -> None:
    """All these n-grams would lie together, and do not fit."""
    lists = np.array([token for number in range(4, 3_000) for token in (5, 5, 5, 5, 5, 5, 5, number)])
    index = index_of(lists)
    assert not index.filter.is_grouped
    assert index.copied_spans(lists) == [(0, len(lists))]
    assert index.copied_share(random_text(10_000)) == 0.0
    assert list(CopyGuard([index], 4_000, [])([5] * 7)) == list(range(4, 3_000))


def test_work_is_reported() -> None:
    seen: list[Progress] = []
    NgramIndex.build(random_text(200_000), tokenizer_sha256=SHA, max_bytes=ROOM, progress=seen.append)
    assert [one.done for one in seen] == [65_536, 131_072, 196_608, 200_000]
    assert {(one.stage, one.total) for one in seen} == {("indexing", 200_000)}


def patched(data: bytes, place: int, value: bytes) -> bytes:
    return data[:place] + value + data[place + len(value) :]


@pytest.mark.parametrize(
    ("place", "value", "field"),
    [(0, b"X", "header"), (8, b"\x02", "version"), (10, b"\x09", "n-gram size"), (12, b"\x0d", "checksum"),
     (-1, b"\xff\xff", "checksum")],
)  # fmt: skip
def test_a_damaged_index_is_refused_with_file_and_field(place: int, value: bytes, field: str) -> None:
    data = patched(index_of(random_text(500)).to_bytes(), place, value)
    with pytest.raises(BadCheckpoint) as caught:
        NgramIndex.from_bytes(data, tokenizer_sha256=SHA)
    assert (caught.value.params["file"], caught.value.params["field"]) == ("copy_index.safetensors", field)


def test_an_index_of_another_tokenizer_is_refused() -> None:
    with pytest.raises(BadCheckpoint, match="another tokenizer"):
        NgramIndex.from_bytes(index_of(random_text(500)).to_bytes(), tokenizer_sha256="cd" * 32)


@given(st.data())
def test_no_bytes_do_more_than_be_refused(data: st.DataObject) -> None:
    """Also where the checksum is right, which anybody can see to."""
    whole = bytearray(index_of(random_text(60)).to_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(10, 33))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(60, len(whole)))]) if data.draw(st.booleans()) else bytes(whole)
    header, rest = cut[:64], cut[68:]
    forged = header + zlib.crc32(header + rest).to_bytes(4, "little") + rest
    try:
        index = NgramIndex.from_bytes(forged, tokenizer_sha256=SHA)
    except BadCheckpoint:
        return
    index.copied_spans(random_text(300))
    CopyGuard([index], VOCAB, [])([5] * 8)


@given(documents, st.lists(st.integers(PAD_ID + 1, VOCAB - 1), min_size=7, max_size=7))
def test_both_searches_find_the_same(texts: list[list[int]], last: list[int]) -> None:
    training = joined(texts)
    index = index_of(training, 300)
    guard = CopyGuard([index], VOCAB, [])
    found = list(guard(last))
    guard._search = search_plainly
    assert list(guard(last)) == found


def test_without_numba_copies_are_avoided_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert best_search() is not search_plainly
    for name in ("textgen.compiled", "textgen.text.compiled_copying"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    best_search.cache_clear()
    try:
        assert best_search() is search_plainly
    finally:
        best_search.cache_clear()
    assert "numba is not installed" in caplog.text
