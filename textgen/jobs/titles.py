"""What people call their runs and models: titles that can be read, and told apart where they stand side by side."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from itertools import count

from textgen.errors import InvalidSetting

# Controls, halves of surrogate pairs, separators of lines, and formats such as those that turn the direction of what
# follows. Two formats belong to words and emoji: they join or part letters.
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"


def checked_title(title: str, max_chars: int) -> str:
    """A title that somebody gives, in one line; `InvalidSetting` for one of no or too many or of unseen characters."""
    title = " ".join(title.split())
    if not 1 <= len(title) <= max_chars:
        raise InvalidSetting("title", title, f"1 to {max_chars} characters")
    unseen = next((character for character in title if _is_unseen(character)), None)
    if unseen is not None:
        raise InvalidSetting("title", f"U+{ord(unseen):04X}", "characters that are seen")
    return title


def tidy_title(name: str, max_chars: int, *, otherwise: str) -> str:
    """The name of a file or the like as a title; `otherwise` where nothing of it can be seen."""
    seen = "".join(character for character in " ".join(name.split()) if not _is_unseen(character))
    return seen.strip(f" {_JOINERS}")[:max_chars].strip() or otherwise


def is_taken(title: str, others: Iterable[str]) -> bool:
    """Whether one of the others looks like this title."""
    return _looks(title) in map(_looks, others)


def free_title(title: str, others: Iterable[str], max_chars: int) -> str:
    """The title, with a number behind it where one of the others looks like it."""
    taken = {_looks(other) for other in others}
    if _looks(title) not in taken:
        return title
    numbers = (f" ({number})" for number in count(2))
    numbered = (title[: max_chars - len(number)] + number for number in numbers)
    return next(candidate for candidate in numbered if _looks(candidate) not in taken)


def _is_unseen(character: str) -> bool:
    return unicodedata.category(character) in _UNSEEN and character not in _JOINERS


def _looks(title: str) -> str:
    """The same for titles that look much the same."""
    folded = unicodedata.normalize("NFKC", title).casefold()
    return "".join(character for character in folded if unicodedata.category(character) != "Cf")
