"""Titles: what may be one, and how they are told apart."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgen.errors import InvalidSetting
from textgen.jobs.titles import checked_title, free_title, is_taken, tidy_title

MOST = 20
TITLES = st.text(st.characters(categories=("Cs", "Cc", "Cf", "L", "So", "Z")), max_size=40)


@pytest.mark.parametrize("title", ["Tales", "静夜思 “模型”", "👩\u200d👩\u200d👧", "می\u200cروم", "<b>"])
def test_what_is_seen_is_a_title(title: str) -> None:
    assert checked_title(f" {title}\n", MOST) == title


@pytest.mark.parametrize("unseen", ["\u202e", "\u2066", "\u200b", "\ufeff", "\x07", "\x7f", "\ud83d", "\u00ad"])
def test_what_is_not_seen_is_named(unseen: str) -> None:
    with pytest.raises(InvalidSetting, match=rf"title: U\+{ord(unseen):04X} was given; allowed: characters that are"):
        checked_title(f"Ta{unseen}les", MOST)


@pytest.mark.parametrize("title", ["", " \n", "x" * (MOST + 1)])
def test_titles_have_a_length(title: str) -> None:
    with pytest.raises(InvalidSetting, match="1 to 20 characters"):
        checked_title(title, MOST)


@given(name=TITLES)
def test_the_name_of_any_file_gives_a_title(name: str) -> None:
    title = tidy_title(name, MOST, otherwise="model")
    assert checked_title(title, MOST) == title


@given(title=TITLES.filter(str.strip))
def test_what_is_let_through_can_be_told_to_a_browser(title: str) -> None:
    try:
        kept = checked_title(title, 40)
    except InvalidSetting:
        assert any(unicodedata.category(character) in ("Cc", "Cf", "Cs") for character in title)
    else:
        assert kept.encode()


def test_a_title_that_is_taken_gets_a_number() -> None:
    assert free_title("ann/tales", ["bo/tales"], MOST) == "ann/tales"
    assert free_title("ann/tales", ["ann/tales"], MOST) == "ann/tales (2)"
    assert free_title("ann/tales", ["ann/tales", "ann/tales (2)"], MOST) == "ann/tales (3)"
    assert free_title("x" * MOST, ["x" * MOST], MOST) == "x" * (MOST - 4) + " (2)"


@pytest.mark.parametrize("other", ["tales", "Ｔales", "Ta\u200dles"])
def test_titles_that_look_alike_are_one(other: str) -> None:
    assert is_taken("Tales", [other])
    assert free_title("Tales", [other], MOST) == "Tales (2)"
    assert not is_taken("Tales 2", [other])
