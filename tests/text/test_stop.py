from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.grammar import make_text
from textgen.text.stop import StopStrings
from textgen.text.tokenizer import EOS_ID, Tokenizer
from textgen.text.tokenizer_training import train_tokenizer

few_letters = st.text("ab\n月", min_size=1, max_size=4)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([make_text(characters=8_000)], kind="bpe", vocab_size=320).tokenizer


@pytest.mark.parametrize(
    ("stops", "text", "trimmed"),
    [
        ((), "all of it", "all of it"),
        (("x",), "all of it", "all of it"),
        (("of", "all"), "see all of it", "see "),
        (("all", "of"), "see all of it", "see "),
        (("s",), "see", ""),
        (("aab",), "aaab", "a"),
    ],
)
def test_text_ends_where_the_first_stop_string_begins(stops: tuple[str, ...], text: str, trimmed: str) -> None:
    assert StopStrings(stops).trim(text) == trimmed


@given(st.lists(few_letters, max_size=3), st.lists(st.text("ab\n月", max_size=3), max_size=12))
def test_streamed_text_is_the_trimmed_text_whatever_the_cuts(stops: list[str], pushes: list[str]) -> None:
    stop = StopStrings(stops)
    holdback = stop.holdback()
    whole = "".join(pushes)
    trimmed = stop.trim(whole)
    shown = ""
    for number, push in enumerate(pushes):
        shown += holdback.push(push)
        # Never takes anything back, and keeps back no more than a stop string needs.
        assert trimmed.startswith(shown)
        seen = "".join(pushes[: number + 1])
        if stop.trim(seen) == seen:
            assert len(seen) - len(shown) < max(map(len, stops), default=1)
    if trimmed != whole:
        assert shown == trimmed


@given(st.lists(few_letters, min_size=1, max_size=3), st.text("ab\n月 the", max_size=30))
def test_the_condition_is_true_with_the_token_that_completes_a_stop_string(
    tokenizer: Tokenizer, stops: list[str], text: str
) -> None:
    ids = tokenizer.encode(text)
    stopped = StopStrings(stops).condition(tokenizer)
    completed = [
        any(stop.encode() in b"".join(map(tokenizer.piece_bytes, ids[:end])) for stop in stops)
        for end in range(1, len(ids) + 1)
    ]
    first = completed.index(True) + 1 if True in completed else len(ids)
    assert [stopped(ids[:end]) for end in range(1, first + 1)] == completed[:first]


@pytest.mark.parametrize("stop", ["ound a", "月亮", "🌙", "\u2581x", ".\n", "a b"])
def test_stop_strings_straddle_tokens(tokenizer: Tokenizer, stop: str) -> None:
    ids = tokenizer.encode(f"The heron found  it{stop}")
    stopped = StopStrings([stop]).condition(tokenizer)
    ends = [stopped(ids[:end]) for end in range(1, len(ids) + 1)]
    assert len(tokenizer.encode(stop)) > 1
    assert ends == [False] * (len(ids) - 1) + [True]


def test_many_empty_pieces_at_the_end_do_not_hide_a_stop_string(tokenizer: Tokenizer) -> None:
    stopped = StopStrings(["heron"]).condition(tokenizer)
    ids = tokenizer.encode("The heron")
    assert not stopped([])
    assert stopped([*ids, EOS_ID])


@given(st.text(max_size=20), st.text(min_size=1, max_size=5))
def test_any_unicode_stop_string_is_found(tokenizer: Tokenizer, before: str, stop: str) -> None:
    assume(not any("\ud800" <= character <= "\udfff" for character in before + stop))
    ids = tokenizer.encode(before + stop)
    stopped = StopStrings([stop]).condition(tokenizer)
    assert any(stopped(ids[:end]) for end in range(1, len(ids) + 1))
    assert stop not in StopStrings([stop]).trim(tokenizer.decode(ids))
