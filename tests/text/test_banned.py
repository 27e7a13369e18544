from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.grammar import make_text
from textgen.errors import InvalidSetting
from textgen.text.banned import BannedStrings, PieceIndex
from textgen.text.tokenizer import EOS_ID, UNK_ID, Tokenizer
from textgen.text.tokenizer_training import train_tokenizer

# Few letters, so that banned texts come up, overlap and hold one another; of one to four bytes.
few_letters = st.text("ab \né月🌙", min_size=1, max_size=5)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    text = make_text(characters=8_000) + "ab aab aba bba baab abab aé éa 月亮 a月 月b " * 40
    return train_tokenizer([text], kind="bpe", vocab_size=380).tokenizer


@pytest.fixture(scope="module")
def pieces(tokenizer: Tokenizer) -> PieceIndex:
    return PieceIndex(tokenizer)


@pytest.fixture(scope="module")
def letter_ids(tokenizer: Tokenizer) -> list[int]:
    """Tokens made of nothing but bytes of the few letters, single bytes and longer ones."""
    letters = set("ab \né月🌙".encode())
    return [number for number in range(tokenizer.vocab_size) if set(tokenizer.piece_bytes(number)) <= letters]


def text_bytes(tokenizer: Tokenizer, ids: Sequence[int]) -> bytes:
    return b"".join(map(tokenizer.piece_bytes, ids))


def completing(tokenizer: Tokenizer, banned: Sequence[str], prompt: str, ids: Sequence[int]) -> list[int]:
    """Every token with which a banned text would end in the new token's bytes: by trying them all."""
    before = prompt.encode() + text_bytes(tokenizer, ids)
    needles = [text.encode() for text in banned]
    return [
        number
        for number in range(tokenizer.vocab_size)
        if any(
            (before + tokenizer.piece_bytes(number)).find(needle, max(0, len(before) - len(needle) + 1)) >= 0
            for needle in needles
        )
    ]


@given(st.text("ab \né月🌙", min_size=1, max_size=3), st.integers(0, 2), st.integers(1, 12))
def test_pieces_are_found_by_what_they_hold_and_begin_with(
    tokenizer: Tokenizer, pieces: PieceIndex, text: str, start: int, size: int
) -> None:
    part = text.encode()[start:][:size] or b"a"
    every = {number: tokenizer.piece_bytes(number) for number in range(tokenizer.vocab_size)}
    assert sorted(pieces.containing(part)) == [number for number, piece in every.items() if part in piece]
    assert sorted(pieces.starting_with(part)) == [number for number, piece in every.items() if piece.startswith(part)]


def test_what_is_found_across_two_pieces_hides_nothing() -> None:
    class Pieces:
        """In order “a”, “aab”: the first “aa” of “aaab” is in neither, the one that overlaps it is in the second."""

        vocab_size = 2

        def piece_bytes(self, token_id: int) -> bytes:
            return (b"aab", b"a")[token_id]

    index = PieceIndex(Pieces())  # type: ignore[arg-type]
    assert index.containing(b"aa").tolist() == [0]
    assert index.containing(b"aaa").tolist() == []


@given(st.lists(few_letters, min_size=1, max_size=4), few_letters | st.just(""), st.data())
def test_exactly_the_completing_tokens_are_forbidden_also_where_the_ban_was_not_kept(
    tokenizer: Tokenizer,
    pieces: PieceIndex,
    letter_ids: list[int],
    banned: list[str],
    prompt: str,
    data: st.DataObject,
) -> None:
    forbidden_next = BannedStrings(banned, tokenizer, pieces=pieces, prompt=prompt)
    ids = data.draw(st.lists(st.sampled_from(letter_ids), max_size=8))
    for end in range(len(ids) + 1):
        assert list(forbidden_next(ids[:end])) == completing(tokenizer, banned, prompt, ids[:end])


@given(st.lists(few_letters, min_size=1, max_size=4), few_letters, st.integers(0, 2**32))
def test_no_obedient_text_contains_a_banned_one(
    tokenizer: Tokenizer, pieces: PieceIndex, letter_ids: list[int], banned: list[str], prompt: str, seed: int
) -> None:
    """The adversary writes on towards a banned text wherever it is let."""
    forbidden_next = BannedStrings(banned, tokenizer, pieces=pieces, prompt=prompt)
    adversary = random.Random(seed)
    wanted = [number for text in banned for number in (*tokenizer.encode(text), *text_bytes_ids(tokenizer, text))]
    ids: list[int] = []
    for _ in range(40):
        forbidden = set(forbidden_next(ids))
        allowed = [number for number in (*wanted, *letter_ids) if number not in forbidden]
        ids.append(adversary.choice(allowed or [EOS_ID]))
    written = tokenizer.decode(ids)
    assert not any(text in written for text in banned)
    whole = prompt.encode() + text_bytes(tokenizer, ids)
    for text in banned:
        assert whole.find(text.encode(), max(0, len(prompt.encode()) - len(text.encode()) + 1)) < 0


def text_bytes_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """`text` as tokens of one byte each."""
    by_byte = {tokenizer.piece_bytes(number): number for number in range(tokenizer.vocab_size)}
    return [by_byte[bytes([byte])] for byte in text.encode()]


@given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=3), st.text(max_size=20))
def test_any_unicode_text_can_be_banned(tokenizer: Tokenizer, pieces: PieceIndex, banned: list[str], text: str) -> None:
    forbidden_next = BannedStrings(banned, tokenizer, pieces=pieces)
    ids = tokenizer.encode(text + banned[0])
    kept = all(ids[end] not in forbidden_next(ids[:end]) for end in range(len(ids)))
    assert not kept


@pytest.mark.parametrize("banned", ["heron", "the heron", " ", "月亮", "🌙", "é", "\n\n", "\u2581x"])
def test_it_makes_no_difference_how_a_text_is_cut(tokenizer: Tokenizer, pieces: PieceIndex, banned: str) -> None:
    forbidden_next = BannedStrings([banned], tokenizer, pieces=pieces)
    for ids in (tokenizer.encode(banned), text_bytes_ids(tokenizer, banned)):
        assert ids[-1] in forbidden_next(ids[:-1])
        assert all(number not in forbidden_next(ids[:place]) for place, number in enumerate(ids[:-1]))


def test_a_ban_reaches_back_into_the_prompt_but_not_behind_it(tokenizer: Tokenizer, pieces: PieceIndex) -> None:
    (rest,) = text_bytes_ids(tokenizer, "n")
    assert rest not in BannedStrings(["heron"], tokenizer, pieces=pieces)([])
    assert rest in BannedStrings(["heron"], tokenizer, pieces=pieces, prompt="The hero")([])
    assert rest in BannedStrings(["heron"], tokenizer, pieces=pieces, prompt="The he")(tokenizer.encode("ro"))
    # What stands in the prompt already is no reason to forbid anything.
    whole = BannedStrings(["heron"], tokenizer, pieces=pieces, prompt="The heron")
    assert list(whole([])) == list(BannedStrings(["heron"], tokenizer, pieces=pieces)([]))


def test_the_end_token_and_others_without_text_are_never_forbidden(tokenizer: Tokenizer, pieces: PieceIndex) -> None:
    every_byte = [chr(number) for number in range(128)]
    forbidden = BannedStrings(every_byte, tokenizer, pieces=pieces)([])
    assert EOS_ID not in forbidden
    assert UNK_ID not in forbidden
    # A text goes on through them.
    start, *rest = text_bytes_ids(tokenizer, "her")
    assert rest[-1] in BannedStrings(["her"], tokenizer, pieces=pieces)([start, EOS_ID, rest[0], EOS_ID, EOS_ID])


def test_numpy_takes_the_answer_as_it_is(tokenizer: Tokenizer, pieces: PieceIndex) -> None:
    ids = np.asarray(BannedStrings(["e", "th"], tokenizer, pieces=pieces, prompt="t")([]))
    assert ids.dtype == np.int64
    assert not ids.flags.owndata
    assert not ids.flags.writeable
    assert ids.size > 2
    assert np.array_equal(ids, np.unique(ids))
    nothing = np.asarray(BannedStrings([], tokenizer)([1, 2]))
    assert nothing.dtype == np.int64
    assert nothing.size == 0


def test_answers_stay_right_when_more_come_up_than_are_remembered(tokenizer: Tokenizer, pieces: PieceIndex) -> None:
    banned = "".join(chr(0x3041 + number) for number in range(80))
    forbidden_next = BannedStrings([banned], tokenizer, pieces=pieces)
    ids = text_bytes_ids(tokenizer, banned)
    for _ in range(2):
        answers = [list(forbidden_next(ids[:end])) for end in range(len(ids))]
        assert answers == [[]] * (len(ids) - 1) + [[ids[-1]]]


def test_a_long_text_that_repeats_itself_is_followed_to_its_end(tokenizer: Tokenizer, pieces: PieceIndex) -> None:
    (letter,) = text_bytes_ids(tokenizer, "a")
    forbidden_next = BannedStrings(["a" * 4_000], tokenizer, pieces=pieces, prompt="a" * 1_000)
    assert letter not in forbidden_next([letter] * 2_998)
    assert letter in forbidden_next([letter] * 2_999)
    assert letter in forbidden_next([letter] * 5_000)


@pytest.mark.parametrize(
    ("banned", "sentence"),
    [
        (["a", ""], "banned: an empty text was given; allowed: texts of at least one character."),
        (["a" * 4_000, "é" * 50], "banned: 4100 bytes was given; allowed: at most 4096 bytes in all."),
        (["\ud800"], "text: a lone surrogate at character 0 was given; allowed: complete Unicode characters."),
    ],
)
def test_what_cannot_be_banned_is_refused(tokenizer: Tokenizer, banned: list[str], sentence: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        BannedStrings(banned, tokenizer)
    assert str(caught.value) == sentence
