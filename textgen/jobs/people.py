"""Whose runs are whose."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Person:
    """Whose runs may be seen and touched: those with this key as their owner, or all for an administrator."""

    key: str
    is_admin: bool = False

    def owns(self, owner: str) -> bool:
        return self.is_admin or self.key == owner


# On one's own machine everything is one's own.
EVERYBODY = Person("", is_admin=True)
