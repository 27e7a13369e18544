"""Joining what was one line before it was wrapped."""

from __future__ import annotations

import unicodedata

_HYPHENS = ("-", "\u2010", "\u00ad")


def is_wide(character: str) -> bool:
    """Whether it is written without spaces between words: Chinese and Japanese, not Korean."""
    return unicodedata.east_asian_width(character) in "WF" and not "\uac00" <= character <= "\ud7a3"


def join_wrapped(line: str, following: str) -> str:
    """The two as one line: with a space, unless both sides are Chinese or Japanese or a word was divided."""
    if not line or not following:
        return line + following
    if is_wide(line[-1]) and is_wide(following[0]):
        return line + following
    if line.endswith(_HYPHENS) and line[-2:-1].isalpha() and following[0].islower():
        return line[:-1] + following
    return f"{line} {following}"
