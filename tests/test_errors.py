from __future__ import annotations

import pytest

from textgen.errors import InvalidSetting


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("many", "many"),
        (7, "7"),
        (None, "None"),
        ("", "''"),
        ("two\nlines", r"'two\nlines'"),
        ("\ud800", r"'\ud800'"),
        ("/a/long/" + "x" * 200 + "/name.txt", "/a/long/" + "x" * 22 + "…" + "x" * 21 + "/name.txt"),
    ],
)
def test_what_was_given_is_shown_in_one_short_line(given: object, shown: str) -> None:
    assert str(InvalidSetting("field", given, "else")) == f"field: {shown} was given; allowed: else."
