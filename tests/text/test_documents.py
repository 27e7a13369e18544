from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgen.text.documents import Segment, split_documents


def documents(blocks: list[str], split: str) -> list[str]:
    """The documents of a text, put together from their segments."""
    found, beginning = [], ""
    for segment in split_documents(blocks, split):
        assert segment.text
        beginning += segment.text
        if segment.ends_document:
            found.append(beginning)
            beginning = ""
    assert not beginning
    return found


def cut_everywhere(text: str) -> Iterator[list[str]]:
    """The text in every choice of two blocks, and character by character."""
    for position in range(len(text) + 1):
        yield [text[:position], text[position:]]
    yield list(text)


TEXTS = {
    ("file", "one\n\ntwo\n"): ["one\n\ntwo\n"],
    ("file", "  \n"): ["  \n"],
    ("file", ""): [],
    ("line", "one\ntwo\n\n  three \n"): ["one", "two", "  three "],
    ("line", "no end"): ["no end"],
    ("line", "\n \n\n"): [],
    ("blank-line", "a\nb\n\nc\n"): ["a\nb", "c"],
    ("blank-line", "\n\na\n \t\n\n\nb\nc\n\n"): ["a", "b\nc"],
    ("blank-line", "  indented\n\n  too"): ["  indented", "  too"],
    ("blank-line", "a \n\n \nb"): ["a ", "b"],
    ("blank-line", " \n \n"): [],
    ("---", "a\n---\nb---c------d"): ["a", "b", "c", "d"],
    ("<|end|>", "x <|end| y<|end|>z<|end"): ["x <|end| y", "z<|end"],
    ("\n\n", "a\n\n\nb"): ["a", "b"],
    ("\r\n--\r\n", "a\n--\nb"): ["a", "b"],
}


@pytest.mark.parametrize(("split", "text"), TEXTS, ids=repr)
def test_documents_end_where_they_should_wherever_blocks_end(split: str, text: str) -> None:
    for blocks in cut_everywhere(text):
        assert documents(blocks, split) == TEXTS[split, text], blocks


@given(
    st.lists(st.text(alphabet="ab \n\t-", max_size=12), max_size=6),
    st.sampled_from(["line", "blank-line", "-", "-\n-"]),
)
def test_blocks_make_no_difference(blocks: list[str], split: str) -> None:
    text = "".join(blocks)
    found = documents(blocks, split)
    assert found == documents([text], split)
    kinds = {"line": "\n", "blank-line": r"\n(?:[ \t]*\n)+", "-": "-", "-\n-": "-\n-"}
    text = "\n" + text if split == "blank-line" else text
    assert found == [part.strip("\n") for part in re.split(kinds[split], text) if part.strip()]


def test_file_keeps_every_character_and_only_the_last_segment_ends_it() -> None:
    blocks = ["one\n", "", "two\n", "\n"]
    assert list(split_documents(blocks, "file")) == [
        Segment("one\n", False),
        Segment("two\n", False),
        Segment("\n", True),
    ]


@pytest.mark.parametrize("split", ["line", "blank-line", "<end>"])
@pytest.mark.parametrize("character", ["x", " ", "\n"])
def test_endless_documents_come_in_small_segments(split: str, character: str) -> None:
    block = character * 10_000
    longest = max(len(segment.text) for segment in split_documents(["start", *[block] * 100, "end"], split))
    limit = 1_100_000 if (split, character) == ("<end>", "\n") else 200_000
    assert longest <= limit
