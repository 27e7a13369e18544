from __future__ import annotations

import pytest

from tests.text.samples import CHINESE, JAPANESE, KOREAN, RUSSIAN
from textgen.text.scripts import script_of, script_shares


@pytest.mark.parametrize(
    ("character", "script"),
    [
        ("a", "Latin"),
        ("É", "Latin"),
        ("Ａ", "Latin"),
        ("я", "Cyrillic"),
        ("中", "Han"),
        ("豈", "Han"),
        ("々", "Han"),
        ("か", "Hiragana"),
        ("ｶ", "Katakana"),
        ("한", "Hangul"),
        ("ب", "Arabic"),
        ("א", "Hebrew"),
        ("ह", "Devanagari"),
        ("ไ", "Thai"),
        ("𐎠", "Old Persian"),
        ("ᐁ", "Canadian Aboriginal"),
        ("1", None),
        (" ", None),
        ("。", None),
        ("😀", None),
        ("µ", None),
        ("𝐀", None),
        ("\ud800", None),
        ("\U000e0fff", None),
    ],
)
def test_letters_have_a_script(character: str, script: str | None) -> None:
    assert script_of(character) == script


def test_shares_of_a_text_are_largest_first() -> None:
    assert script_shares(["aaя", "1 я!", "a"]) == (("Latin", 0.6), ("Cyrillic", 0.4))
    assert script_shares([RUSSIAN]) == (("Cyrillic", 1.0),)
    assert script_shares([CHINESE])[0] == ("Han", 1.0)
    assert script_shares([KOREAN])[0] == ("Hangul", 1.0)
    assert {script for script, _ in script_shares([JAPANESE])} == {"Hiragana", "Katakana", "Han"}
    assert script_shares(["12 …", ""]) == ()
