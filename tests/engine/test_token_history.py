from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from textgen.engine.token_history import SuffixRepeats, TokenCounts

texts = st.lists(st.integers(0, 2), max_size=40)  # few tokens, so that much is repeated


def plain_following(text: list[int], least: int) -> list[tuple[int, int]]:
    """(token, how much of what stood before it is also the end of the text) at every place where that is enough."""
    found = []
    for place in range(len(text)):
        length = 0
        while length < place and text[place - 1 - length] == text[len(text) - 1 - length]:
            length += 1
        if length >= least:
            found.append((text[place], length))
    return found


def following(repeats: SuffixRepeats, least: int) -> list[tuple[int, int]]:
    token_ids, lengths = repeats.following(least)
    return list(zip(token_ids.tolist(), lengths.tolist(), strict=True))


@given(texts, texts, st.integers(0, 6))
def test_repeats_are_those_of_the_plain_definition_after_every_token(
    start: list[int], rest: list[int], least: int
) -> None:
    repeats = SuffixRepeats(start)
    assert following(repeats, least) == plain_following(start, least)
    for end, token_id in enumerate(rest, 1):
        repeats.append(token_id)
        assert following(repeats, least) == plain_following(start + rest[:end], least)


@given(texts, texts)
def test_counts_are_those_of_the_text(start: list[int], rest: list[int]) -> None:
    counts = TokenCounts(start)
    for token_id in rest:
        counts.append(token_id)
    assert dict(zip(counts.ids.tolist(), counts.counts.tolist(), strict=True)) == Counter(start + rest)


def test_copies_go_their_own_way() -> None:
    counts, repeats = TokenCounts([4, 4, 5]), SuffixRepeats([4, 5, 4, 5])
    other_counts, other_repeats = counts.copy(), repeats.copy()
    for token_id in range(30):
        other_counts.append(token_id)
        other_repeats.append(4)
    counts.append(9)
    repeats.append(9)
    assert sorted(counts.ids.tolist()) == [4, 5, 9]
    assert dict(zip(other_counts.ids.tolist(), other_counts.counts.tolist(), strict=True))[4] == 3
    assert following(repeats, 1) == []
    assert following(other_repeats, 25) == [(4, length) for length in range(25, 30)]


def test_one_token_over_and_over_is_no_trouble() -> None:
    repeats = SuffixRepeats([7] * 20_000)
    assert following(repeats, 19_999) == [(7, 19_999)]
    repeats.append(7)
    assert following(repeats, 20_000) == [(7, 20_000)]
