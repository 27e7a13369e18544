"""Which scripts a text is written in, told from the names of its characters in the Unicode Character Database."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache

_BY_FIRST_WORDS = (
    ("CJK ", "Han"),
    ("KANGXI ", "Han"),
    ("IDEOGRAPHIC ", "Han"),
    ("OLD ", "Old"),
    ("CANADIAN SYLLABICS", "Canadian Aboriginal"),
    ("MEETEI MAYEK", "Meetei Mayek"),
    ("TAI LE", "Tai Le"),
    ("NEW TAI LUE", "New Tai Lue"),
    ("TAI THAM", "Tai Tham"),
    ("TAI VIET", "Tai Viet"),
    ("OL CHIKI", "Ol Chiki"),
    ("SYLOTI NAGRI", "Syloti Nagri"),
    ("EGYPTIAN HIEROGLYPH", "Egyptian Hieroglyphs"),
)
_NO_ASCII_LETTERS = bytes(code for code in range(128) if not chr(code).isalpha())
_WIDTHS = ("FULLWIDTH ", "HALFWIDTH ")
# Letters that texts of every script use.
_COMMON = frozenset(
    {"MODIFIER", "MATHEMATICAL", "FEMININE", "MASCULINE", "MICRO", "DOUBLE-STRUCK", "SCRIPT", "BLACK-LETTER"}
)


@lru_cache(maxsize=1 << 16)
def script_of(character: str) -> str | None:
    """The script of a letter, such as "Latin", "Han" or "Cyrillic"; None for what is no letter or belongs to all."""
    if not character.isalpha():
        return None
    name = unicodedata.name(character, "")
    for width in _WIDTHS:
        name = name.removeprefix(width)
    for beginning, script in _BY_FIRST_WORDS:
        if name.startswith(beginning):
            return " ".join(name.split(" ", 2)[:2]).title() if script == "Old" else script
    first = name.partition(" ")[0]
    return None if not first or first in _COMMON else first.title()


def script_counts(characters: Mapping[str, int]) -> Counter[str]:
    """Letters by script, given how often each character occurs."""
    counts: Counter[str] = Counter()
    for character, count in characters.items():
        script = script_of(character)
        if script is not None:
            counts[script] += count
    return counts


class ScriptCounter:
    """Counts the letters of a text by script as it passes by."""

    def __init__(self) -> None:
        self._characters: Counter[str] = Counter()
        self._ascii_letters = 0

    def add(self, text: str) -> None:
        """Counts the next part."""
        if text.isascii():
            self._ascii_letters += len(text.encode().translate(None, _NO_ASCII_LETTERS))
        else:
            self._characters.update(text)

    def shares(self) -> tuple[tuple[str, float], ...]:
        """Shares of all letters so far by script, largest first; of equal ones by name."""
        counts = script_counts(self._characters)
        counts["Latin"] += self._ascii_letters
        total = counts.total()
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return tuple((name, count / total) for name, count in ordered if count)


def script_shares(texts: Iterable[str]) -> tuple[tuple[str, float], ...]:
    """Shares of the letters of `texts` by script, largest first."""
    counter = ScriptCounter()
    for text in texts:
        counter.add(text)
    return counter.shares()
