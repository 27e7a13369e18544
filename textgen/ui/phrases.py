"""The phrases that errors of ours are put together of, said in another language than English."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property

_PLACEHOLDER = re.compile(r"\{(\*?)(\w+)\}")
# Placeholders that stand for lists, whose items are told one by one.
_LISTS = {"states": r"(?:\w+, )*\w+", "choices": r".+"}


class Phrases:
    """A language's phrases by the English ones.

    `{name}` in an English one stands for anything without a space, `{*name}` for anything, `{choices}` and `{states}`
    for lists with commas or "or". Where several fit, the first does. `separator` stands between the items of a list,
    and `state_names` are the names of a run's states.
    """

    def __init__(self, table: Mapping[str, str], separator: str, state_names: Mapping[str, str]) -> None:
        self._table = table
        self._separator = separator
        self._state_names = state_names

    def say(self, english: str) -> str:
        """The same in this language; names, numbers and what nobody has foreseen stay as they are."""
        if english in self._table:
            return self._table[english]
        for pattern, phrase in self._patterns:
            if found := pattern.fullmatch(english):
                return phrase.format(**{name: self._value(name, told) for name, told in found.groupdict().items()})
        return english

    @cached_property
    def _patterns(self) -> list[tuple[re.Pattern[str], str]]:
        return [(_pattern(english), phrase) for english, phrase in self._table.items() if "{" in english]

    def _value(self, name: str, told: str) -> str:
        if name not in _LISTS:
            return told
        items = re.split(r" or |, ", told)
        return self._separator.join(self._state_names.get(item, item) if name == "states" else item for item in items)


def placeholders(english: str) -> list[str]:
    """The names of a phrase's placeholders."""
    return [name for _, name in _PLACEHOLDER.findall(english)]


def _pattern(english: str) -> re.Pattern[str]:
    whole, end = "", 0
    for found in _PLACEHOLDER.finditer(english):
        star, name = found.groups()
        value = _LISTS.get(name, r".+" if star else r"\S+")
        whole += f"{re.escape(english[end : found.start()])}(?P<{name}>{value})"
        end = found.end()
    return re.compile(whole + re.escape(english[end:]))
